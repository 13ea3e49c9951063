"""What runs beside the kernels: order, bounds, and that nothing more is committed once something has failed."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa
import pytest

import flows.dataflow.ahead
import flows.dataflow.source
import flows.state.behind
from flows.dataflow.ahead import Ahead
from flows.dataflow.plan import Plan
from flows.dataflow.source import LogSource, Part
from flows.errors import StateError, StorageFullError
from flows.log import LocalLog
from flows.outputs import ACTIONS, REVISITS
from flows.state.behind import Behind, Lanes, Together
from flows.state.store import TaskStore
from tests.state.house import House
from tests.strategies import adversarial

# Commits behind ----------------------------------------------------------------------------------------------------------------------------


def test_jobs_are_done_in_order() -> None:
    behind, done = Behind("test"), []
    last = [behind.do(lambda i=i: done.append(i), records=i) for i in range(100)][-1]  # type: ignore[misc]
    last.result()
    assert done == list(range(100))


def test_after_a_failure_nothing_more_is_done() -> None:
    behind, done = Behind("test"), []

    def fail() -> None:
        raise StorageFullError("full")

    held = threading.Event()
    behind.do(lambda: bool(held.wait(10)))  # type: ignore[arg-type,return-value]
    first, second = behind.do(fail), behind.do(lambda: done.append(1))
    held.set()
    for future in (first, second):
        with pytest.raises(StorageFullError, match="full"):
            future.result()
    with pytest.raises(StorageFullError, match="full"):
        behind.do(lambda: done.append(2))
    assert not done


def test_records_that_wait_are_bounded_but_one_job_always_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.state.behind, "RECORDS", 10)
    behind, go, started = Behind("test"), threading.Event(), threading.Event()
    behind.do(lambda: bool(go.wait(10)), records=50)  # type: ignore[arg-type,return-value]
    third: list[Future[None]] = []

    def give() -> None:
        started.set()
        third.append(behind.do(lambda: None, records=1))

    giver = threading.Thread(target=give)
    giver.start()
    started.wait(10)
    giver.join(0.2)
    assert giver.is_alive(), "it waits while 50 records wait"
    go.set()
    giver.join(10)
    third[0].result()


def test_what_comes_while_it_works_is_worked_on_at_once_and_in_order() -> None:
    begun, go, worked = threading.Event(), threading.Event(), []

    def work(items: list[int]) -> None:
        worked.append(items)
        begun.set()
        go.wait(10)

    together = Together("test", work)
    together.do(0)
    assert begun.wait(10)
    rest = [together.do(i) for i in range(1, 6)]
    go.set()
    for future in rest:
        future.result()
    assert worked == [[0], [1, 2, 3, 4, 5]]


def test_an_item_fails_with_those_that_it_was_worked_on_with() -> None:
    begun, go = threading.Event(), threading.Event()

    def work(items: list[int]) -> None:
        begun.set()
        go.wait(10)
        if 2 in items:
            raise StorageFullError("full")

    together = Together("test", work)
    first = together.do(1)
    assert begun.wait(10)
    second, third = together.do(2), together.do(3)
    go.set()
    first.result()
    for future in (second, third):
        with pytest.raises(StorageFullError):
            future.result()
    with pytest.raises(StorageFullError):
        together.do(4)


def test_nothing_is_published_before_it_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all tasks that wait are synced before any of them publishes, with one append."""
    house = House(tmp_path / "house", adversarial(20, 300, partitions=2), partitions=2, lanes=Lanes.start())
    tasks = [house.open(partition=p) for p in range(2)]
    held, done = threading.Event(), []
    sync, append = TaskStore.sync, house.logs[REVISITS].append

    def slow_sync(store: TaskStore) -> None:
        held.wait(10)
        sync(store)
        done.append("sync")

    def told_append(batches: object) -> object:
        done.append("append")
        return append(batches)  # type: ignore[arg-type]

    monkeypatch.setattr(TaskStore, "sync", slow_sync)
    monkeypatch.setattr(house.logs[REVISITS], "append", told_append)
    for _ in range(2):
        for task in tasks:
            task.apply(house.logs[ACTIONS].read(task.partition, task.reached, 50))
    assert wait_until(lambda: not any(task.busy() for task in tasks))
    assert done == []
    assert sum(house.logs[REVISITS].end_positions()) == 0
    held.set()
    for task in tasks:
        task.settle()
    # The first sync may have begun before the rest was written.
    assert done[0] == "sync"
    assert done.count("append") <= 2
    assert sum(house.logs[REVISITS].end_positions()) == sum(sum(task.store.meta.sequences[REVISITS]) for task in tasks) > 0
    for task in tasks:
        task.close()
    house.close()


