"""Which examples a history holds, what came of each, and when that was known: the records of EXAMPLES but for their features.

It follows docs/semantics.md, Examples, as `flows.kernels.joining` does, with impressions in the place of what was served, in sorted columns of one
slice of users at a time. Nothing that was known after a draft's record goes into it, but for the moment of a request's features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from flows.examples.backfill.history import Accepted
from flows.examples.backfill.matching import first_of, found_in, numbered
from flows.examples.backfill.served import Offers
from flows.examples.record import HEADS, MASKED, OUTCOME_WINDOW_MS, Kind
from flows.kernels import outcomes
from flows.kernels.joining import SERVED_KEPT_MS
from flows.kernels.layout import CREDIT_MS, DAY_MS, LABEL_COLUMNS, NEVER
from flows.settings import Settings
from flows.vocabulary import IMPRESSION, OWN_PROFILE, Vocabulary

DRAFT = np.dtype(
    [
        ("order", "<i8"),  # the record that made it known
        ("ready", "<i8"),  # that record's arrival
        ("due", "<i8"),  # of a final row, the watermark that made it known, and the record since when that was so; 0 of others
        ("since", "<i8"),
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
    """Impressions that are examples.

    Attributes
    ----------
    row, request_time, as_of : int64[k]
        The row of the slice, and the time of its request and the features' as_of, ms.
    offers : Offers
        Of each, what is known of how it was served.
    """

    row: np.ndarray
    request_time: np.ndarray
    as_of: np.ndarray
    offers: Offers


@dataclass(frozen=True, eq=False)
class Drafts:
    """Drafts of a slice, in the order in which they became known, and the names of requests that they point to.

    Attributes
    ----------
    rows : array of DRAFT
    requests : pa.StringArray
    examples, offered : int
        Pins seen, matured or not; of how many it is known how they were served.
    open : int
        Of how many pins a label is still to come.
    outlasted : int
        Pins that were seen more than a day after their request: they make none.
    """

    rows: np.ndarray
    requests: pa.StringArray
    examples: int
    offered: int
    open: int
    outlasted: int


def sort_drafts(rows: np.ndarray) -> np.ndarray:
    """Drafts in the order of a partition's records: as they became known; of one record by kind, then as they fell due, by head and impression."""
    keys = ("seen", "impression_time", "head", "since", "due", "kind", "order")
    return rows[np.lexsort(tuple(rows[key] for key in keys))]


def drafts_of(accepted: Accepted, settings: Settings, vocabulary: Vocabulary, what: What, offered: Callable[..., Offers]) -> Drafts:
    """Every draft of a slice.

    Parameters
    ----------
    offered : callable
        What is known of how pins were served, by user_id, request and pin_id, int64[n] each: the second are numbers of `accepted.requests`.
    """
    seen, outlasted = _seen(accepted, vocabulary, what, offered)
    drafts = _basic(accepted, seen)
    came, save, first_revisited = _came(accepted, seen, vocabulary)
    saved = save >= 0
    # Whatever is counted has come before it is final: behind that it would be late.
    due = drafts["impression_time"] + OUTCOME_WINDOW_MS + settings.allowed_lateness_ms + 1
    final = _reached(accepted, due)
    labels = np.full((len(drafts), len(HEADS)), MASKED, np.int8)
    labels[:, : outcomes.HEADS] = came < NEVER
    labels[~saved, REVISIT] = 0
    parts = [_made(accepted, drafts, Kind.FINAL, 0, final, labels, due, drafts["seen"])]

    save = save[saved]
    due = accepted.event_time[save] + CREDIT_MS + settings.allowed_lateness_ms
    matured = _reached(accepted, due)
    labels = np.full((len(save), len(HEADS)), MASKED, np.int8)
    labels[:, REVISIT] = _come_back(accepted, save)
    parts.append(_made(accepted, drafts[saved], Kind.FINAL, REVISIT, matured, labels, due, final[saved]))

    if what.all_kinds:
        parts.append(_made(accepted, drafts, Kind.NEGATIVE, 0, drafts["seen"], np.zeros((len(drafts), len(HEADS)), np.int8)))
        known = np.column_stack([came, first_revisited])
        for head in range(len(HEADS)):
            labels = np.full((len(drafts), len(HEADS)), MASKED, np.int8)
            labels[:, head] = 1
            at = np.where(known[:, head] < NEVER, np.maximum(known[:, head], drafts["seen"]), NEVER)
            parts.append(_made(accepted, drafts, Kind.POSITIVE, head, at, labels))
    rows = sort_drafts(np.concatenate(parts))
    still_open = int(np.count_nonzero(final == NEVER) + np.count_nonzero((final[saved] < NEVER) & (matured == NEVER)))
    return Drafts(rows, accepted.requests, len(drafts), int(np.count_nonzero(seen.offers.found)), still_open, outlasted)


