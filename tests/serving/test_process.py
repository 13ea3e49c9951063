"""The command itself: how it starts, how it ends, and what a kill or a full disk leaves behind."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.outputs import SERVED
from tests.processes import PATIENCE_S, Ended, await_true, ended, refused, settings_of, start, tidemark
from tests.processes import Simulated as Simulation
from tests.serving.http import Client, served
from tests.test_bad_input import Disk, disk

__all__ = ["disk"]


class Process:
    """A server's process and a client of it."""

    def __init__(self, process: subprocess.Popen[str], client: Client) -> None:
        self.process, self.client = process, client

    def stop(self, number: int = signal.SIGTERM) -> Ended:
        self.process.send_signal(number)
        return ended(self.process)


@contextmanager
def serving(data: Path, *options: object, **settings: object) -> Iterator[Process]:
    process = start("serve", "--port", 0, "--json", "--timeout", PATIENCE_S, *options, data=data, **settings)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield Process(process, Client(int(json.loads(line)["url"].rpartition(":")[2])))
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def data(simulated: Simulation, tmp_path: Path) -> Path:
    return Path(shutil.copytree(simulated.run, tmp_path / "data"))


def kept(data: Path) -> list[str]:
    return sorted((one for part in served(settings_of(data)) for one in part.request_id), key=int)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_what_is_under_way_and_keeps_all_that_was_served(number: int, data: Path) -> None:
    with serving(data) as server:
        for name in range(20):
            server.client.post({"users": [name], "pins": list(range(50)), "request_id": str(name)})
        done = server.stop(number)
    assert done.code == 0
    assert json.loads(done.out) == {"kept_rows": 20, "lost_rows": 0}
    assert done.err == ""
    assert kept(data) == [str(name) for name in range(20)]


def test_a_kill_loses_at_most_what_was_not_durable_and_leaves_a_log_that_can_be_read(data: Path) -> None:
    with serving(data) as server:
        for name in range(20):
            server.client.post({"users": [name], "request_id": str(name)})
        await_true(lambda: server.client.metric("tidemark_served_log_rows_total") == 20, "all is durable")
        for name in range(20, 120):
            server.client.post({"users": [name], "request_id": str(name)})
        assert server.stop(signal.SIGKILL).code == -signal.SIGKILL
    left = kept(data)
    assert left[:20] == [str(name) for name in range(20)]
    assert left == [str(name) for name in range(len(left))], "what is lost is what came last"
    # And serving goes on behind it.
    with serving(data) as server:
        server.client.post({"users": [1], "request_id": "999"})
        server.stop()
    assert kept(data) == [*left, "999"]
    tidemark("replay", "verify", data=data)


def test_what_was_served_is_archived_and_verified_like_every_log(data: Path) -> None:
    with serving(data) as server:
        for name in range(5):
            server.client.post({"users": [name, name + 1], "pins": [name], "request_id": str(name)})
        server.stop()
    tidemark("archive", "run", data=data)
    assert "0 problems" in tidemark("archive", "verify", "--log", SERVED, "--compare", data=data).out
    # From its archive it comes back, as it was.
    before = kept(data)
    settings = settings_of(data)
    (settings.logs / f"{SERVED}.db").unlink()
    tidemark("replay", "restore", "--log", SERVED, data=data)
    assert kept(data) == before
    # A restore of everything else leaves it alone.
    tidemark("replay", "restore", "--all", data=data)
    assert kept(data) == before


def test_what_was_served_and_is_damaged_without_an_archive_is_told_and_may_be_given_up(data: Path) -> None:
    with serving(data) as server:
        for name in range(5):
            server.client.post({"users": [7], "pins": [name], "request_id": str(name)})
            await_true(lambda n=name: server.client.metric("tidemark_served_log_rows_total") == n + 1, "it is durable")
        server.stop()
    file = settings_of(data).logs / f"{SERVED}.db"
    whole = file.read_bytes()
    at = whole.rfind(b"sequence_pin_id")
    file.write_bytes(whole[:at] + b"S" + whole[at + 1 :])
    assert f"tidemark replay restore --log {SERVED}" in tidemark("replay", "verify", data=data, code=1).out
    line = refused("replay", "restore", "--log", SERVED, data=data)
    assert "are neither in its file nor in its archive" in line
    assert "move logs/served.db and archive/served away, and serving begins another" in line
    # State is no worse for it.
    tidemark("run", data=data)
    file.unlink()
    with serving(data) as server:
        server.client.post({"users": [7], "request_id": "5"})
        server.stop()
    assert kept(data) == ["5"]
    tidemark("replay", "verify", data=data)


def test_several_servers_may_serve_one_directory(data: Path) -> None:
    with serving(data) as one, serving(data) as other:
        for name in range(10):
            (one if name % 2 else other).client.post({"users": [name], "request_id": str(name)})
        assert one.stop().code == other.stop().code == 0
    assert kept(data) == [str(name) for name in range(10)]


def test_a_full_disk_under_what_is_served(disk: Disk, simulated: Simulation) -> None:
    data = Path(shutil.copytree(simulated.run, disk.path / "data"))
    with serving(data, "--log-queue-mb", 1) as server:
        server.client.post({"users": [1], "request_id": "0"})
        await_true(lambda: server.client.metric("tidemark_served_log_rows_total") == 1, "a row is kept")
        disk.resize(disk.used() + 8_192)
        name = 0
        while not server.client.metric('tidemark_served_log_dropped_total{reason="queue_full"}'):
            name += 1
            server.client.post({"users": [name], "pins": list(range(900)), "request_id": str(name)})
        await_true(lambda: "the disk is full" in str(server.client.get("/readyz")["served_log"].get("trouble")), "an append has failed")
        dropped = [name]
        disk.resize(100_000_000)
        await_true(lambda: server.client.get("/readyz")["served_log"]["ok"], "the log takes rows again")
        server.client.post({"users": [1], "request_id": str(name + 1)})
        done = server.stop()
    assert done.code == 1, "what was dropped is told at the end too"
    assert json.loads(done.out) == {"kept_rows": name + 1, "lost_rows": 1}
    none, again, end = done.err.splitlines()
    assert none.startswith("tidemark: log 'served' has no room for what is served: ")
    assert again == "tidemark: log 'served' takes what is served again; rows lost so far: 1"
    assert end.startswith("tidemark: 1 rows that were served are not in log 'served' (")
    assert "the disk is full" in end
    assert kept(data) == [str(one) for one in range(name + 2) if one not in dropped]


def test_what_can_not_be_served_is_refused(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused("serve", "--port", taken.getsockname()[1], data=data)
        assert "Address already in use; give another --host or --port" in line
    assert "can't serve at 999.0.0.1:8080" in refused("serve", "--host", "999.0.0.1", data=data)
    line = refused("serve", "--port", 0, data=data, allowed_lateness_ms=5)
    assert "was made under other features or settings" in line
    assert tidemark("serve", "--timeout", 0, data=data, code=2).err
    assert "Example: tidemark serve" in tidemark("serve", "--help", data=data).out


def test_a_server_without_a_directory_waits_for_one(tmp_path: Path) -> None:
    data = tmp_path / "nothing"
    with serving(data) as server:
        assert server.client.get("/readyz", status=503)["reasons"]
        done = server.stop()
    assert done.code == 0
    assert "the store does not answer yet: there is no log 'actions'" in done.err
    assert not data.exists()
