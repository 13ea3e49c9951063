"""Examples of several fingerprints in one window: taken where each column still means the same by its name, and noted.

A fingerprint covers the names of all features, what they mean, the vocabulary, and the settings of time. Which of these has changed it doesn't say:
a record of other columns can't be read at all, another vocabulary is known by a base that was trained under it, or by a code that has no name now.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

import numpy as np

from flows.errors import FingerprintError, TidemarkError
from flows.examples.record import EXAMPLES
from flows.examples.rows import ExampleRows
from flows.examples.store import Fingerprints
from flows.vocabulary import Vocabulary
from online_model.registry.registry import Registry


class AnyFingerprint(Fingerprints):
    """Takes rows of whatever fingerprint, as long as their columns mean what they mean now.

    Parameters
    ----------
    vocabulary : Vocabulary
    under : mapping of str to str
        The vocabulary's fingerprint that features of a fingerprint are known to have been made under.

    Attributes
    ----------
    taken : set of str
        Fingerprints of the rows that were seen.
    """

    def __init__(self, vocabulary: Vocabulary, under: Mapping[str, str]) -> None:
        super().__init__(None)
        self._vocabulary, self._under, self.taken = vocabulary, under, set[str]()
        self._actions, self._surfaces = set(vocabulary.actions.values()), set(vocabulary.surfaces.values())

    def check(self, rows: ExampleRows, partition: int) -> None:
        """Look at some rows.

        Raises
        ------
        FingerprintError
        """
        if not len(rows):
            return
        for code in np.unique(rows.fingerprint).tolist():
            if code < 0:
                raise FingerprintError(
                    f"{_where(partition)} doesn't say under which features it was made: nobody can tell what its columns mean"
                )
            found = rows.fingerprints[code]
            if (was := self._under.get(found)) is not None and was != self._vocabulary.fingerprint():
                raise FingerprintError(
                    f"{_where(partition)} was made under fingerprint {found}, with another vocabulary ({was}, now {self._vocabulary.fingerprint()}): "
                    "its codes mean something else; begin after the change (--from)"
                )
            self.taken.add(found)
        for what, codes, known in (
            ("action", rows.users.sequence["action"], self._actions),
            ("surface", rows.users.sequence["surface"], self._surfaces),
            ("surface", rows.surface[rows.surface >= 0], self._surfaces),
        ):
            if strange := _strange(codes, known):
                raise FingerprintError(
                    f"{_where(partition)} has {what} {strange[0]}, which the vocabulary doesn't name now: it was made with another one; put that "
                    "back, or begin after the change (--from)"
                )


def known_vocabularies(registry: Registry) -> dict[str, str]:
    """What manifests of bases say: under which vocabulary features of a fingerprint were made."""
    found: dict[str, str] = {}
    for number in registry.bases.numbers():
        with suppress(TidemarkError):
            about = registry.bases.opened(number).manifest.about
            found[about.feature_fingerprint] = about.vocabulary_fingerprint
    return found


def _strange(codes: np.ndarray, known: Collection[int]) -> list[int]:
    return [code for code in np.unique(codes).tolist() if code not in known]


def _where(partition: int) -> str:
    return f"log '{EXAMPLES}', partition {partition}: an example"