def test_a_task_is_settled_only_when_all_is_published(tmp_path: Path) -> None:
    """A commit hands over what is to be published after `settle` has begun to wait."""
    house = House(tmp_path / "house", adversarial(20, 150, partitions=1), lanes=Lanes.start())
    task = house.open()
    released, append = threading.Event(), house.logs[REVISITS].append

    def slow(batches: object) -> object:
        released.wait(10)
        return append(batches)  # type: ignore[arg-type]

    house.logs[REVISITS].append = slow  # type: ignore[method-assign,assignment]
    commits = task._lanes.commits  # type: ignore[union-attr]
    held = threading.Event()
    commits.do(lambda: bool(held.wait(10)))  # type: ignore[arg-type,return-value]
    task.apply(house.logs[ACTIONS].read(0, 0, 150))
    settling = threading.Thread(target=task.settle)
    settling.start()
    held.set()
    settling.join(0.3)
    assert settling.is_alive()
    released.set()
    settling.join(10)
    assert sum(house.logs[REVISITS].end_positions()) == sum(task.store.meta.sequences[REVISITS]) > 0
    task.close()
    house.close()


def test_lanes_change_nothing(tmp_path: Path) -> None:
    events = adversarial(21, 400, partitions=1)
    digests = set()
    for name, lanes in (("plain", None), ("lanes", Lanes.start())):
        house = House(tmp_path / name, events, lanes=lanes, anchor_records=50)
        task = house.open()
        house.feed(task, [7, 30, 1])
        task.settle()
        digests.add((task.digest(), tuple(house.logs[REVISITS].end_positions())))
        task.close()
        task = house.open()
        digests.add((task.digest(), tuple(house.logs[REVISITS].end_positions())))
        task.close()
        house.close()
    assert len(digests) == 1


def test_a_commit_that_failed_is_raised_at_the_latest_by_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(tmp_path / "house", adversarial(20, 150, partitions=1), lanes=Lanes.start())
    task = house.open()
    task.apply(house.logs[ACTIONS].read(0, 0, 50))
    task.settle()
    assert task.settled()
    monkeypatch.setattr(type(task.store), "write", lambda *_: (_ for _ in ()).throw(StorageFullError("full")))
    task.apply(house.logs[ACTIONS].read(0, 0, 100))
    with pytest.raises(StorageFullError):
        task.settle()
    with pytest.raises(StorageFullError):
        task.settled()
    with pytest.raises(StorageFullError):
        task.apply(house.logs[ACTIONS].read(0, 100, 50))
    with pytest.raises(StorageFullError):
        task.close()
    assert house.open().position == 50, "the task was let go of"
    house.close()


