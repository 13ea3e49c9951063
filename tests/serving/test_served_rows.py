"""Records of SERVED: what goes in comes out, bit by bit, however requests are put together, through a log, its archive and Kafka's messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.answers import SequenceRows
from flows.archive.layout import as_batches, from_batches
from flows.errors import CorruptionError
from flows.events import hash_id
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, TOPIC_STATS, USER_COUNTERS
from flows.kafka_messages import messages_of
from flows.log import LocalLog, LogBatch
from flows.outputs import SERVED
from flows.served import SERVED_SCHEMA
from flows.served_rows import Ranked, Served, ServedRows, batches_of, rows_of
from flows.served_versions import as_newest, heartbeat
from replay.drill.outcome import log_digest
from tests.of_messages import records_of
from tests.oracles.partition import partition_of

PARTITIONS = 3
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


def served(rng: np.random.Generator, users: int, pins: int, topics: Sequence[str], **more: Any) -> Served:
    """A request with values of all sorts: the greatest, the least, negative zero, not a number."""

    def integers(*shape: int) -> np.ndarray:
        return rng.choice([0, 1, -1, 7, 2**63 - 1, -(2**63), 1_700_000_000_000], shape).astype(np.int64)

    lengths = rng.integers(0, 4, users)
    n = int(lengths.sum())
    sequences = SequenceRows(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), integers(n), rng.integers(0, 127, n).astype(np.int16),
        rng.integers(0, 127, n).astype(np.int16), integers(n), integers(n), lengths > 0, 5,
    )  # fmt: skip
    statistics = rng.choice([0.0, -0.0, 1 / 3, np.nan, np.inf, 5e-324], (len(topics), len(TOPIC_STATS)))
    given = {"timestamp": 1, "request_id": "r", "surface": None, "fingerprint": "f", "as_of": 5, "positions": b"p", **more}
    statuses = {name: rng.integers(0, 3, n).astype(np.int8) for name, n in (("user", users), ("pin", pins), ("topic", len(topics)))}
    return Served(
        **given,
        user_id=integers(users), user_status=statuses["user"], sequences=sequences, user_counters=integers(users, len(USER_COUNTERS)),
        pin_id=integers(pins), pin_status=statuses["pin"], pin_counters=integers(pins, len(PIN_COUNTERS)),
        topic=tuple(topics), topic_status=statuses["topic"], topic_stats=statistics, ranked=ranked(rng, pins) if rng.random() < 0.7 else None,
    )  # fmt: skip


def ranked(rng: np.random.Generator, pins: int) -> Ranked:
    numbers = [rng.choice([0.0, -0.0, 0.25, np.nan, np.inf], pins).astype(np.float32) for _ in range(2)]
    model = (int(rng.integers(0, 2**62)), int(rng.integers(0, 2**62))) if rng.random() < 0.7 else (None, None)
    not_shown = rng.integers(-(2**63), 2**63 - 1, int(rng.integers(0, 3)))
    return Ranked(rng.integers(-1, 2**15, pins).astype(np.int16), numbers[0], rng.random(pins) < 0.5, numbers[1], *model, not_shown)


@st.composite
def requests(draw: st.DrawFn) -> list[Served]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    out = []
    for _ in range(draw(st.integers(1, 6))):
        more = {
            "timestamp": draw(st.integers(-(2**63), 2**63 - 1)),
            "request_id": draw(TEXTS),
            "surface": draw(st.none() | TEXTS),
            "fingerprint": draw(TEXTS),
            "as_of": draw(st.none() | st.integers(0, 2**62)),
            "positions": draw(st.none() | st.binary(max_size=4)),
        }
        out.append(served(rng, draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.lists(TEXTS, max_size=3)), **more))
    return out


def bits(array: np.ndarray) -> tuple[Any, ...]:
    return array.dtype, array.shape, array.tobytes()


def expected(one: Served, user: int | None) -> dict[str, Any]:
    """One record of a request, spelled out."""
    first, n = user in (None, 0), len(one.user_id)
    span = slice(one.sequences.offsets[user], one.sequences.offsets[user + 1]) if user is not None else slice(0, 0)
    return {
        "own": (one.timestamp, one.request_id, one.surface, one.fingerprint, one.as_of or 0, one.positions),
        "user": (user is not None, int(one.user_id[user]), int(one.user_status[user])) if user is not None else (False, 0, 0),
        "counters": bits(one.user_counters[user] if user is not None and n else np.zeros(len(USER_COUNTERS), np.int64)),
        "sequence": {name: bits(getattr(one.sequences, name)[span]) for name in SEQUENCE_FIELDS},
        "pins": tuple(bits(a if first else a[:0]) for a in (one.pin_id, one.pin_status, one.pin_counters)),
        "topics": (list(one.topic) if first else [], *(bits(a if first else a[:0]) for a in (one.topic_status, one.topic_stats))),
        **_expected_ranked(one, one.ranked or Ranked.unknown(len(one.pin_id)), first),
    }


def _expected_ranked(one: Served, ranks: Ranked, first: bool) -> dict[str, Any]:
    # A record of another partition than the first user's knows nothing of pins; one of the same has the request's model.
    arrays = (ranks.slot, ranks.propensity, ranks.explored, ranks.score, ranks.not_shown)
    return {"ranked": tuple(bits(a if first else a[:0]) for a in arrays), "model": (ranks.base, ranks.delta) if first else None}


def record(rows: ServedRows, i: int) -> dict[str, Any]:
    offsets = (rows.sequence_offsets, rows.pin_offsets, rows.topic_offsets, rows.not_shown_offsets)
    entries, pins, topics, others = (slice(o[i], o[i + 1]) for o in offsets)
    surface = rows.surfaces[rows.surface[i]] if rows.surface[i] >= 0 else None
    prefix = rows.prefixes[rows.prefix[i]] if rows.prefix[i] >= 0 else None
    return {
        "own": (rows.timestamp[i], rows.request_id[i], surface, rows.fingerprints[rows.fingerprint[i]], rows.as_of[i], prefix),
        "user": (bool(rows.has_user[i]), int(rows.user_id[i]), int(rows.user_status[i])),
        "counters": bits(rows.user_counters[i]),
        "sequence": {name: bits(rows.sequence[name][entries]) for name in SEQUENCE_FIELDS},
        "pins": tuple(bits(a[pins]) for a in (rows.pin_id, rows.pin_status, rows.pin_counters)),
        "topics": (rows.topic[topics], *(bits(a[topics]) for a in (rows.topic_status, rows.topic_stats))),
        "ranked": (*(bits(a[pins]) for a in (rows.slot, rows.propensity, rows.explored, rows.score)), bits(rows.not_shown[others])),
        "model": tuple(None if m < 0 else int(m) for m in (rows.base[i], rows.delta[i])),
    }


@given(requests(), st.sampled_from([1, 3_000, 1 << 22]))
def test_what_goes_in_comes_out(made: list[Served], max_bytes: int) -> None:
    want: dict[int, list[dict[str, Any]]] = {}
    for one in made:
        for user in range(len(one.user_id)) if len(one.user_id) else [None]:
            key = int(one.user_id[user]) if user is not None else hash_id(one.request_id)
            want.setdefault(partition_of(key, PARTITIONS), []).append(expected(one, user))
    got: dict[int, list[pa.RecordBatch]] = {}
    for partition, batch in batches_of(made, PARTITIONS, max_bytes):
        assert batch.schema == SERVED_SCHEMA
        batch.validate(full=True)
        got.setdefault(partition, []).append(batch)
    assert set(got) == set(want)
    for partition, batches in got.items():
        rows = rows_of(batches, "served/0")
        got_rows = [record(rows, i) for i in range(len(rows))]
        for is_, should_be in zip(got_rows, want[partition], strict=True):
            # Of a request whose users lie apart only the record with the pins need name the model.
            assert is_ | ({"model": None} if should_be["model"] is None else {}) == should_be


def test_batches_are_as_small_as_asked_for_and_hold_no_more_positions_than_they_use() -> None:
    rng = np.random.default_rng(1)
    made = [served(rng, 1, 50, (), request_id=str(i), positions=i.to_bytes(4, "big") * 8_000) for i in range(40)]
    batches = [batch for _, batch in batches_of(made, PARTITIONS, 200_000)]
    assert sum(batch.num_rows for batch in batches) == 40
    assert all(batch.nbytes < 400_000 for batch in batches)
    assert all(len(batch.column("positions").dictionary) == batch.num_rows for batch in batches)
    assert batches_of([], PARTITIONS, 1) == []


def test_through_a_log_an_archive_and_a_message_of_kafka(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    made = [
        served(rng, i % 3, 20 * i, ("käse", "") if i % 2 else (), request_id=str(i), surface=None if i % 4 else "search") for i in range(30)
    ]
    batches = batches_of(made, 1, 100_000)
    with LocalLog.open(tmp_path, SERVED, 1, create=True) as log:
        log.append(batches)
        read = [batch.records for batch in log.read(0, 0, 1000)]
        assert log_digest(log, 0)
    want = rows_of([batch for _, batch in batches], "")
    assert len(want) == sum(one.records for one in made)
    kept = from_batches(as_batches([LogBatch(0, 0, len(want), read[0])]), 0, 0, read[0].num_rows)
    sent = [records_of(value, stamp) for _, batch in batches for value, stamp in messages_of(batch) if value is not None]
    for other in (rows_of(read, ""), rows_of([kept[0].records, *read[1:]], ""), rows_of([one for one in sent if one is not None], "")):
        assert [record(other, i) for i in range(len(other))] == [record(want, i) for i in range(len(want))]


def test_nothing_is_no_row() -> None:
    assert len(rows_of([], "served/0")) == 0


def test_what_is_not_of_served_is_refused() -> None:
    [(_, batch)] = batches_of([served(np.random.default_rng(3), 1, 2, ("a",))], 1, 1 << 20)
    with pytest.raises(CorruptionError, match="served/0: holds records that are none of SERVED's"):
        rows_of([pa.record_batch({"value": [b"x"], "timestamp": [1]})], "served/0")
    version = batch.schema.get_field_index("version")
    with pytest.raises(CorruptionError, match="version 9, and this Tidemark reads versions 1 to 2"):
        rows_of([batch.set_column(version, SERVED_SCHEMA.field(version), pa.array([9], pa.int16()))], "served/0")
    for name, values in (("user_counters", [[1]]), ("pin_counters", [[1] * 3]), ("sequence_action", [[1] * 9])):
        at = batch.schema.get_field_index(name)
        with pytest.raises(CorruptionError, match="another number of values than features have now"):
            rows_of([batch.set_column(at, SERVED_SCHEMA.field(at), pa.array(values, SERVED_SCHEMA.field(at).type))], "served/0")


def test_a_request_says_what_it_holds() -> None:
    rng = np.random.default_rng(4)
    small, large = served(rng, 0, 0, ()), served(rng, 3, 200, ("a",))
    assert (small.records, large.records) == (1, 3)
    assert large.nbytes > small.nbytes + large.pin_counters.nbytes
    assert {field.name for field in dataclasses.fields(Served)} >= {"positions", "as_of"}


def test_records_of_version_1_know_nothing_of_ranks() -> None:
    rng = np.random.default_rng(5)
    [(_, batch)] = batches_of([served(rng, 1, 2, ("a",))], 1, 1 << 20)
    first = batch.schema.get_field_index("pin_slot")
    old = batch.select(batch.schema.names[:first]).set_column(1, SERVED_SCHEMA.field(1), pa.array([1], pa.int16()))
    assert as_newest(old, "served/0").schema == SERVED_SCHEMA
    was, rows = rows_of([batch], "served/0"), rows_of([old], "served/0")
    assert (rows.pin_id.tolist(), rows.pin_counters.tolist()) == (was.pin_id.tolist(), was.pin_counters.tolist())
    assert (rows.slot.tolist(), rows.base.tolist(), rows.delta.tolist(), rows.explored.tolist()) == ([-1, -1], [-1], [-1], [False, False])
    assert np.isnan(rows.propensity).all()
    assert np.isnan(rows.score).all()
    assert not len(rows.not_shown)


def test_heartbeats_are_passed_over() -> None:
    [(_, batch)] = batches_of([served(np.random.default_rng(6), 1, 2, ())], 1, 1 << 20)
    rows = rows_of([heartbeat(7), batch, heartbeat(9)], "served/0")
    assert [record(rows, i) for i in range(len(rows))] == [record(rows_of([batch], ""), 0)]
