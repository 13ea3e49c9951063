"""Which reader of features the settings mean: that of task state, or that of Redis beside it."""

from __future__ import annotations

from flows.answers import EntityReader
from flows.settings import Settings


def open_reader(settings: Settings) -> EntityReader:
    """Open a reader. It is for one thread at a time.

    Raises
    ------
    OtherFingerprintError
        What is there was made under other features or settings.
    TidemarkError
        There is nothing to read, or it can't be read.
    """
    # Not before it is needed: who reads the one needs nothing of the other.
    if settings.online is not None:
        from flows.online.reader import RedisReader

        return RedisReader(settings)
    from flows.reading import FeatureReader

    return FeatureReader(settings)
