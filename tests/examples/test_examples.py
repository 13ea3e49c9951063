"""The examples flow says what the oracle says, whatever is killed, however both logs are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.errors import CorruptionError, DataDirectoryError, StateError
from flows.examples.interleaving import Stretch
from flows.examples.merging import Merged
from flows.examples.record import EXAMPLES, HEADS, Kind
from flows.examples.rows import ExampleRows, rows_of
from flows.examples.store import final_rows
from flows.examples.task import ExamplesTask, Found
from flows.kafka_messages import messages_of
from flows.kernels.joining import COUNTED
from flows.outputs import SERVED
from flows.served_rows import Served
from flows.served_versions import heartbeat
from flows.settings import Settings
from tests import driving
from tests.examples.playing import DAY, HOUR, MINUTE, START, Driven, Play, expected, one_served, play, played_by_hand, write
from tests.of_messages import OfMessages
from tests.of_messages import records_of as arrow_of
from tests.oracles.partition import partition_of

KINDS = {kind.name.lower(): kind for kind in Kind}
M = -1


def told(rows: ExampleRows) -> list[dict[str, Any]]:
    """Records as the oracle tells them, but for features."""
    topics = [*rows.topics, ""]
    return [
        {
            "ready_time": int(rows.ready_time[i]), "kind": Kind(rows.kind[i]), "request_id": rows.request_id[i].as_py(),
            "user_id": int(rows.user_id[i]), "pin_id": int(rows.pin_id[i]), "impression_time": int(rows.impression_time[i]),
            "topic": topics[rows.topic[i]], "labels": rows.labels[i].tolist(),
        }
        for i in range(len(rows))
    ]  # fmt: skip


def features(rows: ExampleRows, i: int) -> list[Any]:
    user = rows.request[i]
    entries = rows.users.sequence[rows.users.offsets[user] : rows.users.offsets[user + 1]]
    ranked = (rows.slot[i], rows.propensity[i], rows.explored[i], rows.score[i], rows.base[i], rows.delta[i])
    return [
        rows.request_time[i], rows.surface[i], rows.as_of[i], rows.positions[rows.position[i]], rows.fingerprints[rows.fingerprint[i]],
        rows.pin_counters[i].tolist(), rows.users.counters[user].tolist(),
        [entries[name].tolist() for name in ("pin_id", "event_time", "duration_ms", "action", "surface")], [str(value) for value in ranked],
    ]  # fmt: skip


def served_features(one: Served, pin: int, surfaces: dict[str, int]) -> list[Any]:
    r = one.ranked
    ranked = (-1, np.float32("nan"), False, np.float32("nan"), -1, -1)
    if r is not None:
        ranked = (r.slot[pin], r.propensity[pin], r.explored[pin], r.score[pin], r.base, r.delta)  # type: ignore[assignment]
    return [
        one.timestamp, surfaces.get(str(one.surface), -1), one.as_of, one.positions, one.fingerprint,
        one.pin_counters[pin].tolist(), one.user_counters[0].tolist(),
        [getattr(one.sequences, name).tolist() for name in ("pin_id", "event_time", "duration_ms", "action", "surface")],
        [str(value) for value in ranked],
    ]  # fmt: skip


def check(settings: Settings, played: Play, rng: np.random.Generator, kill_share: float = 0.0, grow: bool = False) -> dict[str, int]:
    """Run to the end and compare with the oracle; gives the counts of all partitions."""
    total: dict[str, int] = {}
    surfaces = dict(settings.load_vocabulary().surfaces)
    for partition in range(settings.partitions):
        driven = Driven(settings, partition)
        _, counts = driven.run(rng, kill_share, grow)
        want, became = expected(played, partition, settings)
        rows, served = driven.rows(), [what for home, what in played.served if home == partition]
        places = [one.pop("served") for one in want]
        assert told(rows) == [one | {"kind": KINDS[one["kind"]]} for one in want]
        assert (np.diff(rows.ready_time) >= 0).all()
        for i, place in enumerate(places):
            if place is None:
                continue
            record, pin = place
            one = served[record]
            assert isinstance(one, Served)
            assert features(rows, i) == served_features(one, pin, surfaces)
        assert {name: n for name, n in counts.items() if name in COUNTED} == became
        for name, n in counts.items():
            total[name] = total.get(name, 0) + n
        driven.close()
    return total


def settings_of(data: Path, **more: Any) -> Settings:
    return Settings(data=data, partitions=2, **more)


# On random streams ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "batch", "anchor", "kills", "grow"),
    [
        (0, 1000, 10**6, 0.0, False),
        (1, 20, 30, 0.3, False),
        (2, 1000, 1, 0.3, True),
        *(pytest.param(seed, 7, 60, 0.3, seed % 2 == 0, marks=pytest.mark.soak) for seed in range(3, 12)),
    ],
)
def test_the_flow_says_what_the_oracle_says(tmp_path: Path, seed: int, batch: int, anchor: int, kills: float, grow: bool) -> None:
    rng = np.random.default_rng(seed)
    settings = settings_of(tmp_path, batch_records=batch, anchor_records=anchor)
    played = play(seed)
    write(settings, played, rng)
    counts = check(settings, played, rng, kills, grow)
    # What the stream must have led to, or the test tells nothing.
    reached = {
        *COUNTED,
        "examples",
        "finals",
        "revisit_finals",
        "served",
        "heartbeats",
        "heartbeats_out",
        *(f"positive.{head}" for head in HEADS),
    }
    assert {name for name in reached if not counts.get(name)} == set()


def test_cuts_kills_and_anchors_change_nothing(tmp_path: Path) -> None:
    played, outcomes = play(20, partitions=1), []
    for number, (batch, anchor, kills, grow) in enumerate([(10**6, 10**6, 0.0, False), (13, 25, 0.4, True)]):
        rng = np.random.default_rng(number)
        settings = Settings(data=tmp_path / str(number), partitions=1, batch_records=batch, anchor_records=anchor)
        write(settings, played, rng)
        driven = Driven(settings, 0)
        digest, counts = driven.run(rng, kills, grow)
        outcomes.append((digest, counts, driven.table()))
        driven.close()
    (digest, counts, table), (other_digest, other_counts, other) = outcomes
    assert len(table) > 100
    assert table.equals(other)
    assert (digest, counts) == (other_digest, other_counts)


@pytest.mark.parametrize("size", [1, 5])
def test_a_start_goes_again_through_fewer_records_than_the_setting_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Whatever a message holds: counted by offsets, the working sets of a topic of large messages would hardly ever be saved."""
    most, read, again = 40, [0], [0]
    settings, played = Settings(data=tmp_path, partitions=1, batch_records=20, anchor_records=most), play(23, partitions=1)
    write(settings, played, np.random.default_rng(0))
    driven = Driven(settings, 0)
    driven._logs[0] = OfMessages(driven._logs[0], size)  # type: ignore[call-overload]
    advance = ExamplesTask._advance

    def counted(self: ExamplesTask, stretch: Stretch, **how: bool) -> Found:
        found = advance(self, stretch, **how)
        (again if how["again"] else read)[0] += found.records
        return found

    monkeypatch.setattr(ExamplesTask, "_advance", counted)
    ends = driven.ends()
    while True:
        again[0] = 0
        task = driven.open(ends)
        assert again[0] < most
        done = not task.catch_up(sum(ends))
        task.abandon()
        if done:
            break
    assert read[0] > 5 * most
    driven._logs[0].log.close()  # type: ignore[attr-defined]
    driven._logs[0] = driven._logs[1]
    driven.close()


