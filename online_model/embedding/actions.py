"""The actions of users, out of the ACTIONS log: accepted engagements alone, as the stream's own judge accepts them, corrections applied.

So duplicates, late and malformed records count for an embedding no more than for a feature. What is read is a function of a prefix of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flows.corrections.history import History
from flows.errors import CorruptionError, SettingsError
from flows.kernels.layout import ACCEPTED
from flows.kernels.reads import SEQUENCE_COLUMNS
from flows.log import Log, read_before
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.settings import Settings
from flows.state.actions_task import Judge
from online_model.embedding.sequences import UserSequences, sequences_of

_USER, _TIME, _CODES, _PIN, _DURATION = (
    SEQUENCE_COLUMNS.index(name) for name in ("user_id", "event_time", "codes", "pin_id", "duration_ms")
)
_BYTE = 0xFF


@dataclass(frozen=True)
class LogPrefix:
    """Which prefix of the logs something reflects.

    Attributes
    ----------
    actions : tuple of int
        The next offset of each partition of ACTIONS.
    corrected_to : tuple of int
        The newest correction of each that counts.
    """

    actions: tuple[int, ...]
    corrected_to: tuple[int, ...]

    @classmethod
    def now(cls, settings: Settings) -> LogPrefix:
        """All that the logs have."""
        with open_log(settings, ACTIONS, read_only=True) as log:
            return cls(tuple(log.end_positions()), tuple(history.generation for history in History.every(settings)))

    def beyond(self, other: LogPrefix) -> bool:
        """Whether it has a record or a correction that another prefix lacks: of the same log, that one has been restored to before it."""
        pairs = ((self.actions, other.actions), (self.corrected_to, other.corrected_to))
        return any(mine > its for ours, theirs in pairs for mine, its in zip(ours, theirs, strict=False))


def read_actions(
    settings: Settings,
    *,
    until: LogPrefix | None = None,
    since: Sequence[int] | None = None,
    users: np.ndarray | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> UserSequences:
    """All actions of users but impressions.

    Parameters
    ----------
    settings : Settings
    until : LogPrefix, optional
        What is read; without it, all that there is.
    since : sequence of int, optional
        A position of each partition: only users of whom a record there or behind was accepted, an impression too; of these, everything.
    users : int64[n], optional
        Only these.
    progress : callable
        Told records read, and how many there are.

    Raises
    ------
    DataDirectoryError
        There is no such log.
    CorruptionError, RetentionError
        It can't be read whole.
    SettingsError
        `until` or `since` has another number of partitions.
    """
    vocabulary = settings.load_vocabulary()
    until = LogPrefix.now(settings) if until is None else until
    for name, positions in (("until", until.actions), ("since", since)):
        if positions is not None and len(positions) != settings.partitions:
            raise SettingsError(f"'{name}' has {len(positions)} positions; the log has {settings.partitions} partitions")
    parts, read, total = [np.empty((0, len(SEQUENCE_COLUMNS)), np.int64)], 0, sum(until.actions)

    def advance(records: int) -> None:
        nonlocal read
        read += records
        progress(read, total)

    with open_log(settings, ACTIONS, read_only=True) as log:
        for partition, end in enumerate(until.actions):
            judge = Judge(settings, vocabulary, partition, corrected_to=until.corrected_to[partition])
            begin = since[partition] if since is not None else None
            parts.append(_partition(log, judge, partition, end, begin, users, settings.batch_records, advance))
    rows = np.concatenate(parts)
    codes = rows[:, _CODES]
    names = (vocabulary.actions, vocabulary.surfaces)
    return sequences_of(rows[:, _USER], rows[:, _PIN], codes & _BYTE, codes >> 8 & _BYTE, rows[:, _DURATION], rows[:, _TIME], *names)


def _partition(
    log: Log, judge: Judge, partition: int, end: int, since: int | None, users: np.ndarray | None, most: int, advance: Callable[[int], None]
) -> np.ndarray:
    """Rows of one partition, in the order of the log."""
    rows, touched, at = [np.empty((0, len(SEQUENCE_COLUMNS)), np.int64)], [np.empty(0, np.int64)], 0
    while at < end:
        batches = read_before(log, end, partition, at, most)
        if not batches:
            raise CorruptionError(f"log '{ACTIONS}', partition {partition}: records from offset {at} on are missing; restore the log")
        done = judge.judge(batches)
        found = done.sequence_rows(judge.impression)
        rows.append(found if users is None else found[np.isin(found[:, _USER], users)])
        if since is not None:
            behind = (done.judged.status == ACCEPTED) & (done.offsets >= since)
            touched.append(np.unique(done.columns.user_id[behind]))
        advance(batches[-1].end_offset - at)
        at = batches[-1].end_offset
    all_rows = np.concatenate(rows)
    return all_rows if since is None else all_rows[np.isin(all_rows[:, _USER], np.concatenate(touched))]
