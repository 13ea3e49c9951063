"""Which examples a history holds, what came of each, and when that was known: the records of EXAMPLES but for their features.

It follows docs/semantics.md, Backfill, in sorted columns of one slice of users at a time. Nothing that was known after a draft's record goes into it,
but for the moment to which a request's features are put back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from flows.examples.backfill.history import Accepted
from flows.examples.backfill.matching import first_of, numbered
from flows.examples.record import HEADS, MASKED, OUTCOME_WINDOW_MS, Kind
from flows.kernels import outcomes
from flows.kernels.layout import CREDIT_MS, DAY_MS, LABEL_COLUMNS, NEVER, ROLE_CLICK, ROLE_REVISIT, ROLE_SAVE
from flows.settings import Settings
from flows.vocabulary import IMPRESSION, OWN_PROFILE, Vocabulary

DRAFT = np.dtype(
    [
        ("order", "<i8"),  # the record that made it known
        ("ready", "<i8"),  # that record's arrival
        ("seen", "<i8"),  # the record of the impression
        ("user_id", "<i8"),
        ("pin_id", "<i8"),
        ("topic", "<i8"),  # hash of its name, 0: none
        ("request", "<i8"),  # which name of a request, -1: none
        ("request_time", "<i8"),
        ("impression_time", "<i8"),
        ("as_of", "<i8"),  # events with event_time ≤ as_of make the features
        ("propensity", "<f4"),
        ("slot", "<i2"),
        ("surface", "<i2"),
        ("kind", "i1"),
        ("head", "i1"),  # of a positive; otherwise only an order
        ("explored", "?"),
        ("labels", "i1", (len(HEADS),)),
    ]
)
"""A record of EXAMPLES without its features."""

REVISIT = HEADS.index("revisit")
_SAVE = HEADS.index("save")
# Of what names no request: whatever follows belongs together by user and pin alone. No time and no code is as large.
_NAMELESS = 1 << 62


@dataclass(frozen=True)
class What:
    """Which examples are wanted.

    Attributes
    ----------
    feature_delay_ms : int
        How old features were when they were used.
    all_kinds : bool
        Negatives and positives too, and not final rows alone.
    first, until : int or None
        Requests at or after, and before these times, ms.
    """

    feature_delay_ms: int = 0
    all_kinds: bool = False
    first: int | None = None
    until: int | None = None


@dataclass(frozen=True, eq=False)
class _Seen:
    """Impressions that are examples: rows of the slice, and of each its request's time and the features' as_of; int64[k] each."""

    row: np.ndarray
    request_time: np.ndarray
    as_of: np.ndarray
    group: np.ndarray


@dataclass(frozen=True, eq=False)
class Drafts:
    """Drafts of a slice, in the order in which they became known, and the names of requests that they point to.

    Attributes
    ----------
    rows : array of DRAFT
    requests : pa.StringArray
    examples : int
        Pins seen, matured or not.
    long_requests : int
        Requests whose impressions lie more than a day apart.
    """

    rows: np.ndarray
    requests: pa.StringArray
    examples: int
    long_requests: int


def sort_drafts(rows: np.ndarray) -> np.ndarray:
    """Drafts in the order of a partition's records: as they became known; of one record by kind, impression and head."""
    return rows[np.lexsort((rows["head"], rows["seen"], rows["kind"], rows["order"]))]


