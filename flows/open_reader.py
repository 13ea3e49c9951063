"""Which reader of features the settings mean: that of task state, or that of Redis beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.settings import Settings

if TYPE_CHECKING:
    from flows.answers import EntityReader


def open_reader(settings: Settings) -> EntityReader:
    """Open a reader. It is for one thread at a time.

    Raises
    ------
    OtherFingerprintError
        What is there was made under other features or settings.
    TidemarkError
        There is nothing to read, or it can't be read.
    """
    # Not before it is needed: `feast apply` and `feast ui` need no state, and shall start without what reads it.
    if settings.online is not None:
        from flows.online.reader import RedisReader

        return RedisReader(settings)
    from flows.reading import FeatureReader

    return FeatureReader(settings)