def test_what_is_kept_ends_with_what_can_be_asked_for(tmp_path: Path) -> None:
    """State is bounded: candidates go a day after their request, records when a save can't mature any more."""
    settings, played = settings_of(tmp_path, batch_records=10, anchor_records=1), play(21)
    write(settings, played, np.random.default_rng(0))
    driven = Driven(settings, 0)
    driven.run(np.random.default_rng(0))
    task = driven.open()
    kept = {prefix: len(task.store.prefixed(prefix)) for prefix in (b"C", b"E", b"S", b"M")}
    waiting = task._join.waiting
    task.close()
    driven.close()
    served = sum(1 for home, what in played.served if home == 0 and isinstance(what, Served))
    assert served > 10
    # The stream ends with weeks in which nothing is served.
    assert kept == {b"C": 0, b"E": 0, b"S": 0, b"M": 0}
    assert waiting == 0


# By hand ------------------------------------------------------------------------------------------------------------------------------


def outcome(tmp_path: Path, *records: Any) -> tuple[list[tuple[int, str, list[int]]], dict[str, int]]:
    """Records of both logs of one partition, in order of arrival: what comes out (time behind START, kind, labels), and what became of the rest."""
    settings = Settings(data=tmp_path, partitions=1)
    played = played_by_hand(records)
    write(settings, played, np.random.default_rng(0))
    driven = Driven(settings, 0)
    _, counts = driven.run(np.random.default_rng(0))
    rows = driven.rows()
    rows = rows.take(rows.kind != Kind.HEARTBEAT)
    driven.close()
    out = [
        (int(t) - START, Kind(kind).name, labels.tolist()) for t, kind, labels in zip(rows.ready_time, rows.kind, rows.labels, strict=True)
    ]
    return out, {name: n for name, n in counts.items() if name in COUNTED}


