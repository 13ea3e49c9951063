"""A data directory → the numbers of its report.

Labels come from task state, as they are served. What state doesn't keep (which day an action was on, how late a record came, every click of a
save) comes from one pass of the same kernel over the log, up to the committed positions and no further. Nothing here is estimated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from flows.errors import CorruptionError
from flows.kernels.layout import ACCEPTED, CHANGE_COLUMNS, LABEL_COLUMNS, NEVER
from flows.kernels.rows import fold_sums, sort_rows
from flows.log import Log, read_before
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.reading import FeatureReader
from flows.report.values import AGES, LABELS, Lateness, Report, Throughput, TopicClicks
from flows.settings import DAY_MS, HOUR_MS, Settings
from flows.state.actions_task import Judge
from flows.vocabulary import Vocabulary

_MINUTE_MS = 60_000
# Upper ends of the buckets of lateness; those at or below the allowed lateness hold nothing and are left out.
_LATENESS_ENDS = (
    *(m * _MINUTE_MS for m in (1, 5, 15, 30)),
    *(h * HOUR_MS for h in (1, 2, 4, 8, 24)),
    *(d * DAY_MS for d in (2, 4, 7, 14, 30)),
)
_CODES = 128  # above every action code
# Credit changes as rows that fold: their key, then the weight. A click never changes its pin or its user.
_CLICK_ROW = [CHANGE_COLUMNS.index(name) for name in ("user_id", "pin_id", "time", "kind", "weight")]
_USER, _PIN, _SAVED, _EVENT, _TOPIC, _IMPRESSION, _CLICK = (
    LABEL_COLUMNS.index(name) for name in ("user_id", "pin_id", "save_time", "event_id", "topic", "first_impression", "first_click")
)


def gather(
    reader: FeatureReader,
    as_of: int | None = None,
    *,
    throughput: Throughput | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Read a data directory that the main job has run over.

    Parameters
    ----------
    reader : FeatureReader
    as_of : int, optional
        ms; see docs/semantics.md, Reading. By default the greatest accepted event_time.
    throughput : Throughput, optional
        Handed on: a data directory doesn't know how fast it was made.
    progress : callable, optional
        Called with the number of log records just read.

    Raises
    ------
    CorruptionError
        State and log disagree.
    """
    settings = reader.settings
    newest = reader.default_as_of()
    time = as_of if as_of is not None else newest
    passed, saves = _Pass(settings, reader.vocabulary), _Saves(settings.allowed_lateness_ms)
    if time is not None and newest is not None:
        with open_log(settings, ACTIONS, read_only=True) as log:
            for partition, position in enumerate(reader.positions()[ACTIONS]):
                clicks = passed.read(log, partition, position, time, progress)
                rows, watermark = reader.labels(partition, time)
                saves.add(rows, clicks, watermark)
    actions, days, events = passed.events(reader.vocabulary)
    return Report(
        as_of=time if newest is not None else None,
        allowed_lateness_ms=settings.allowed_lateness_ms,
        partitions=settings.partitions,
        counts=reader.counts(),
        deadletters=_deadletters(reader),
        lateness=passed.lateness(settings.allowed_lateness_ms),
        saves=saves.saves,
        matured=saves.matured,
        labels=dict(zip(LABELS, saves.labels.tolist(), strict=True)),
        clicked_by_day=saves.clicked,
        first_clicked_by_day=saves.first_clicked,
        topics=saves.topics(passed.topics),
        actions=actions,
        days=days,
        events=events,
        throughput=throughput,
    )


def _deadletters(reader: FeatureReader) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for partition in range(reader.settings.partitions):
        meta = reader.meta(ACTIONS, partition)
        for name, n in (meta.counts if meta is not None else {}).items():
            kind, _, reason = name.partition(".")
            if kind == "deadletter" and n:
                found.setdefault(reason, np.zeros(reader.settings.partitions, np.int64))[partition] = n
    return dict(sorted(found.items(), key=lambda item: (-int(item[1].sum()), item[0])))


