"""Stretches of the two logs as what the examples kernel takes: arrays of numbers, with each request of a stretch numbered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from flows.decode_values import hash_texts
from flows.examples.candidates import NUMBER, numbers_of
from flows.examples.interleaving import Stretch
from flows.kernels.examples import ActionSteps, Groups, ServedSteps
from flows.kernels.joining import FIRST_OUTCOME, LATE_BIT, SEEN_BIT
from flows.kernels.layout import ACCEPTED, NEVER
from flows.served import SERVED_SCHEMA, Status
from flows.served_versions import as_newest, list_lengths
from flows.state.actions_task import Judge, JudgedBatch

_PIECE_SCHEMA = SERVED_SCHEMA.append(pa.field(NUMBER, pa.int64()))
_CODES = 256


def judged_steps(judge: Judge, outcomes: Sequence[int], own_profile: int, stretch: Stretch) -> tuple[ActionSteps, JudgedBatch | None]:
    """The actions of a stretch, judged as the stream judges them.

    Parameters
    ----------
    outcomes : sequence of int
        Codes of the actions that are outcomes, in the order of their heads.
    own_profile : int
        Code of the surface whose impressions are revisits.
    """
    if not stretch.actions:
        none = np.empty(0, np.int64)
        return ActionSteps(none, none, none, none, none, none.astype(np.uint8), none, none, none, none, none.reshape(0, 2)), None
    before = judge.working_set.watermark
    done = judge.judge(stretch.actions)
    c, judged = done.columns, done.judged
    meaning = np.zeros(_CODES, np.uint8)
    meaning[judge.impression] = SEEN_BIT
    for head, code in enumerate(outcomes):
        meaning[code] = FIRST_OUTCOME << head
    accepted = judged.status == ACCEPTED
    what = np.where(accepted, meaning[c.action], 0).astype(np.uint8)
    what[(what == SEEN_BIT) & (c.surface == own_profile)] = 0
    what[accepted & (judged.lateness > 0)] |= LATE_BIT
    moved = np.where(accepted, c.event_time, -NEVER)
    if len(done.clock):
        moved = np.where(done.clock == NEVER, moved, done.clock)
    watermark = np.maximum(np.maximum.accumulate(moved), -NEVER if before is None else before)
    steps = ActionSteps(
        c.user_id, c.request, c.pin_id, c.event_time, c.event_id, what, c.topic, stretch.action_arrival, done.offsets, watermark, judged.revisited
    )  # fmt: skip
    return steps, done


def served_steps(stretch: Stretch, where: str) -> tuple[ServedSteps, pa.RecordBatch, int]:
    """The served records of a stretch; those that can lead to examples, with their numbers; and how many heartbeats there were.

    A record without a user or without pins leads to none, nor does one whose request has no ID: a step without candidates.
    """
    parts, rows_of_parts, at, heartbeats = [], [np.empty(0, np.int64)], 0, 0
    for batch in stretch.served:
        n = batch.records.num_rows
        named = (
            batch.records.column("request_id").is_valid().to_numpy(zero_copy_only=False)
            if "request_id" in batch.records.schema.names
            else None
        )
        newest = as_newest(batch.records, where)
        assert named is not None
        heartbeats += n - newest.num_rows
        newest = newest.append_column(NUMBER, pa.array(numbers_of(batch.offsets_of_records())[named]))
        parts.append(newest)
        rows_of_parts.append(at + np.flatnonzero(named))
        at += n
    whole = pa.Table.from_batches(parts, _PIECE_SCHEMA).unify_dictionaries().combine_chunks()
    records = whole.to_batches()[0] if len(whole) else pa.RecordBatch.from_pylist([], _PIECE_SCHEMA)
    row = np.concatenate(rows_of_parts)
    request = hash_texts(records.column("request_id"))
    leads = (
        records.column("user_id").is_valid().to_numpy(zero_copy_only=False) & (list_lengths(records.column("pin_id")) > 0) & (request != 0)
    )
    if not leads.all():
        records, row, request = records.filter(pa.array(leads)), row[leads], request[leads]
    lengths = list_lengths(records.column("pin_id"))

    def spread(values: np.ndarray) -> np.ndarray:
        """Of all records of the stretch, 0 where one leads to nothing."""
        out = np.zeros(at, np.int64)
        out[row] = values
        return out

    user_defaulted = records.column("user_status").to_numpy(zero_copy_only=False) == Status.DEFAULTED
    pin_status = records.column("pin_status").flatten().to_numpy(zero_copy_only=False)
    steps = ServedSteps(
        place=stretch.place,
        arrival=stretch.served_arrival,
        user=spread(records.column("user_id").to_numpy(zero_copy_only=False)),
        request=spread(request),
        time=spread(records.column("timestamp").to_numpy(zero_copy_only=False)),
        number=spread(records.column(NUMBER).to_numpy(zero_copy_only=False)),
        first=np.concatenate([[0], np.cumsum(spread(lengths))]).astype(np.int64),
        pin=records.column("pin_id").flatten().to_numpy(zero_copy_only=False),
        defaulted=(pin_status == Status.DEFAULTED) | np.repeat(user_defaulted, lengths),
    )
    return steps, records, heartbeats


def groups_of(actions: ActionSteps, served: ServedSteps) -> tuple[Callable[[np.ndarray, np.ndarray], Groups], np.ndarray, np.ndarray]:
    """The distinct requests that are served or seen in a stretch: what makes `Groups` of what is stored of them, their users, and their hashes."""
    leads = np.flatnonzero(np.diff(served.first) > 0)
    seen = np.flatnonzero((actions.what & (SEEN_BIT | LATE_BIT) == SEEN_BIT) & (actions.request != 0))
    user = np.concatenate([actions.user[seen], served.user[leads]])
    request = np.concatenate([actions.request[seen], served.request[leads]])
    order = np.lexsort((request, user))
    new = np.ones(len(order), np.bool_)
    new[1:] = (user[order][1:] != user[order][:-1]) | (request[order][1:] != request[order][:-1])
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(new) - 1
    of_action = np.full(len(actions.user), -1, np.int64)
    of_action[seen] = number[: len(seen)]
    of_served = np.full(len(served.user), -1, np.int64)
    of_served[leads] = number[len(seen) :]
    first = order[new]

    def groups(entries: np.ndarray, of_entry: np.ndarray) -> Groups:
        return Groups(of_action, of_served, len(first), entries, of_entry)

    return groups, user[first], request[first]
