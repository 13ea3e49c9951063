"""The flows are ordinary Bytewax flows: `python -m bytewax.run` in any of its forms leads to the same bytes as `tidemark run`."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.ports import free_ports
from tests.processes import (
    PATIENCE_S,
    Ended,
    Simulated,
    assert_same,
    await_true,
    end_all,
    ended,
    kill,
    outcome,
    settings_of,
    start_bytewax,
    watching,
)
from tests.sparing import first


def bytewax(*arguments: object, data: Path, module: str = "bytewax.run", **settings: object) -> Ended:
    done = ended(start_bytewax(*arguments, data=data, module=module, **settings))
    assert done.code == 0, done.err
    return done


def check(data: Path, simulated: Simulated, tmp_path: Path) -> None:
    assert_same(outcome(settings_of(data), tmp_path / "exports"), simulated.clean)


@pytest.mark.parametrize("threads", [1, 2])
def test_both_flows_in_one(simulated: Simulated, threads: int, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    bytewax("flows.all:flow", "-w", threads, data=data, batch_records=500)
    check(data, simulated, tmp_path)


def test_one_flow_after_the_other(simulated: Simulated, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    bytewax("flows.actions:flow", data=data)
    bytewax("flows.revisits:flow(follow=False)", "-w", 2, data=data)
    check(data, simulated, tmp_path)


def cluster(processes: int, data: Path, flow: str = "flows.all:flow", **settings: object) -> list[subprocess.Popen[str]]:
    addresses = ";".join(f"127.0.0.1:{port}" for port in free_ports(processes))
    return [start_bytewax(flow, "-i", i, "-a", addresses, data=data, **settings) for i in range(processes)]


def test_two_processes_of_one_cluster(simulated: Simulated, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    processes = cluster(2, data)
    try:
        assert [ended(one).code for one in processes] == [0, 0]
    finally:
        for one in processes:
            end_all(one)
    check(data, simulated, tmp_path)


@pytest.mark.parametrize("follow", first(1, [True, False]))
def test_a_cluster_stops_as_one(simulated: Simulated, follow: bool, tmp_path: Path) -> None:
    """Alone, a process would wait for ever: its tasks for what the other reads, the other for the tasks that have not come to their end."""
    data = simulated.copy(tmp_path / "data")
    processes = cluster(2, data, f"flows.all:flow(follow={follow})", batch_records=5)
    try:
        with watching(settings_of(data)) as watch:
            await_true(lambda: watch.position() > 100 or any(one.poll() is not None for one in processes), "something is committed")
        processes[1].send_signal(signal.SIGTERM)
        assert [ended(one).code for one in processes] == [0, 0]
    finally:
        for one in processes:
            end_all(one)
    with watching(settings_of(data)) as watch:
        assert 100 < watch.position() < simulated.records, "it was stopped, and it did not come to its end"
    bytewax("flows.all:flow", "-w", 3, data=data)
    check(data, simulated, tmp_path)


def test_a_cluster_that_loses_a_process_goes_on_with_another_size(simulated: Simulated, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    for victim, size in enumerate((3, 2)):
        processes = cluster(size, data, batch_records=10)
        try:
            with watching(settings_of(data)) as watch:
                target = watch.position() + 200
                await_true(lambda: watch.position() > target or all(one.poll() is not None for one in processes), "more is committed")  # noqa: B023
            kill(processes[victim].pid)
            # Bytewax aborts the others.
            for one in processes:
                one.communicate(timeout=PATIENCE_S)
            assert 0 not in [one.returncode for one in processes]
        finally:
            for one in processes:
                end_all(one)
    bytewax("flows.all:flow", data=data)
    check(data, simulated, tmp_path)


def test_killed_and_resumed_by_bytewaxs_own_recovery(simulated: Simulated, tmp_path: Path) -> None:
    data, recovery = simulated.copy(tmp_path / "data"), tmp_path / "recovery"
    recovery.mkdir()
    bytewax(recovery, 2, data=data, module="bytewax.recovery")
    options = ("-r", recovery, "-s", 0, "-b", 0)
    process = start_bytewax("flows.all:flow", *options, data=data, batch_records=20)
    with watching(settings_of(data)) as watch:
        await_true(lambda: watch.position() > simulated.records // 3 or process.poll() is not None, "a third is committed")
    assert process.poll() is None
    end_all(process)
    ended(process)
    # With more threads, so that partitions move, and from what Bytewax remembers, which is behind or ahead of what tasks know.
    bytewax("flows.all:flow", *options, "-w", 2, data=data)
    check(data, simulated, tmp_path)
    bytewax("flows.all:flow", *options, data=data)
    check(data, simulated, tmp_path)
