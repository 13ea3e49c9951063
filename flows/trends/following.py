"""Round after round over logs that go on: the last day of each, held against the week before it.

What is known is a function of the logs up to where a round has read, not of when rounds came: the last day ends with the newest hour that a log
holds a record of, heartbeats too. Hours are counted once and added up, so a round reads what has come since the last one, and memory holds eight days
of sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from flows.corrections.history import History
from flows.examples.record import EXAMPLES
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS, SERVED
from flows.settings import DAY_MS, HOUR_MS, Settings
from flows.trends.actions import CODES
from flows.trends.gathering import Source, nothing_there, sources
from flows.trends.labels import Labels
from flows.trends.reading import last_time
from flows.trends.sums import Counting, Period, Sums
from flows.trends.values import drift

NOW_MS = DAY_MS
REFERENCE_MS = 7 * DAY_MS
# Late records and dead letters are counted by flows themselves.
_LOGS = (ACTIONS, SERVED, EXAMPLES)


@dataclass(frozen=True, eq=False)
class Window:
    """The last day of a log, and the week before it.

    Attributes
    ----------
    until : int
        Where the last hour ends, ms.
    now, reference : int64[columns]
    """

    until: int
    now: np.ndarray
    reference: np.ndarray


@dataclass(frozen=True, eq=False)
class Round:
    """What one round found.

    Attributes
    ----------
    windows : mapping of str to Window
        By log, those that hold anything.
    topics : mapping of str to int64[COLUMNS]
        Labels of the last day by topic.
    names : mapping of int to str
        Of actions, by code.
    """

    windows: Mapping[str, Window]
    topics: Mapping[str, np.ndarray]
    names: Mapping[int, str]

    @property
    def psi(self) -> float:
        """Of actions, the last day against the week before; NaN where either holds too few records."""
        window = self.windows.get(ACTIONS)
        return float("nan") if window is None else drift(window.reference[:CODES], window.now[:CODES])


def window_of(sums: Sums, latest: int | None, at: int) -> Window | None:
    """Of the sums of one log by hour; forgets hours that no later window needs.

    Parameters
    ----------
    latest : int or None
        Time of the log's last records up to now, ms, whether they count or only say that time has gone on.
    at : int
        Now, ms. Hours that begin later are left out until they have come: one clock that is ahead must not end the window of all.
    """
    starts = sums.starts
    hours = np.append(starts, latest // HOUR_MS * HOUR_MS) if latest is not None else starts
    hours = hours[hours <= at]
    if not len(hours):
        return None
    until = int(hours.max()) + HOUR_MS
    middle, first = until - NOW_MS, until - NOW_MS - REFERENCE_MS
    sums.drop_before(first)
    return Window(until, sums.total(middle, until), sums.total(first, middle))


class Following:
    """Reads on from round to round.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names = settings.load_vocabulary().action_names()
        self._sources: dict[str, Source] = {}
        self._ends = ExitStack()
        self._generation = 0

    def close(self) -> None:
        """Let go of the logs."""
        self._ends.close()
        self._sources = {}

    def round(self, at: int) -> Round:
        """Read what has come, and say where things stand.

        Parameters
        ----------
        at : int
            Now, ms; as of `window_of`.

        Raises
        ------
        TidemarkError
            A log can't be read. The next round begins anew.
        """
        try:
            self._look_around(at)
            for source in self._sources.values():
                source.read()
            return self._found(at)
        except BaseException:
            # What was read in part may not be counted twice.
            self.close()
            raise

    def _look_around(self, at: int) -> None:
        """Begin anew where a correction changes what was counted, or a log has come."""
        generation = max((history.generation for history in History.every(self._settings)), default=0)
        there = {name for name in _LOGS if log_exists(self._settings, name)}
        if ACTIONS not in there:
            raise nothing_there(self._settings)
        if (generation, there) == (self._generation, set(self._sources)):
            return
        self.close()
        self._ends, self._generation = ExitStack(), generation
        counting = {name: Counting(Period(self._begin(name, at)), size_ms=HOUR_MS) for name in there}
        self._sources = sources(self._settings, counting, self._ends, topic_ms=HOUR_MS)

    def _begin(self, name: str, at: int) -> int | None:
        with open_log(self._settings, name, read_only=True) as log:
            last = last_time(log, at)
        # The newest hour that counts is that of the last record, or a later one.
        return None if last is None else (last // HOUR_MS + 1) * HOUR_MS - NOW_MS - REFERENCE_MS

    def _found(self, at: int) -> Round:
        windows = {
            name: window
            for name, source in self._sources.items()
            if (window := window_of(source.sums, last_time(source.log, at), at)) is not None
        }
        topics: Mapping[str, np.ndarray] = {}
        labels = self._sources.get(EXAMPLES)
        if isinstance(labels, Labels) and EXAMPLES in windows:
            until = windows[EXAMPLES].until
            labels.drop_before(until - NOW_MS)
            topics = labels.topics(Period(until - NOW_MS, until))
        return Round(windows, topics, self._names)
