"""What is learned from: final rows as columns, split in time by when their labels became known. Provisional rows never get in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from flows.errors import FingerprintError, InputError, SettingsError
from flows.examples.record import HEADS, MASKED, Kind
from flows.examples.rows import ExampleRows
from online_model.model.columns import ExampleColumns
from online_model.model.config import REVISIT
from online_model.model.served_vectors import ServedVectors

DAY_MS = 24 * 3_600_000


@dataclass(frozen=True, eq=False)
class TrainingExamples:
    """n final examples, in the order in which they were given.

    Attributes
    ----------
    columns : ExampleColumns
    labels : int8[n, 5]
        In the order of HEADS.
    seen_at : int64[n]
        When the pin was seen, ms.
    fingerprint : str
        The features' definitions: one for all.
    """

    columns: ExampleColumns
    labels: np.ndarray
    seen_at: np.ndarray
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(
        cls,
        chunks: Iterable[ExampleRows],
        fingerprint: str | None = None,
        several: bool = False,
        vectors: ServedVectors | None = None,
    ) -> Self:
        """The final rows of chunks.

        Parameters
        ----------
        chunks : iterable of ExampleRows
        fingerprint : str, optional
            What the features must have been made under; without it, all rows must agree.
        several : bool
            The caller has made sure that features of other fingerprints mean the same: all are taken as of the one that is given.
        vectors : ServedVectors, optional
            For a model that takes user embeddings.

        Raises
        ------
        InputError
            There is no final row, or one holds what can't be.
        FingerprintError
            Features were made under other definitions, or it isn't known under which.
        """
        labels, seen_at = [np.empty((0, len(HEADS)), np.int8)], [np.empty(0, np.int64)]
        fingerprints: set[str | None] = set()

        def final() -> Iterator[ExampleRows]:
            for chunk in chunks:
                rows = chunk.take(chunk.kind == Kind.FINAL)
                if ((rows.labels < -1) | (rows.labels > 1)).any():
                    wrong = rows.labels[(rows.labels < -1) | (rows.labels > 1)][0]
                    raise InputError(f"training: a label is {wrong}; labels are 0, 1 and -1, make the examples anew")
                labels.append(rows.labels)
                seen_at.append(rows.impression_time)
                fingerprints.update(rows.fingerprints[code] if code >= 0 else None for code in np.unique(rows.fingerprint).tolist())
                yield rows

        # One chunk after another, so that no more than one is held as rows.
        columns = ExampleColumns.of(final(), vectors)
        if not len(columns):
            raise InputError(
                "training: the window holds no final example; widen it, or wait until labels have matured (30 minutes, saves a week)"
            )
        found = fingerprint if several and fingerprint is not None else _one_of(fingerprints)
        if fingerprint is not None and found != fingerprint:
            raise FingerprintError(
                f"training: the examples' features were made under fingerprint {found}, not {fingerprint}; "
                "train on examples that were served under today's definitions"
            )
        return cls(columns, np.concatenate(labels), np.concatenate(seen_at), found)

    def digest(self) -> str:
        """Hex digest of all that is learned from: a training goes on only with the same."""
        hashed = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        for array in (self.labels, self.seen_at, *(getattr(self.columns, field.name) for field in fields(self.columns))):
            hashed.update(np.ascontiguousarray(array).data)
        return hashed.hexdigest()

    def sightings(self) -> np.ndarray:
        """Which examples say that a pin was seen, bool[n]: not those that add what became of a save a week later."""
        return self.saying(REVISIT)

    def saying(self, heads: int) -> np.ndarray:
        """Which examples say anything of the first so many heads: bool[n]."""
        return np.asarray((self.labels[:, :heads] != MASKED).any(1))

    def negative(self) -> np.ndarray:
        """Which examples are known to be negative on every head: bool[n]."""
        return np.asarray((self.labels == 0).all(1))


def _one_of(fingerprints: set[str | None]) -> str:
    named = sorted(name for name in fingerprints if name is not None)
    if None in fingerprints:
        raise FingerprintError("training: of some examples it isn't known under which definitions their features were made; leave them out")
    if len(named) > 1:
        raise FingerprintError(f"training: features were made under several fingerprints ({', '.join(named)}); begin after the change")
    return named[0]


@dataclass(frozen=True)
class Spans:
    """A window's days: to train on, to calibrate on, to evaluate on, in this order (the paper's: 27, 1, 3).

    Raises
    ------
    SettingsError
        A number of days can't be.
    """

    train_days: float = 27
    calibration_days: float = 1
    evaluation_days: float = 3

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) < 100_000:
                raise SettingsError(f"training: {field.name} must be 0 or more, not {getattr(self, field.name)!r}")

    def split(self, ready_time: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which rows belong to which span, bool[n] each, by when they became known; those after `end`, and before the first day, to none.

        Parameters
        ----------
        ready_time : int64[n]
            ms.
        end : int
            Where the last span ends, ms; it is no part of it.
        """
        days = (self.train_days, self.calibration_days, self.evaluation_days)
        evaluation = end - round(days[2] * DAY_MS)
        calibration = evaluation - round(days[1] * DAY_MS)
        train = calibration - round(days[0] * DAY_MS)

        def within(first: int, until: int) -> np.ndarray:
            return (ready_time >= first) & (ready_time < until)

        return within(train, calibration), within(calibration, evaluation), within(evaluation, end)