@pytest.mark.parametrize("where", ["write", "sync"])
def test_damage_to_one_task_is_its_own(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commits end there, with nothing published after it; those of others go on; and opened again, it goes on from its last commit."""
    events = adversarial(21, 400, partitions=2)
    house = House(tmp_path / "house", events, partitions=2, lanes=Lanes.start())
    damaged, sound = (house.open(partition=p) for p in range(2))
    damaged.apply(house.logs[ACTIONS].read(0, 0, 20))
    damaged.settle()
    published = house.logs[REVISITS].end_positions()
    whole = getattr(TaskStore, where)

    def fails(store: TaskStore, *arguments: object) -> object:
        if store is damaged.store:
            raise StateError("damaged")
        return whole(store, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(TaskStore, where, fails)
        damaged.apply(house.logs[ACTIONS].read(0, 20, 100))
        with pytest.raises(StateError):
            damaged.settle()
    # Of what comes after the damage nothing is done, though it would go well now.
    damaged.apply(house.logs[ACTIONS].read(0, 120, 50))
    with pytest.raises(StateError):
        damaged.settle()
    with pytest.raises(StateError):
        damaged.settled()
    damaged.abandon()
    assert damaged.position == 20 or where == "sync"
    assert house.logs[REVISITS].end_positions() == published
    house.feed(sound, [50])
    sound.settle()
    sound.close()
    again = house.open(partition=0)
    assert again.position <= 120
    again.close()
    house.lanes = None
    got = house.finish([70])
    house.close()
    plain = House(tmp_path / "plain", events, partitions=2)
    assert got == plain.finish([70])
    plain.close()


# Following a log ---------------------------------------------------------------------------------------------------------------------------


def test_a_followed_log_is_gathered_while_the_task_is_busy(tmp_path: Path) -> None:
    with LocalLog.open(tmp_path, ACTIONS, 1, create=True) as log:
        busy = [False]
        source = LogSource(
            lambda: log, 1, lambda *_: 0, Plan(follow=True), 100, None, lambda partition: lambda *read: read, lambda p: busy[0]
        )
        partition = source.build_part("step", "0", None)
        record = pa.record_batch({"n": [1]})

        def parts() -> list[Part]:
            return [part for _, part in partition.next_batch()]

        assert parts() == [Part(0, 0)]
        log.append([(0, record)])
        assert wait_until(lambda: (found := parts()) and [b.end_offset for b in found[0].batches] == [1])
        busy[0] = True
        for _ in range(3):
            log.append([(0, record)])
            assert parts() == []
        busy[0] = False
        found: list[Part] = []
        assert wait_until(lambda: found.extend(parts()) or found)
        [part] = found
        assert (part.start, sum(b.records.num_rows for b in part.batches), len(part.decoded)) == (1, 3, 3)
        # More than can be taken at once: the next is read ahead, whatever the task is at.
        log.append([(0, pa.record_batch({"n": range(150)}))])
        assert wait_until(lambda: (found := parts()) and found[0].start == 4)
        busy[0] = True
        assert wait_until(lambda: (found := parts()) and found[0].start == 104)
        partition.close()


def test_an_input_does_not_end_before_its_task_has_come_back(tmp_path: Path) -> None:
    with LocalLog.open(tmp_path, ACTIONS, 1, create=True) as log:
        held = [True]
        source = LogSource(lambda: log, 1, lambda *_: 0, Plan(), 100, lambda partition: 0, held=lambda partition: held[0])
        partition = source.build_part("step", "0", None)
        assert [part for _, part in partition.next_batch()] == [Part(0, 0)]
        for _ in range(3):
            assert list(partition.next_batch()) == []
        held[0] = False

        def ended() -> bool:
            try:
                return bool(list(partition.next_batch()))
            except StopIteration:
                return True

        assert wait_until(ended)
        partition.close()


def test_a_task_that_is_wanted_is_told_while_its_log_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an empty part now and then, for as long as it is; whatever else comes, comes in its order."""
    monkeypatch.setattr(flows.dataflow.source, "_LOOK", 0.0)
    with LocalLog.open(tmp_path, ACTIONS, 1, create=True) as log:
        wanted = [False]
        source = LogSource(lambda: log, 1, lambda *_: 0, Plan(follow=True), 100, None, wanted=lambda partition: wanted[0])
        partition = source.build_part("step", "0", None)
        assert [part for _, part in partition.next_batch()] == [Part(0, 0)]
        assert list(partition.next_batch()) == []
        log.append([(0, pa.record_batch({"n": [1]}))])
        found: list[Part] = []
        assert wait_until(lambda: found.extend(part for _, part in partition.next_batch()) or found)
        assert found[0].batches
        wanted[0] = True
        assert wait_until(lambda: [part for _, part in partition.next_batch()] == [Part(0, 1)])
        partition.close()


# Reading ahead -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def deep() -> Ahead[int]:
    return Ahead()


def wait_until(condition: object, seconds: float = 10) -> bool:
    done = threading.Event()
    for _ in range(int(seconds * 1000)):
        if condition():  # type: ignore[operator]
            return True
        done.wait(0.001)
    return False


def test_no_more_than_so_many_lie_untaken(deep: Ahead[int]) -> None:
    begun: list[int] = []
    futures = [deep.submit(lambda i=i: begun.append(i) or i) for i in range(6)]  # type: ignore[misc]
    assert wait_until(lambda: len(begun) == flows.dataflow.ahead.DEPTH)
    threading.Event().wait(0.05)
    assert len(begun) == flows.dataflow.ahead.DEPTH
    # Whoever waits for a later one gets it, and the rest in any order.
    assert deep.take(futures[5]) == 5
    assert [deep.take(futures[i]) for i in (1, 0, 4, 2, 3)] == [1, 0, 4, 2, 3]


def test_what_a_job_raises_is_raised_where_it_is_taken(deep: Ahead[int]) -> None:
    failed, fine = deep.submit(lambda: 1 // 0), deep.submit(lambda: 7)
    with pytest.raises(ZeroDivisionError):
        deep.take(failed)
    assert deep.take(fine) == 7


def test_dropped_ones_make_room(deep: Ahead[int]) -> None:
    futures = [deep.submit(lambda i=i: i) for i in range(9)]  # type: ignore[misc]
    for future in futures[:8]:
        deep.drop(future)
    assert deep.take(futures[8]) == 8


def test_a_process_that_fails_does_not_wait_for_its_reader() -> None:
    code = "from flows.dataflow.ahead import Ahead\na = Ahead()\nfor i in range(9): a.submit(lambda: 1)\nraise SystemExit(3)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 3