def drafts_of(accepted: Accepted, settings: Settings, vocabulary: Vocabulary, what: What) -> Drafts:
    """Every draft of a slice."""
    seen, long_requests = _seen(accepted, vocabulary, what)
    ways = _Ways(accepted, seen, vocabulary)
    final = _later(accepted, seen.row, _reached(accepted, accepted.event_time[seen.row] + OUTCOME_WINDOW_MS + settings.allowed_lateness_ms))
    drafts = _basic(accepted, seen)
    came = (ways.came <= final[:, None]) & (ways.came < NEVER)

    labels = np.full((len(drafts), len(HEADS)), MASKED, np.int8)
    labels[:, : outcomes.HEADS] = came
    labels[~came[:, _SAVE], REVISIT] = 0
    parts = [_made(accepted, drafts, Kind.FINAL, 0, final, labels)]

    newest, label, credited = ways.saves(accepted, final, settings.allowed_lateness_ms if what.all_kinds else None)
    matured = _reached(accepted, newest + CREDIT_MS + settings.allowed_lateness_ms)
    matured = np.where((newest >= 0) & (final < NEVER), np.maximum(matured, final), NEVER)
    labels = np.full((len(drafts), len(HEADS)), MASKED, np.int8)
    labels[:, REVISIT] = label
    parts.append(_made(accepted, drafts, Kind.FINAL, REVISIT, matured, labels))

    if what.all_kinds:
        zeros = np.zeros((len(drafts), len(HEADS)), np.int8)
        parts.append(_made(accepted, drafts, Kind.NEGATIVE, 0, accepted.order[seen.row], zeros))
        known = np.column_stack([np.where(came, ways.came, NEVER), credited])
        for head in range(len(HEADS)):
            labels = np.full((len(drafts), len(HEADS)), MASKED, np.int8)
            labels[:, head] = 1
            at = np.where(known[:, head] < NEVER, np.maximum(known[:, head], accepted.order[seen.row]), NEVER)
            parts.append(_made(accepted, drafts, Kind.POSITIVE, head, at, labels))
    return Drafts(sort_drafts(np.concatenate(parts)), accepted.requests, len(drafts), long_requests)


def _seen(accepted: Accepted, vocabulary: Vocabulary, what: What) -> tuple[_Seen, int]:
    """The first impression of each pin in each request. One on own_profile is a revisit, and no answer to a request."""
    a = accepted
    impression = (a.action == vocabulary.actions[IMPRESSION]) & (a.surface != vocabulary.surfaces[OWN_PROFILE])
    group = np.where(a.request >= 0, -1 - a.request, a.event_time)
    # What else names a request is looked at too: features are of a time before all of it.
    rows = np.flatnonzero(impression | (a.request >= 0))
    number, count = numbered(a.user_id[rows], group[rows])
    first_event, request_time, last = np.full(count, NEVER), np.full(count, NEVER), np.full(count, -NEVER)
    np.minimum.at(first_event, number, a.event_time[rows])
    shown = impression[rows]
    np.minimum.at(request_time, number[shown], a.event_time[rows[shown]])
    np.maximum.at(last, number[shown], a.event_time[rows[shown]])
    long_requests = int(np.count_nonzero(last - request_time > DAY_MS))

    rows, number = rows[shown], number[shown]
    first = first_of(number, a.pin_id[rows])
    rows, number = rows[first], number[first]
    time = request_time[number]
    wanted = np.ones(len(rows), np.bool_)
    if what.first is not None:
        wanted &= time >= what.first
    if what.until is not None:
        wanted &= time < what.until
    rows, number, time = rows[wanted], number[wanted], time[wanted]
    as_of = np.maximum(np.minimum(time, first_event[number]) - 1 - what.feature_delay_ms, -1)
    return _Seen(rows, time, as_of, group[rows]), long_requests


