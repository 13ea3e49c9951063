"""The flows are ordinary Bytewax flows: `python -m bytewax.run` in any of its forms leads to the same bytes as `tidemark run`."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import (
    PARTITIONS,
    ROOT,
    Ended,
    Simulated,
    assert_same,
    await_true,
    end_all,
    ended,
    environment,
    outcome,
    settings_of,
    simulated_once,
    watching,
)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    return simulated_once(tmp_path_factory)


def start(*arguments: object, data: Path, module: str = "bytewax.run", **settings: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment(partitions=PARTITIONS, data=data, **settings),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def bytewax(*arguments: object, data: Path, module: str = "bytewax.run", **settings: object) -> Ended:
    done = ended(start(*arguments, data=data, module=module, **settings))
    assert done.code == 0, done.err
    return done


def free_ports(number: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


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


def test_two_processes_of_one_cluster(simulated: Simulated, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    addresses = ";".join(f"127.0.0.1:{port}" for port in free_ports(2))
    cluster = [start("flows.all:flow", "-i", i, "-a", addresses, data=data) for i in range(2)]
    try:
        assert [ended(one).code for one in cluster] == [0, 0]
    finally:
        for one in cluster:
            end_all(one)
    check(data, simulated, tmp_path)


def test_killed_and_resumed_by_bytewaxs_own_recovery(simulated: Simulated, tmp_path: Path) -> None:
    data, recovery = simulated.copy(tmp_path / "data"), tmp_path / "recovery"
    recovery.mkdir()
    bytewax(recovery, 2, data=data, module="bytewax.recovery")
    options = ("-r", recovery, "-s", 0, "-b", 0)
    process = start("flows.all:flow", *options, data=data, batch_records=20)
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