SERVE = ("serve", 0, "r", [1, 2])


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    """As in docs/semantics.md, Examples."""
    out, counts = outcome(
        tmp_path,
        SERVE,
        ("impression", MINUTE, "r", 1),
        ("impression", MINUTE, "r", 2),
        ("save", 5 * MINUTE, "r", 1),
        ("beat", 3 * HOUR),
        ("closeup", 2 * HOUR, None, 9),
        ("own_profile", DAY, None, 1),
        ("beat", 10 * DAY),
        ("closeup", 8 * DAY, None, 9),
    )
    assert out == [
        (MINUTE, "NEGATIVE", [0, 0, 0, 0, 0]),
        (MINUTE, "NEGATIVE", [0, 0, 0, 0, 0]),
        (5 * MINUTE, "POSITIVE", [M, M, 1, M, M]),
        (2 * HOUR, "FINAL", [0, 0, 1, 0, M]),
        (2 * HOUR, "FINAL", [0, 0, 0, 0, 0]),
        (DAY, "POSITIVE", [M, M, M, M, 1]),
        (8 * DAY, "FINAL", [M, M, M, M, 1]),
    ]
    assert counts == {"candidates": 2}


def test_the_window_is_closed_at_both_ends(tmp_path: Path) -> None:
    seen, last = MINUTE, 31 * MINUTE
    out, counts = outcome(
        tmp_path, SERVE, ("impression", seen, "r", 1), ("click", seen - 1, "r", 1), ("long_click", last + 1, "r", 1), ("hide", last, "r", 1),
        ("closeup", last + HOUR, None, 9), ("click", last, "r", 1), ("closeup", last + HOUR + 1, None, 9), ("click", last + 1, "r", 1),
        ("beat", 9 * DAY), ("closeup", 8 * DAY, None, 9),
    )  # fmt: skip
    positives = [labels for _, kind, labels in out if kind == "POSITIVE"]
    assert positives == [[M, M, M, 1, M], [1, M, M, M, M]]
    assert [(t, labels) for t, kind, labels in out if kind == "FINAL"] == [(last + HOUR + 1, [1, 0, 0, 1, 0])]
    assert counts == {"candidates": 2, "outcomes_outside_window": 2, "outcomes_without_impression": 1}


def test_records_that_come_too_early_wait(tmp_path: Path) -> None:
    out, counts = outcome(tmp_path, ("click", 2, "r", 1), ("impression", 1, "r", 1), SERVE, ("beat", 2), ("closeup", 3, None, 9))
    assert out == [(2, "NEGATIVE", [0] * 5), (2, "POSITIVE", [1, M, M, M, M])]
    assert counts == {"candidates": 2}


def test_what_fits_nothing_is_counted(tmp_path: Path) -> None:
    """Of issue 6: labels for unknown requests, an impression without a served row. Neither is an error."""
    out, counts = outcome(
        tmp_path, SERVE, ("save", 1, "unknown", 1), ("impression", 1, "other", 1), ("impression", 1, "r", 7), ("impression", 2, "", 1),
        ("impression", 3, None, 1), ("impression", 4, "r", 1), ("impression", 5, "r", 1), ("beat", 9 * DAY), ("closeup", 8 * DAY, None, 9),
        ("impression", 5, "r", 2), ("hide", 5, "r", 1),
    )  # fmt: skip
    assert [kind for _, kind, _ in out] == ["NEGATIVE", "FINAL"]
    assert counts == {
        "candidates": 2, "outcomes_without_impression": 1, "impressions_without_served": 2, "repeated_impressions": 1, "late_impressions": 1,
        "late_outcomes": 1,
    }  # fmt: skip