def _seen(accepted: Accepted, vocabulary: Vocabulary, what: What, offered: Callable[..., Offers]) -> tuple[_Seen, int]:
    """The first impression of each pin in each request. One on own_profile is a revisit, and no answer to a request."""
    a = accepted
    impression = (a.action == vocabulary.actions[IMPRESSION]) & (a.surface != vocabulary.surfaces[OWN_PROFILE]) & ~a.late
    group = np.where(a.request >= 0, -1 - a.request, a.event_time)
    # What else names a request is looked at too: features are of a time before all of it.
    rows = np.flatnonzero(impression | (a.request >= 0))
    number, count = numbered(a.user_id[rows], group[rows])
    earliest, request_time = np.full(count, NEVER), np.full(count, NEVER)
    np.minimum.at(earliest, number, a.event_time[rows])
    shown = impression[rows]
    rows, number = rows[shown], number[shown]
    np.minimum.at(request_time, number, a.event_time[rows])
    first = first_of(number, a.pin_id[rows])
    rows, number = rows[first], number[first]

    offers = offered(a.user_id[rows], a.request[rows], a.pin_id[rows])
    timed = np.flatnonzero(offers.request_time >= 0)
    served = np.full(count, NEVER)
    np.minimum.at(served, number[timed], offers.request_time[timed])
    request_time = np.where(served < NEVER, served, request_time)

    time = request_time[number]
    as_of = np.maximum(np.minimum(time, earliest[number]) - 1 - what.feature_delay_ms, -1)
    soon = a.event_time[rows] <= time + SERVED_KEPT_MS
    wanted = soon & ~offers.ours
    if what.first is not None:
        wanted &= time >= what.first
    if what.until is not None:
        wanted &= time < what.until
    return _Seen(rows[wanted], time[wanted], as_of[wanted], offers.take(wanted)), int(np.count_nonzero(~soon))


def _came(accepted: Accepted, seen: _Seen, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What followed the impressions: of the same user, pin and request, or without a request of user and pin alone.

    Of each impression and head the first record, int64[k, 4]; the row of its save, -1 for none; and the first record by which that was known to have
    been revisited. NEVER for no record.
    """
    a = accepted
    head = np.full(len(a), -1, np.int64)
    for number, name in enumerate(HEADS[: outcomes.HEADS]):
        head[a.action == vocabulary.actions[name]] = number
    outcome = np.flatnonzero((head >= 0) & ~a.late & ((a.request >= 0) | (a.surface != vocabulary.surfaces[OWN_PROFILE])))
    row = np.concatenate([seen.row, outcome])
    named = a.request[row]
    bucket, _ = numbered(a.user_id[row], a.pin_id[row], np.where(named >= 0, named, _NAMELESS))
    order = np.lexsort((a.event_id[row], a.event_time[row], bucket))
    target = np.concatenate([np.arange(len(seen.row)), np.full(len(outcome), -1)])[order]
    heads = np.concatenate([np.full(len(seen.row), -1), head[outcome]])[order]
    row = row[order]
    came, save, known = np.full((len(seen.row), outcomes.HEADS), NEVER), np.full(len(seen.row), -1), np.full(len(seen.row), NEVER)
    back = _first_come_back(a, row)
    outcomes.follow(bucket[order], a.event_time[row], a.order[row], heads, target, OUTCOME_WINDOW_MS, back, came, save, known)
    return came, np.where(save >= 0, np.append(row, -1)[save], -1), known


def _saves(accepted: Accepted, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(getattr(accepted, name)[rows] for name in ("user_id", "pin_id", "event_time", "event_id"))


def _come_back(accepted: Accepted, rows: np.ndarray) -> np.ndarray:
    """Whether the label of some saves holds in the end: bool[n]."""
    label = {name: np.ascontiguousarray(accepted.labels[:, i]) for i, name in enumerate(LABEL_COLUMNS)}
    good = (label["first_impression"] < label["save_time"] + DAY_MS) | (label["first_click"] != NEVER)
    held = tuple(label[name][good] for name in ("user_id", "pin_id", "save_time", "event_id"))
    return found_in(_saves(accepted, rows), held) >= 0


def _first_come_back(accepted: Accepted, rows: np.ndarray) -> np.ndarray:
    """The first record by which some saves came to be revisited: int64[n], NEVER for none, and of rows that are no save."""
    revisited = accepted.revisited
    first = found_in(_saves(accepted, rows), tuple(revisited[:, i] for i in range(4)))
    return np.append(revisited[:, 4], NEVER)[first]


def _reached(accepted: Accepted, times: np.ndarray) -> np.ndarray:
    """The record by which the watermark reached each time, NEVER if it didn't."""
    return np.append(accepted.rises.order, NEVER)[accepted.rises.reaching(times)]


def _basic(accepted: Accepted, seen: _Seen) -> np.ndarray:
    """A draft of each impression, with what all of its drafts share."""
    a, row = accepted, seen.row
    out = np.zeros(len(row), DRAFT)
    for name in ("user_id", "pin_id", "topic", "request", "surface"):
        out[name] = getattr(a, name)[row]
    out["seen"], out["impression_time"] = a.order[row], a.event_time[row]
    out["request_time"], out["as_of"] = seen.request_time, seen.as_of
    for name in ("slot", "propensity", "explored"):
        out[name] = getattr(seen.offers, name)
    return out


def _made(
    accepted: Accepted,
    drafts: np.ndarray,
    kind: Kind,
    head: int,
    order: np.ndarray,
    labels: np.ndarray,
    due: np.ndarray | None = None,
    since: np.ndarray | None = None,
) -> np.ndarray:
    """Drafts of a kind, of those impressions that have come to it: whose record `order` there is."""
    known = np.flatnonzero(order < NEVER)
    out = drafts[known]
    if due is not None and since is not None:
        out["due"], out["since"] = due[known], since[known]
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