class _Pass:
    """One pass of the kernel over the log: what no state keeps."""

    def __init__(self, settings: Settings, vocabulary: Vocabulary) -> None:
        self._settings = settings
        self._vocabulary = vocabulary
        self._by_day: dict[int, int] = {}  # day * _CODES + action → records
        self._late = np.zeros(len(_LATENESS_ENDS) + 1, np.int64)
        self.topics: dict[int, str] = {}

    def read(self, log: Log, partition: int, position: int, as_of: int, progress: Callable[[int], None] | None) -> np.ndarray:
        """Judge a partition's first `position` records. Returns the credited clicks up to `as_of`: int64[n, 3] of user, pin, time."""
        judge = Judge(self._settings, self._vocabulary, partition)
        changes = [np.empty((0, len(_CLICK_ROW)), np.int64)]
        at = 0
        while at < position:
            batches = read_before(log, position, partition, at, self._settings.batch_records)
            if not batches:
                raise CorruptionError(
                    f"log '{log.name}', partition {partition}: state is at position {position}, but the log ends at {at}: "
                    "it has lost records; restore the log"
                )
            done = judge.judge(batches)
            columns, judged = done.columns, done.judged
            taken = (judged.status == ACCEPTED) & (columns.event_time <= as_of)
            keys, sizes = np.unique(columns.event_time[taken] // DAY_MS * _CODES + columns.action[taken], return_counts=True)
            for key, size in zip(keys.tolist(), sizes.tolist(), strict=True):
                self._by_day[key] = self._by_day.get(key, 0) + size
            late = judged.lateness[judged.lateness > 0]
            self._late += np.bincount(np.searchsorted(_LATENESS_ENDS, late), minlength=len(self._late))
            rows = judged.changes[:, _CLICK_ROW]
            changes.append(rows[(rows[:, 3] & 1 == 1) & (rows[:, 2] <= as_of)])
            if progress is not None:
                progress(batches[-1].end_offset - at)
            at = batches[-1].end_offset
        self.topics |= judge.decoder.topics
        # What was taken back comes to 0 and vanishes; what is left is credited.
        keys_of_click = len(_CLICK_ROW) - 1
        return fold_sums(sort_rows(np.concatenate(changes), keys_of_click), keys_of_click)[:, :3]

    def events(self, vocabulary: Vocabulary) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
        """Actions, days, and records by day and action."""
        keys = np.array(sorted(self._by_day), np.int64)
        days, codes = np.unique(keys // _CODES), np.unique(keys % _CODES)
        table = np.zeros((len(days), len(codes)), np.int64)
        table[np.searchsorted(days, keys // _CODES), np.searchsorted(codes, keys % _CODES)] = [self._by_day[k] for k in keys.tolist()]
        order = np.argsort(-table.sum(axis=0), kind="stable")
        names = vocabulary.action_names()
        return tuple(names[int(code)] for code in codes[order]), days, table[:, order]

    def lateness(self, allowed_ms: int) -> tuple[Lateness, ...]:
        """Buckets from the allowed lateness to the last one with a record."""
        edges = [end for end in _LATENESS_ENDS if end > allowed_ms]
        counts = self._late[len(_LATENESS_ENDS) - len(edges) :]
        used = int(np.flatnonzero(counts).max(initial=-1)) + 1
        bounds: list[tuple[int, int | None]] = list(zip([allowed_ms, *edges], [*edges, None], strict=True))
        return tuple(Lateness(above, up_to, int(n)) for (above, up_to), n in zip(bounds[:used], counts[:used], strict=True))


@dataclass
class _Saves:
    """Adds up the matured saves of partitions."""

    allowed_lateness_ms: int
    saves: int = 0
    matured: int = 0
    labels: np.ndarray = field(default_factory=lambda: np.zeros(len(LABELS), np.int64))
    clicked: np.ndarray = field(default_factory=lambda: np.zeros(AGES, np.int64))
    first_clicked: np.ndarray = field(default_factory=lambda: np.zeros(AGES, np.int64))
    _topics: dict[int, np.ndarray] = field(default_factory=dict)

    def add(self, rows: np.ndarray, clicks: np.ndarray, watermark: int | None) -> None:
        """Add the label rows of a partition and the clicks credited to them."""
        self.saves += len(rows)
        days = clicked_days(rows, clicks)
        if watermark is None:
            return
        matured = rows[:, _SAVED] + AGES * DAY_MS + self.allowed_lateness_ms <= watermark
        rows, days = rows[matured], days[matured]
        saved, click = rows[:, _SAVED], rows[:, _CLICK]
        has_click = click != NEVER
        self.matured += len(rows)
        self.labels += [int((rows[:, _IMPRESSION] < saved + DAY_MS).sum()), int((click < saved + DAY_MS).sum()), int(has_click.sum())]
        self.clicked += days.sum(axis=0)
        age = np.where(has_click, click - saved, 0) // DAY_MS
        self.first_clicked += np.bincount(age[has_click], minlength=AGES)
        topics, place = np.unique(rows[:, _TOPIC], return_inverse=True)
        weights = (np.ones(len(rows)), has_click, has_click & (age >= 3))
        sums = np.stack([np.bincount(place, w, minlength=len(topics)) for w in weights], axis=1).astype(np.int64)
        for topic, row in zip(topics.tolist(), sums, strict=True):
            self._topics[topic] = self._topics.get(topic, 0) + row

    def topics(self, names: dict[int, str]) -> tuple[TopicClicks, ...]:
        """By name; ID 0 stands for no topic."""
        found = [TopicClicks(names[topic], *row.tolist()) for topic, row in self._topics.items() if topic]
        return tuple(sorted(found, key=lambda t: t.topic))


def clicked_days(saves: np.ndarray, clicks: np.ndarray) -> np.ndarray:
    """On which days after each save it was clicked: bool[n, 7].

    A credited click doesn't say of which save. But of the saves of its user and pin that lie before it, the latest in (event_time, event_id)
    order is the one: that an older save can be credited (within 7 days, still kept) implies that a newer one can.

    Parameters
    ----------
    saves : int64[n, 8]
        Label rows.
    clicks : int64[m, 3]
        user_id, pin_id and time of credited clicks.
    """
    n = len(saves)
    user, pin, time = (np.concatenate([saves[:, i], clicks[:, j]]) for j, i in enumerate((_USER, _PIN, _SAVED)))
    is_save = np.arange(len(user)) < n
    event = np.concatenate([saves[:, _EVENT], np.zeros(len(clicks), np.int64)])
    # A save at the very time of a click is not before it: at equal times clicks come first.
    order = np.lexsort((event, is_save, time, pin, user))
    last = np.maximum.accumulate(np.where(is_save[order], np.arange(len(order)), -1))
    at = np.flatnonzero(~is_save[order])
    click, save = order[at], order[last[at]]
    age = (time[click] - time[save]) // DAY_MS
    if (last[at] < 0).any() or (user[save] != user[click]).any() or (pin[save] != pin[click]).any() or (age >= AGES).any():
        raise CorruptionError(
            "a click that the log credits has no save in the state of its task; the log or the state was altered: "
            "delete state/ of the data directory and run `tidemark run`, which rebuilds it from the log"
        )
    days = np.zeros((n, AGES), np.bool_)
    days[save, age] = True
    return days