def test_an_attribution_that_is_taken_back_leaves_the_positive_and_rights_the_final(tmp_path: Path) -> None:
    out, _ = outcome(
        tmp_path, SERVE, ("impression", 1, "r", 1), ("save", 2, "r", 1), ("own_profile", HOUR, None, 1), ("save", HOUR - 1, None, 1),
        ("beat", 9 * DAY), ("closeup", 8 * DAY, None, 9),
    )  # fmt: skip
    assert [labels for _, kind, labels in out if kind == "POSITIVE"] == [[M, M, 1, M, M], [M, M, M, M, 1]]
    assert [labels for _, kind, labels in out if kind == "FINAL"] == [[0, 0, 1, 0, M], [M, M, M, M, 0]]


def test_the_latest_save_of_an_example_is_its_save(tmp_path: Path) -> None:
    out, _ = outcome(
        tmp_path, SERVE, ("impression", 1, "r", 1), ("save", 3, "r", 1), ("save", 2, "r", 1), ("save", MINUTE, "r", 1),
        ("own_profile", HOUR, None, 1), ("beat", 9 * DAY), ("closeup", 8 * DAY, None, 9),
    )  # fmt: skip
    assert [(t, labels) for t, kind, labels in out if kind == "POSITIVE"] == [(3, [M, M, 1, M, M]), (HOUR, [M, M, M, M, 1])]
    assert [labels for _, kind, labels in out if kind == "FINAL"] == [[0, 0, 1, 0, M], [M, M, M, M, 1]]


def test_actions_wait_for_what_may_still_be_served(tmp_path: Path) -> None:
    """The end of an input moves no watermark: what the other log may still come before is left for the next run."""
    settings = Settings(data=tmp_path, partitions=1)
    write(settings, played_by_hand([SERVE, ("impression", 1, "r", 1), ("click", 2, "r", 1)]), np.random.default_rng(0))
    driven = Driven(settings, 0)
    driven.run(np.random.default_rng(0))
    assert driven.rows().kind.tolist() == [Kind.HEARTBEAT]
    with driving.open_log(settings, SERVED) as log:
        for at in (1, 2):
            log.append([(0, heartbeat(START + at))])
            driven.run(np.random.default_rng(0))
            assert driven.rows().kind.tolist() == [Kind.HEARTBEAT, Kind.NEGATIVE, Kind.POSITIVE][: 1 + at]
    driven.close()


def test_where_nothing_comes_out_heartbeats_do(tmp_path: Path) -> None:
    """By what has arrived, and not more often than every five seconds."""
    settings = Settings(data=tmp_path, partitions=1)
    quiet = [("closeup", at, None, 9) for at in (1, 4_999, 5_001, 5_500, 10_500, 10_502)]
    records = [
        SERVE,
        *quiet[:2],
        ("impression", 5_000, "r", 1),
        *quiet[2:],
        ("serve", 20_000, "q", [1]),
        ("beat", 24_999),
        ("beat", 25_000),
    ]
    write(settings, played_by_hand([*records, ("closeup", 25_001, None, 9), ("beat", 30_000)]), np.random.default_rng(0))
    driven = Driven(settings, 0)
    driven.run(np.random.default_rng(0))
    rows = driven.rows()
    said = list(zip((rows.ready_time - START).tolist(), rows.kind.tolist(), strict=True))
    assert said == [(0, Kind.HEARTBEAT), (5_000, Kind.NEGATIVE), *((at, Kind.HEARTBEAT) for at in (10_500, 20_000, 25_000))]
    driven.close()


