"""The logs of a data directory → what moves in a period. Each log is read once, stretch by stretch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from flows.errors import DataDirectoryError
from flows.examples.record import EXAMPLES
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS, DEADLETTERS, LATE, SERVED
from flows.settings import Settings
from flows.trends.actions import LETTERS, Actions, Outputs
from flows.trends.coverage import Coverage
from flows.trends.labels import Labels
from flows.trends.sums import Counting, Period, Sums
from flows.trends.values import Series, Trends

Source = Actions | Outputs | Coverage | Labels
OTHERS = (LATE, DEADLETTERS, SERVED, EXAMPLES)
"""What there may be beside ACTIONS."""


@dataclass(frozen=True)
class Progress:
    """Called as reading goes on.

    Attributes
    ----------
    total : callable
        A log's name, and how many offsets of it there are to read.
    read : callable
        A log's name, and how many were just read.
    """

    total: Callable[[str, int], None] = lambda log, offsets: None
    read: Callable[[str, int], None] = lambda log, offsets: None


def sources(settings: Settings, counting: Mapping[str, Counting], ends: ExitStack, topic_ms: int | None = None) -> dict[str, Source]:
    """What counts each log that there is, by its name.

    Parameters
    ----------
    counting : mapping of str to Counting
        By the names of logs that there are.
    ends : ExitStack
        Closes the logs.
    topic_ms : int, optional
        As of `Labels`.
    """
    found: dict[str, Source] = {}
    for name in counting:
        log = ends.enter_context(open_log(settings, name, read_only=True))
        if name == ACTIONS:
            found[name] = Actions(settings, settings.load_vocabulary(), log, counting[name])
        elif name == SERVED:
            found[name] = Coverage(log, counting[name])
        elif name == EXAMPLES:
            found[name] = Labels(log, counting[name], topic_ms)
        else:
            found[name] = Outputs(log, counting[name], reasons=name == DEADLETTERS)
    return found


EVERYTHING, QUIET = Counting(), Progress()


def nothing_there(settings: Settings) -> DataDirectoryError:
    """That there is no log ACTIONS."""
    return DataDirectoryError(
        f"there is nothing to report of {settings.data}: there is no log '{ACTIONS}' in {settings.logs}; `tidemark ingest` makes one"
    )


def gather(settings: Settings, counting: Counting = EVERYTHING, progress: Progress = QUIET) -> Trends:
    """Count a period.

    Parameters
    ----------
    counting : Counting
    progress : Progress

    Raises
    ------
    DataDirectoryError
        There is no log ACTIONS.
    CorruptionError
        A log has lost records, or holds what it should not.
    InputError
        The period has too many stretches of the width that was asked for.
    """
    if not log_exists(settings, ACTIONS):
        raise nothing_there(settings)
    there = [ACTIONS, *(name for name in OTHERS if log_exists(settings, name))]
    with ExitStack() as ends:
        found = sources(settings, dict.fromkeys(there, counting), ends)
        for name, source in found.items():
            progress.total(name, source.to_read)
        for name, source in found.items():
            source.read(lambda records, name=name: progress.read(name, records))  # type: ignore[misc]
        size = max(source.sums.size_ms for source in found.values())
        for source in found.values():
            source.sums.coarsen(size)
        return _trends(settings, counting, found, size)


def _trends(settings: Settings, counting: Counting, found: Mapping[str, Source], size: int) -> Trends:
    given = counting.reference is not None
    reference = counting.reference if counting.reference is not None else _first_half([one.sums for one in found.values()], size)

    def series(name: str, columns: int) -> Series:
        sums = found[name].sums if name in found else Sums(columns, counting)
        return Series.of(sums, reference, given)

    labels = found.get(EXAMPLES)
    topics = labels.topics() if isinstance(labels, Labels) else {}
    return Trends(
        period=counting.period,
        reference=reference,
        size_ms=size,
        names=settings.load_vocabulary().action_names(),
        actions=series(ACTIONS, 0),
        late=series(LATE, 1),
        dead=series(DEADLETTERS, len(LETTERS)),
        coverage=series(SERVED, 0) if SERVED in found else None,
        labels=series(EXAMPLES, 0) if labels is not None else None,
        topics=dict(sorted(topics.items(), key=lambda item: (-int(item[1].sum()), item[0]))),
    )


def _first_half(sums: list[Sums], size: int) -> Period | None:
    """From the first stretch of all logs to the middle of what they reach over; None where there are not two."""
    starts = np.unique(np.concatenate([one.starts for one in sums]))
    if len(starts) < 2:
        return None
    first, last = int(starts[0]), int(starts[-1])
    return Period(first, first + ((last - first) // size + 1) // 2 * size)
