"""The embedding versions that are served, followed: of each, users, pins and index as one value, newer ones in its place as they are put there.

What can't be read leaves the last good one in place, and is told. Whoever has taken a value keeps it, whole, however long they need it.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from feature_repo.embedding_table import EMBEDDINGS, served_version
from flows.errors import TidemarkError
from flows.settings import Settings

if TYPE_CHECKING:
    # Not before a version is there: not everybody has an index library.
    from online_model.embedding.retrieval import Retriever

_log = logging.getLogger(__name__)

# Of what can't be read: a look may read a whole table.
_PAUSE_S = 5.0


class Embeddings:
    """See the module; used by one thread, but for its attributes, which anybody may read.

    Parameters
    ----------
    settings : Settings

    Attributes
    ----------
    own : Retriever or None
        Of the version that is served; of a ranker that takes another one, `of` has it.
    trouble : TidemarkError or None
        Why it is not as new as it should be, or not there.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._versions: dict[int, _Version] = {}
        self.own: Retriever | None = None
        self.trouble: TidemarkError | None = None

    def look(self, taken: set[int]) -> None:
        """Take what is new; never raises what is wrong with it.

        Parameters
        ----------
        taken : set of int
            Versions that rankers take; others but the own one are let go of.
        """
        trouble: TidemarkError | None = None
        try:
            own = served_version(self._settings.data) if (self._settings.data / EMBEDDINGS).is_dir() else None
            self._versions = {version: held for version, held in self._versions.items() if version in taken or version == own}
            self.own = None if own is None else self.of(own)
        except Exception as error:
            trouble = _told(error)
        trouble = trouble or next((held.trouble for held in self._versions.values() if held.trouble is not None), None)
        if trouble is not None and str(trouble) != str(self.trouble):
            _log.warning("embeddings: %s", trouble)
        self.trouble = trouble

    def of(self, version: int) -> Retriever:
        """The newest of a version that is sound, or the last good one.

        Raises
        ------
        TidemarkError
            There is none, and there was none since it is followed.
        """
        held = self._versions.setdefault(version, _Version())
        held.look(self._settings, version)
        if held.retriever is None:
            assert held.trouble is not None
            raise held.trouble
        return held.retriever


class _Version:
    """What is held of a version, and whatever keeps it from being newer."""

    def __init__(self) -> None:
        self.retriever: Retriever | None = None
        self.trouble: TidemarkError | None = None
        self._seen: tuple[int, int] | None = None
        self._again_at = 0.0

    def look(self, settings: Settings, version: int) -> None:
        from online_model.embedding.retrieval import newest, open_retriever

        now = newest(settings, version)
        if now == self._seen and (self.trouble is None or time.monotonic() < self._again_at):
            return
        try:
            self.retriever, self.trouble = open_retriever(settings, version, self.retriever), None
        except Exception as error:
            self.trouble, self._again_at = _told(error), time.monotonic() + _PAUSE_S
        self._seen = now


def _told(error: Exception) -> TidemarkError:
    if isinstance(error, TidemarkError):
        return error
    _log.error("user embeddings can't be followed, for a reason that nobody has foreseen", exc_info=error)
    return TidemarkError(f"user embeddings can't be followed: {type(error).__name__}; see what the server has written")