def test_heartbeats_let_an_idle_partition_pass(tmp_path: Path) -> None:
    """One partition has examples, the other has actions of nobody who was served: whoever reads both goes on by the latter's heartbeats."""
    settings, played = settings_of(tmp_path), played_by_hand([SERVE, ("impression", 1, "r", 1), ("impression", 2, "r", 2), ("beat", DAY)])
    home, users = partition_of(7, 2), range(100)
    other = next(user for user in users if partition_of(user, 2) != home)
    played.events["partition"] = home
    played.served[:] = [(home, what) for _, what in played.served]
    write(settings, played, np.random.default_rng(0))
    for partition in range(2):
        driven = Driven(settings, partition)
        driven.run(np.random.default_rng(0))
        driven.close()
    with driving.open_log(settings, EXAMPLES) as log:
        merged = Merged(log, [0, 0], 1)
        assert merged.next() is None
        quiet = played_by_hand([("closeup", 1, None, 9), ("closeup", HOUR, None, 9), ("beat", DAY)])
        quiet.events["user_id"], quiet.events["partition"] = other, 1 - home
        quiet.served[:] = [(1 - home, what) for _, what in quiet.served]
        write(settings, quiet, np.random.default_rng(0))
        driven = Driven(settings, 1 - home)
        driven.run(np.random.default_rng(0))
        assert set(driven.rows().kind.tolist()) == {Kind.HEARTBEAT}
        driven.close()
        found = [merged.next(), merged.next()]
        assert [batch.rows.pin_id.tolist() for batch in found if batch is not None] == [[1], [2]]
        assert len(list(final_rows(log))) == 0


def test_examples_go_through_a_message_of_kafka(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, partitions=1)
    write(settings, played_by_hand([SERVE, ("impression", 1, "r", 1), ("click", 2, "r", 1), ("beat", 2)]), np.random.default_rng(0))
    driven = Driven(settings, 0)
    driven.run(np.random.default_rng(0))
    with driving.open_log(settings, EXAMPLES) as log:
        [batch] = [one.records for one in log.read(0, 0, 9)]
    got = [arrow_of(value, stamp) for value, stamp in messages_of(batch) if value is not None]
    assert [told(rows_of([one], "")) for one in got if one is not None] == [told(driven.rows())]
    assert set(driven.rows().kind.tolist()) == {Kind.HEARTBEAT, Kind.NEGATIVE, Kind.POSITIVE}
    driven.close()


# What is wrong --------------------------------------------------------------------------------------------------------------------------


def test_a_log_or_a_state_that_was_altered_is_refused(tmp_path: Path) -> None:
    settings, played = settings_of(tmp_path, anchor_records=40), play(22)
    write(settings, played, np.random.default_rng(0))
    driven = Driven(settings, 0)
    task = driven.open(driven.ends())
    while task.catch_up(sum(driven.ends())):
        pass
    task.abandon()
    driven.open().abandon()
    [anchor] = settings.state.glob("examples/0000/anchor-*")
    saved = anchor.read_bytes()
    anchor.write_bytes(saved[:-1] + bytes([saved[-1] ^ 1]))
    with pytest.raises(StateError, match=r"working sets saved at position .* are not what was written; `tidemark examples restore`"):
        driven.open()
    driven.close()


def test_records_that_are_none_of_served_are_refused(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, partitions=1)
    write(settings, played_by_hand([("impression", 1, "r", 1)]), np.random.default_rng(0))
    with driving.open_log(settings, SERVED) as log:
        log.append([(0, pa.record_batch({"value": [b"x"], "timestamp": [START]})), (0, heartbeat(START + DAY))])
    driven = Driven(settings, 0)
    with pytest.raises(CorruptionError, match="holds records that are none of SERVED's"):
        driven.run(np.random.default_rng(0))
    driven.close()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, partitions=1)
    write(settings, played_by_hand([SERVE, ("impression", 1, "r", 1), ("beat", 1)]), np.random.default_rng(0))
    for more, error in (({}, None), ({"allowed_lateness_ms": 1}, DataDirectoryError)):
        driven = Driven(Settings(data=tmp_path, partitions=1, **more), 0)
        if error is None:
            driven.run(np.random.default_rng(0))
        else:
            with pytest.raises(error, match="other features or settings"):
                driven.run(np.random.default_rng(0))
        driven.close()


def test_one_served_tells_requests_apart() -> None:
    rng = np.random.default_rng(0)
    first, second = (one_served(rng, START, 1, "r", [1]) for _ in range(2))
    assert served_features(first, 0, {}) != served_features(second, 0, {})
