"""What was served is kept: in order, never twice, never lost without a word, whatever the log does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.errors import LogError, StorageFullError
from flows.log import LocalLog
from flows.served_rows import Served
from flows.settings import Settings
from online_model.serving import served_log, server
from online_model.serving.metrics import NOT_ENCODED, QUEUE_FULL, STOPPED, Metrics
from online_model.serving.options import Options
from online_model.serving.served_log import ServedLog
from tests.processes import PATIENCE_S, await_true
from tests.serving.conftest import PARTITIONS, Site
from tests.serving.http import running, served
from tests.serving.test_served_rows import served as made_up

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_log, "_AGAIN_S", 0.02)
    monkeypatch.setattr(served_log, "_LINGER_S", 0.01)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, partitions=PARTITIONS)


def row(name: int, pins: int = 1) -> Served:
    return made_up(np.random.default_rng(0), 0, pins, (), request_id=str(name))


def names(settings: Settings) -> list[str]:
    return sorted((one for part in served(settings) for one in part.request_id), key=int)


def dropped(metrics: Metrics, reason: str) -> float:
    return metrics.registry.get_sample_value("tidemark_served_log_dropped_total", {"reason": reason}) or 0.0


class Appends:
    """Stands before a log's appends: fails them, or holds them up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = None
        self.calls = 0
        self.open = threading.Event()
        self.open.set()
        append = LocalLog.append

        def instead(log: LocalLog, batches: Any, **more: Any) -> Any:
            self.calls += 1
            assert self.open.wait(PATIENCE_S)
            if self.error is not None:
                raise self.error
            return append(log, batches, **more)

        monkeypatch.setattr(LocalLog, "append", instead)


@pytest.fixture
def appends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Appends]:
    made = Appends(monkeypatch)
    yield made
    made.open.set()


def test_all_that_waits_is_appended_at_once_in_order(settings: Settings, appends: Appends) -> None:
    log = ServedLog(settings, MIB, Metrics())
    appends.open.clear()
    assert log.offer(row(0))
    await_true(lambda: appends.calls == 1, "the first row is under way")
    assert all(log.offer(row(name)) for name in range(1, 50))
    appends.open.set()
    assert log.close(PATIENCE_S) == 0
    assert appends.calls == 2
    assert names(settings) == [str(name) for name in range(50)]
    for part in served(settings):
        assert part.request_id == sorted(part.request_id, key=int)
    assert (log.kept, log.lost, log.trouble) == (50, 0, None)


def test_a_row_without_room_is_refused_and_counted_and_there_is_room_again(settings: Settings, appends: Appends) -> None:
    metrics = Metrics()
    log = ServedLog(settings, MIB, metrics)
    appends.open.clear()
    taken = 0
    while log.offer(row(taken, 500)):
        taken += 1
    assert taken > 3
    assert (log.lost, log.has_room()) == (0, True)
    log.pass_over(row(taken, 500))
    assert (log.lost, dropped(metrics, QUEUE_FULL)) == (1, 1)
    assert log.trouble is not None
    assert "1 MiB of them wait" in log.trouble
    appends.open.set()
    await_true(lambda: log.kept == taken, "what waited is kept")
    await_true(lambda: log.trouble is None, "nothing is wrong any more")
    assert log.offer(row(taken, 500))
    assert log.close(PATIENCE_S) == 1
    assert names(settings) == [str(name) for name in range(taken + 1)]


@pytest.mark.parametrize("error", [StorageFullError("the disk is full"), LogError("it broke"), OSError("nobody has foreseen this")])
def test_what_an_append_fails_with_is_tried_again_until_it_works(error: Exception, settings: Settings, appends: Appends) -> None:
    log = ServedLog(settings, MIB, Metrics())
    appends.error = error
    assert log.offer(row(0))
    await_true(lambda: log.trouble is not None and appends.calls > 2, "it was tried again")
    assert log.offer(row(1))
    assert str(error) in str(log.trouble)
    appends.error = None
    await_true(lambda: log.kept == 2, "both are kept")
    assert log.trouble is None
    assert log.close(PATIENCE_S) == 0
    assert names(settings) == ["0", "1"]


def test_the_end_waits_for_a_log_so_long_and_tells_what_is_lost(settings: Settings, appends: Appends) -> None:
    metrics = Metrics()
    log = ServedLog(settings, MIB, metrics)
    appends.error = StorageFullError("the disk is full")
    assert all(log.offer(row(name)) for name in range(3))
    assert log.close(0.05) == 3
    assert dropped(metrics, STOPPED) == 3
    assert not log.offer(row(4))


