"""What a soak rests on: its stream, its faults, its checks, which must find what is lost, doubled or wrong, and its slope of memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import _soak_events
from benchmarks._chaos_outcome import Said, say
from benchmarks._soak_checks import Verdict, check_counts, check_served
from benchmarks._soak_events import ACTIONS, SAVE, SURFACES, Events, stream
from benchmarks._soak_faults import KINDS, drawn
from benchmarks._soak_load import Asked, Producer
from benchmarks._soak_memory import Memory, rows_in, slope
from benchmarks._soak_stack import DEDUP_MS, LATENESS_MS
from benchmarks.soak import _fitting, _latencies
from flows.errors import LogError
from flows.log import LocalLog
from flows.outputs import ACTIONS as ACTIONS_LOG
from flows.settings import Settings
from tests.processes import settings_of, tidemark
from tests.serving.http import Running, running

NOW = 1_700_000_000_000
L_AND_H = {"allowed_lateness_ms": LATENESS_MS, "dedup_horizon_ms": DEDUP_MS}


def test_the_greatest_rate_that_fits_takes_all_that_is_free() -> None:
    # A million events took 2 KB each, and 8 GB are left: 2 million more in 100 s take the half.
    assert _fitting(10 * 10**9, 8 * 10**9, 10**6, 100) == pytest.approx(40_000)
    assert _fitting(10**9, 2 * 10**9, 10**6, 100) > 10**6, "where nothing is held, memory is no bound"


def test_of_redis_what_lies_free_between_rows_is_theirs() -> None:
    assert rows_in({"used_memory_dataset": 1_000, "allocator_active": 3_000, "allocator_allocated": 2_000}) == 1_500
    assert rows_in({"used_memory_dataset": 1_000, "allocator_active": 0, "allocator_allocated": 0}) == 1_000, (
        "another allocator tells nothing"
    )


def test_clicks_are_about_what_was_saved() -> None:
    events = stream(np.arange(20_000), np.arange(20_000) + NOW)
    saved: set[tuple[int, int]] = set()
    clicks = 0
    for user, pin, action, surface in zip(events.user_id, events.pin_id, events.action, events.surface, strict=True):
        if action == SAVE:
            saved.add((user, pin))
        if ACTIONS[action] == "grid_click":
            assert (user, pin) in saved
            assert SURFACES[surface] == "own_profile"
            clicks += 1
    assert clicks == sum(i % 64 == 63 for i in range(4_096, 20_000))
    assert len(set(events.event_id.tolist())) == 20_000


def test_faults_are_drawn_once_for_all() -> None:
    faults = drawn(len(KINDS) + 3, 1_800, seed=5)
    assert faults == drawn(len(KINDS) + 3, 1_800, seed=5)
    assert faults != drawn(len(KINDS) + 3, 1_800, seed=6)
    assert Counter(fault.kind for fault in faults[: len(KINDS)]) == dict.fromkeys(KINDS, 1)
    times = [fault.at for fault in faults]
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] < 0.95 * 1_800


def test_a_slope_is_one_for_all_lives_with_a_level_for_each() -> None:
    memory = Memory()
    for level, begins in ((100, 0), (50, 1_000)):
        memory.begin()
        for at in range(0, 600, 10):
            # Whatever it does while it settles.
            memory.add(begins + at, level * 2**20 + at * 36 * 2**20 // 3_600 if at >= 100 else 2**33)
    found = slope(memory, 100)
    assert found is not None
    assert found.mib_an_hour == pytest.approx(36, rel=0.1)
    assert found.error < 2
    assert found.minutes == pytest.approx(2 * 490 / 60, rel=0.01)
    assert found.growth == pytest.approx(36 * found.minutes / 60 / found.mean_mib, rel=0.1)
    assert slope(Memory([[(0.0, 1), (2.0, 1)]]), 0) is None


def test_what_is_given_back_is_no_growth() -> None:
    """Rounds that take longer and longer, and more and more, with a pause between them; and one that keeps a little of each."""
    for kept, grows in ((0, 0.0), (2, 60.0)):
        memory = Memory()
        for at in range(0, 1_800, 10):
            in_round = at % 120 < 30 + at // 60
            memory.add(at, (100 + kept * (at // 120) + in_round * at // 10) * 2**20)
        found = slope(memory, 0)
        assert found is not None
        assert found.mib_an_hour == pytest.approx(grows, rel=0.1, abs=1e-6)
        assert found.greatest_mib > 250


def test_working_sets_are_no_growth() -> None:
    memory = Memory()
    for at in range(0, 600, 10):
        memory.add(at, (100 + at) * 2**20, at * 2**20)
    found = slope(memory, 0)
    assert found is not None
    assert found.mib_an_hour == pytest.approx(0, abs=1e-6)
    assert (found.mean_mib, memory.working_sets) == (100, 590 * 2**20)


def test_requests_that_a_fault_disturbed_are_told_apart() -> None:
    asked = Asked(due=[100.0, 110.0, 119.0, 140.0], took=[0.01, 0.02, 3.0, 0.03], failed=[121.0])
    told = _latencies(asked, [{"kind": "x", "at": 20.0, "well_after": 2.0}])
    assert (told["answered"], told["failed"]) == (4, 1)
    assert told["all"]["max_ms"] == 3_000
    # The third was under way when it struck.
    assert told["undisturbed"] == {"p50_ms": 20.0, "p99_ms": 29.8, "max_ms": 30.0, "requests": 3}


@pytest.fixture(scope="module")
def produced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Producer, Settings]:
    """A stream with everything that is slipped into it, in an embedded log, once a broker would have refused it; and what flows make of it."""
    settings = settings_of(tmp_path_factory.mktemp("soak") / "data", **L_AND_H)
    producer = Producer(settings, 3_000.0)
    with LocalLog.open(settings.logs, ACTIONS_LOG, settings.partitions, create=True) as log:
        producer._append(log, producer._of_stream(6_000))
    append, refusals = LocalLog.append, iter([True, False])

    def refusing(log: LocalLog, *given: object, **named: object) -> object:
        done = append(log, *given, **named)  # type: ignore[arg-type]
        if next(refusals, False):
            raise LogError("not acknowledged, though it is there")
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalLog, "append", refusing)
        producer.send_late(40, (LATENESS_MS + DEDUP_MS) // 2)
        producer.send_malformed(13)
        ranked = Events(*(np.array([value]) for value in (_soak_events.RANKED_IDS, 151, 302, SAVE, 0, NOW * 2)))
        producer.hand(replace(ranked, event_time=np.array([producer.sent.newest])), "request")
        producer.start()
        producer.double()
        producer.end()
    assert producer.retries == 1
    tidemark("run", data=settings.data, **L_AND_H)
    return producer, settings


@pytest.fixture(scope="module")
def said(produced: tuple[Producer, Settings], tmp_path_factory: pytest.TempPathFactory) -> Said:
    return say(produced[1], tmp_path_factory.mktemp("said"))


@pytest.fixture(scope="module")
def server(produced: tuple[Producer, Settings]) -> Iterator[Running]:
    with running(produced[1]) as made:
        yield made


def test_what_is_lost_doubled_or_left_is_found(produced: tuple[Producer, Settings], said: Said) -> None:
    sent = produced[0].sent
    assert sent.events > 6_000
    assert sent.malformed_again == sent.malformed == 13
    for had, lost, doubled in ((sent.events, 0, 0), (sent.events - 2, 2, 0), (sent.events + 3, 0, 3)):
        verdict = Verdict()
        check_counts(verdict, replace(said, counts=said.counts | {"accepted": had}), sent)
        assert (verdict.lost, verdict.doubled, verdict.mismatched, len(verdict.differences)) == (lost, doubled, 0, bool(lost + doubled))
    verdict = Verdict()
    check_counts(verdict, replace(said, lag=1), replace(sent, doubled=10**6))
    assert verdict.mismatched == 2


def test_what_is_served_is_held_against_what_was_sent(produced: tuple[Producer, Settings], server: Running) -> None:
    producer, settings = produced
    verdict = Verdict()
    check_served(verdict, producer.sent, server.client.port, settings.partitions)
    assert verdict == Verdict(checked=verdict.checked)
    assert verdict.checked["values served, against the oracle"] > 9_000
    # One event that was sent and, for all that is served, never came.
    lost = Events(*(np.array([value]) for value in (1 << 50, 151, 7, SAVE, 0, producer.sent.newest)))
    producer.sent.add(lost)
    verdict = Verdict()
    check_served(verdict, producer.sent, server.client.port, settings.partitions)
    assert verdict.mismatched == 1
    assert "user 151 is served with another sequence" in verdict.differences[0]