class _Ways:
    """What followed the impressions: outcomes of the same user, pin and request, or where no request is named, of user and pin alone."""

    def __init__(self, accepted: Accepted, seen: _Seen, vocabulary: Vocabulary) -> None:
        a = accepted
        head = np.full(len(a), -1, np.int64)
        for number, name in enumerate(HEADS[: outcomes.HEADS]):
            head[a.action == vocabulary.actions[name]] = number
        outcome = np.flatnonzero((head >= 0) & ((a.request >= 0) | (a.surface != vocabulary.surfaces[OWN_PROFILE])))
        self._row = np.concatenate([seen.row, outcome])
        named = a.request[self._row]
        bucket, _ = numbered(a.user_id[self._row], a.pin_id[self._row], np.where(named >= 0, named, _NAMELESS))
        order = np.lexsort((a.event_time[self._row], bucket))
        target = np.concatenate([np.arange(len(seen.row)), np.full(len(outcome), -1)])
        heads = np.concatenate([np.full(len(seen.row), -1), head[outcome]])
        self._row = self._row[order]
        self._columns = (bucket[order], a.event_time[self._row], a.order[self._row], heads[order], target[order], OUTCOME_WINDOW_MS)
        self.came = np.full((len(seen.row), outcomes.HEADS), NEVER)
        outcomes.follow(*self._columns, self.came)

    def saves(self, accepted: Accepted, final: np.ndarray, allowed: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each impression's saves that opened a window: the newest one's time, -1 for none; whether one was come back to; and when that was known.

        The last of the three only with an allowed lateness; without it, NEVER.
        """
        kept, came_back = _saves(accepted)
        known = np.full(len(accepted), NEVER) if allowed is None else _credits(accepted, allowed)
        newest, label, first = np.full(len(final), -1, np.int64), np.zeros(len(final), np.bool_), np.full(len(final), NEVER)
        outcomes.saved(*self._columns, final, kept[self._row], came_back[self._row], known[self._row], newest, label, first)
        return newest, label, first


def _saves(accepted: Accepted) -> tuple[np.ndarray, np.ndarray]:
    """Of each record, whether it is a save that opened a window, and whether that was come back to: bool[n] each."""
    a = accepted
    kept = (a.role & np.uint8(ROLE_SAVE) != 0) & ~a.late
    rows = np.flatnonzero(kept)
    label = {name: np.ascontiguousarray(a.labels[:, i]) for i, name in enumerate(LABEL_COLUMNS)}
    good = (label["first_impression"] < label["save_time"] + DAY_MS) | (label["first_click"] != NEVER)
    names = ("user_id", "pin_id", "save_time", "event_id")
    columns = (a.user_id[rows], a.pin_id[rows], a.event_time[rows], a.event_id[rows])
    number, count = numbered(*(np.concatenate([column, label[name]]) for column, name in zip(columns, names, strict=True)))
    hit = np.zeros(count, np.bool_)
    hit[number[len(rows) :][good]] = True
    came_back = np.zeros(len(a), np.bool_)
    came_back[rows] = hit[number[: len(rows)]]
    return kept, came_back


def _credits(accepted: Accepted, allowed: int) -> np.ndarray:
    """Of each save, the record by which the first revisit that its label counts was credited to it: int64[n], NEVER for none."""
    a = accepted
    save = (a.role & np.uint8(ROLE_SAVE) != 0) & ~a.late
    rows = np.flatnonzero(save | (a.role & np.uint8(ROLE_REVISIT) != 0))
    bucket, _ = numbered(a.user_id[rows], a.pin_id[rows])
    order = np.lexsort((a.order[rows], a.event_id[rows], save[rows], a.event_time[rows], bucket))
    rows, bucket = rows[order], bucket[order]
    known = np.full(len(rows), NEVER)
    click = a.role[rows] & np.uint8(ROLE_CLICK) != 0
    outcomes.first_credits(bucket, a.event_time[rows], a.order[rows], save[rows], click, a.before[rows], allowed, known)
    out = np.full(len(a), NEVER)
    out[rows] = known
    return out


def _reached(accepted: Accepted, times: np.ndarray) -> np.ndarray:
    """The record by which the watermark reached each time, NEVER if it didn't."""
    return np.append(accepted.rises.order, NEVER)[accepted.rises.reaching(times)]


def _later(accepted: Accepted, row: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The later of two records, for what is over before it is seen."""
    return np.where(order < NEVER, np.maximum(order, accepted.order[row]), NEVER)


def _basic(accepted: Accepted, seen: _Seen) -> np.ndarray:
    """A draft of each impression, with what all of its drafts share."""
    a, row = accepted, seen.row
    out = np.zeros(len(row), DRAFT)
    for name in ("user_id", "pin_id", "topic", "request", "surface"):
        out[name] = getattr(a, name)[row]
    out["seen"], out["impression_time"] = a.order[row], a.event_time[row]
    out["request_time"], out["as_of"] = seen.request_time, seen.as_of
    out["slot"], out["propensity"] = -1, np.nan
    return out


def _made(accepted: Accepted, drafts: np.ndarray, kind: Kind, head: int, order: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Drafts of a kind, of those impressions that have come to it: whose record `order` there is."""
    known = np.flatnonzero(order < NEVER)
    out = drafts[known]
    out["kind"], out["head"], out["order"], out["labels"] = kind, head, order[known], labels[known]
    out["ready"] = _arrival(accepted, order[known])
    return out


def _arrival(accepted: Accepted, order: np.ndarray) -> np.ndarray:
    """When records arrived: one of the slice, or one by which the watermark rose."""
    a, rises = accepted, accepted.rises
    if not len(order):
        return np.zeros(0, np.int64)
    at = np.minimum(np.searchsorted(a.order, order), len(a) - 1)
    risen = np.minimum(np.searchsorted(rises.order, order), len(rises.order) - 1)
    return np.where(a.order[at] == order, a.arrival[at], rises.arrival[risen])