def test_the_end_waits_no_longer_for_an_append_that_hangs(settings: Settings, appends: Appends) -> None:
    log = ServedLog(settings, MIB, Metrics())
    appends.open.clear()
    assert log.offer(row(0))
    await_true(lambda: appends.calls == 1, "the row is under way")
    assert log.offer(row(1))
    assert log.close(0.05) == 2


def test_rows_that_can_not_be_encoded_are_counted_and_hold_up_no_others(
    settings: Settings, appends: Appends, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    encode: Callable[..., list[tuple[int, pa.RecordBatch]]] = served_log.batches_of

    def instead(taken: list[Served], *more: Any) -> list[tuple[int, pa.RecordBatch]]:
        if any(one.request_id == "7" for one in taken):
            raise ValueError("a bug")
        return encode(taken, *more)

    monkeypatch.setattr(served_log, "batches_of", instead)
    log = ServedLog(settings, MIB, metrics)
    assert log.offer(row(7))
    await_true(lambda: log.lost == 1, "it was given up")
    assert log.offer(row(8))
    assert log.close(PATIENCE_S) == 1
    assert (names(settings), dropped(metrics, NOT_ENCODED)) == (["8"], 1)
    assert "1 rows that were served can't be put into records" in caplog.text


def test_what_rows_were_lost_for_is_said_though_it_has_passed(
    settings: Settings, appends: Appends, caplog: pytest.LogCaptureFixture
) -> None:
    """Once when rows find no room, and once when they do again."""
    log = ServedLog(settings, MIB, Metrics())
    appends.error = StorageFullError("the disk is full; free some space and run this again")
    for name in range(100):
        if not log.offer(row(name, 500)):
            log.pass_over(row(name, 500))
    await_true(lambda: log.trouble == "the disk is full; free some space", "an append has failed")
    appends.error = None
    await_true(lambda: "takes what is served again" in caplog.text, "all that waited is kept")
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("log 'served' has no room for what is served: ")
    assert log.close(PATIENCE_S) == log.lost > 1
    assert log.why_lost == "the disk is full; free some space"


def test_answers_go_on_without_room_unless_it_is_required(site: Site, appends: Appends) -> None:
    for required in (False, True):
        appends.error = StorageFullError("the disk is full")
        options = Options(timeout_s=PATIENCE_S, require_log=required, log_queue_bytes=MIB, drain_s=0.05)
        with running(site.settings, options) as server:
            asked = {"pins": site.pins * 8}
            reply = server.client.ask("POST", "/v1/features", asked)
            while server.service.log.lost == 0 and reply.status == 200:
                reply = server.client.ask("POST", "/v1/features", asked)
            await_true(lambda: "the disk is full" in str(server.service.log.trouble), "an append has failed")
            ready = server.client.ask("GET", "/readyz")
            assert "the disk is full" in ready.json()["served_log"]["trouble"]
            if required:
                assert (reply.status, reply.headers["retry-after"], ready.status) == (503, "1", 503)
                reply = server.client.ask("POST", "/v1/features", asked)
                assert "which has no room (the disk is full)" in reply.json()["error"]
                assert server.service.log.lost == 0
                assert "log 'served': the disk is full" in ready.json()["reasons"]
            else:
                assert (reply.status, ready.status) == (200, 200)
                assert ready.json()["served_log"]["lost_rows"] == 1
                assert server.client.metric('tidemark_served_log_dropped_total{reason="queue_full"}') == 1
            appends.error = None
            await_true(lambda: server.service.log.trouble is None, "the log takes rows again")
            assert server.client.ask("POST", "/v1/features", asked).status == 200
            assert server.client.get("/readyz")["ready"]


def test_nothing_served_makes_nothing(settings: Settings) -> None:
    assert ServedLog(settings, MIB, Metrics()).close(PATIENCE_S) == 0
    assert list(settings.data.iterdir()) == []


def test_what_was_served_is_kept_though_what_is_beside_cannot_be_closed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Stands:
        """For the service, its server, and what is beside it."""

        settings, options = None, None

        def warm_up(self) -> None:
            done.append("warm")

        def run(self, sockets: list[socket.socket]) -> None:
            done.append("served")

        def close(self) -> int:
            done.append("closed")
            return 0

    class Beside(Stands):
        def close(self) -> int:
            raise OSError("no")

    monkeypatch.setattr(server, "make_server", lambda *_: Stands())
    monkeypatch.setattr(server, "Heartbeats", lambda _: Stands())
    for where, name in ((server.gc, "freeze"), (server.sys, "setswitchinterval"), (server.stopping, "listen")):
        monkeypatch.setattr(where, name, lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(OSError, match="no"):
        server.serve(Stands(), listening, lambda url: None, Beside())  # type: ignore[arg-type]
    # The heartbeats first, and the service behind what could not be closed.
    assert done == ["warm", "served", "closed", "closed"]
