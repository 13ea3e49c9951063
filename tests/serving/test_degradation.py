"""The store fails: requests say so, or get defaults that say so, and all goes on by itself once the store is back."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from flows.answers import EntityReader
from flows.errors import CorruptionError, DataDirectoryError, OnlineStoreError, OtherFingerprintError, TidemarkError
from flows.open_reader import open_reader
from flows.outputs import ACTIONS
from flows.past import Past
from flows.served import Status
from flows.settings import Settings
from online_model.serving.answer import Ask
from online_model.serving.errors import UnavailableError
from online_model.serving.lane import Lane
from online_model.serving.options import OnStoreError, Options
from online_model.serving.service import Service
from tests import driving
from tests.online.redis_server import RedisServer
from tests.processes import PATIENCE_S, await_true
from tests.serving.conftest import PARTITIONS, Site, synced
from tests.serving.http import record_of, running, served

NOBODY = np.empty(0, np.int64)
SOON = Options(timeout_s=PATIENCE_S)
DEFAULTS = Options(OnStoreError.DEFAULTS, timeout_s=PATIENCE_S)


@pytest.mark.redis
@pytest.mark.parametrize("policy", list(OnStoreError))
def test_redis_goes_away_and_comes_back(policy: OnStoreError, settings: Settings, site: Site, server: RedisServer) -> None:
    online = synced(settings, server)
    with running(online, dataclasses.replace(SOON, on_store_error=policy)) as made:
        asked = {"users": site.users[:2], "pins": site.pins[:3], "topics": site.topics[:1]}
        before = made.client.post({**asked, "request_id": "before"})
        server.stop()
        reply = made.client.ask("POST", "/v1/features", {**asked, "request_id": "amid"})
        ready = made.client.ask("GET", "/readyz")
        assert ready.status == 503
        assert f"Redis {server.url}" in ready.json()["reasons"][0]
        if policy is OnStoreError.ERROR:
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert f"Redis {server.url}" in reply.json()["error"]
        else:
            said = reply.json()
            assert (said["as_of"], said["positions"]) == (None, None)
            for kind, values in (("users", "counters"), ("pins", "counters"), ("topics", "statistics")):
                assert set(said[kind]["status"]) == {"DEFAULTED"}
                assert not any(said[kind]["found"])
                assert {value for column in said[kind][values].values() for value in column} == {0}
            assert said["users"]["sequence"]["offsets"] == [0, 0, 0]
        assert made.client.metric('tidemark_serving_store_errors_total{error="OnlineStoreError"}') == 1
        server.start()
        # Empty: it is nobody's store yet, which is another thing than that nothing is known of anyone.
        await_true(lambda: "holds nothing of task" in made.client.ask("GET", "/readyz").body.decode(), "Redis answers again")
        synced(settings, server)
        await_true(lambda: made.client.ask("GET", "/readyz").status == 200, "it holds features again")
        after = made.client.post({**asked, "request_id": "after"})
        assert {**after, "request_id": "before"} == before
    rows = served(online)
    assert ("amid" in {one for part in rows for one in part.request_id}) == (policy is OnStoreError.DEFAULTS)
    if policy is OnStoreError.DEFAULTS:
        for part in rows:
            for i in [i for i, one in enumerate(part.request_id) if one == "amid"]:
                assert (part.prefix[i], part.as_of[i], part.user_status[i]) == (-1, 0, Status.DEFAULTED)
                assert not part.user_counters[i].any()


def test_a_store_that_hangs_holds_up_nobody_for_longer_than_the_timeout(
    settings: Settings, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    with running(settings, Options(OnStoreError.DEFAULTS, timeout_s=0.05)) as made:
        await_true(lambda: made.client.ask("GET", "/readyz").status == 200, "the reader is open")
        reader = made.service._now._reader
        assert reader is not None
        refresh = reader.refresh
        monkeypatch.setattr(reader, "refresh", lambda: (go_on.wait(PATIENCE_S), refresh()))
        for name in ("a", "b"):
            said = made.client.post({"users": site.users[:1], "request_id": name})
            assert (said["users"]["status"], said["positions"]) == (["DEFAULTED"], None)
        # A time has a lane, and a reader, of its own.
        assert made.client.get(f"/v1/features/user/{site.users[0]}?as_of=0")["status"] == "NOT_FOUND"
        go_on.set()
        await_true(lambda: made.client.get(f"/v1/features/user/{site.users[0]}")["status"] == "FOUND", "it goes on by itself")
    part, [i] = record_of(served(settings), "a")
    assert (part.prefix[i], part.user_status[i]) == (-1, Status.DEFAULTED)


def test_too_many_that_wait_are_refused_at_once(settings: Settings, site: Site) -> None:
    go_on = threading.Event()

    def opened() -> EntityReader:
        assert go_on.wait(PATIENCE_S)
        return open_reader(settings)

    lane = Lane("test", opened, 3)
    ask = Ask(np.array(site.users[:1]), NOBODY, (), None)
    first = lane.read(ask)
    await_true(first.running, "the first one is being read")
    waiting = [lane.read(ask) for _ in range(3)]
    with pytest.raises(UnavailableError, match="3 requests wait for the store already"):
        lane.read(ask)
    # Whoever has given up is left out.
    waiting[1].cancel()
    go_on.set()
    assert [first.result(PATIENCE_S).user_status[0]] == [waiting[0].result(PATIENCE_S).user_status[0]]
    with pytest.raises(CancelledError):
        waiting[1].result(PATIENCE_S)
    waiting[2].result(PATIENCE_S)
    lane.close()


def test_a_store_that_fails_is_not_asked_by_each_request_and_then_opened_anew(settings: Settings) -> None:
    opened: list[float] = []
    broken = [True]

    def open_one() -> EntityReader:
        opened.append(time.monotonic())
        if broken[0]:
            raise DataDirectoryError("it is not there")
        return open_reader(settings)

    lane = Lane("test", open_one, 100)
    for _ in range(50):
        with pytest.raises(DataDirectoryError, match="it is not there"):
            lane.read(Ask(NOBODY, NOBODY, (), None)).result(PATIENCE_S)
    assert len(opened) < 50
    broken[0] = False

    def answers() -> bool:
        try:
            return lane.read(Ask(NOBODY, NOBODY, (), None)).result(PATIENCE_S).prefix.newest is not None
        except DataDirectoryError:
            return False

    await_true(answers, "it is opened anew")
    assert lane.trouble is None
    lane.close()


def test_a_time_that_can_not_be_read_is_an_error_of_those_who_ask_for_it(
    settings: Settings, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topics of an earlier time are read from the log, and the log is damaged; times that state holds are answered."""

    def damaged(*_: object) -> None:
        raise CorruptionError("the log is damaged")

    reader = open_reader(settings)
    latest = reader.default_as_of()
    reader.close()
    monkeypatch.setattr(Past, "_judged", damaged)
    path = f"/v1/features/topic/{site.topics[0]}"
    with running(settings, SOON) as made:
        for _ in range(3):
            assert made.client.get(f"{path}?as_of=1", status=503)["error"] == "the log is damaged"
            assert made.client.get(f"{path}?as_of={latest}")["found"]
        assert made.client.get("/readyz")["ready"]


def test_however_many_ask_whether_it_is_ready_the_store_is_asked_once_a_second(
    settings: Settings, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody needs a token for that, and what waits for the store is bounded for all together."""
    with running(settings, SOON) as made, ThreadPoolExecutor(16) as many:
        reads: list[Ask] = []
        read = made.service._now.read
        monkeypatch.setattr(made.service._now, "read", lambda ask: reads.append(ask) or read(ask))
        monkeypatch.setattr("online_model.serving.service._SEEN_S", float("inf"))
        told = [reply.json() for reply in many.map(lambda _: made.client.ask("GET", "/readyz"), range(64))]
        assert told == [told[0]] * 64
        assert told[0]["ready"]
        assert len(reads) == 1
        monkeypatch.setattr("online_model.serving.service._SEEN_S", 0.0)
        assert [made.client.get("/readyz") for _ in range(3)] == [told[0]] * 3
        assert len(reads) == 4


def test_a_server_may_start_before_there_is_anything(site: Site, tmp_path: Path) -> None:
    data = tmp_path / "later"
    with running(Settings(data=data, partitions=PARTITIONS), SOON) as made:
        reply = made.client.ask("GET", "/v1/features/user/1")
        assert (reply.status, "there is no log 'actions'" in reply.json()["error"]) == (503, True)
        assert made.client.get("/readyz", status=503)["reasons"]
        assert made.client.get("/healthz") == {"status": "ok"}
        assert not data.exists(), "a server that answers nothing makes nothing"
        shutil.copytree(site.settings.data, data)
        await_true(lambda: made.client.ask("GET", "/readyz").status == 200, "what came meanwhile is served")
        assert made.client.get(f"/v1/features/user/{site.users[0]}")["found"]


def replaced(data: Path, by: Callable[[Path], None]) -> None:
    """State as a restore puts it in place: by renames."""
    task = data / "state" / ACTIONS / "0000"
    fresh = data / "fresh"
    shutil.copytree(task, fresh)
    by(fresh)
    task.rename(data / "old")
    fresh.rename(task)


def test_state_that_a_restore_replaces_meanwhile_is_what_is_served_then(site: Site, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(site.settings.data, data)
    with running(dataclasses.replace(site.settings, data=data), SOON) as made:
        asked = {"users": site.users, "request_id": "a"}
        before = made.client.post(asked)
        replaced(data, lambda fresh: None)
        assert made.client.post(asked) == before


def test_a_task_whose_state_is_damaged_is_named_and_served_again_once_it_is_restored(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "online_model.serving.lane")
    data = tmp_path / "data"
    shutil.copytree(site.settings.data, data)
    with running(dataclasses.replace(site.settings, data=data), SOON) as made:
        before = made.client.post({"users": site.users, "request_id": "a"})

        def damage(fresh: Path) -> None:
            (fresh / "CURRENT").write_text("nothing\n")

        replaced(data, damage)
        reply = made.client.ask("POST", "/v1/features", {"users": site.users})
        assert reply.status == 503
        assert "actions/0000" in reply.json()["error"]
        assert "Traceback" not in reply.json()["error"]
        shutil.rmtree(data / "state" / ACTIONS / "0000")
        (data / "old").rename(data / "state" / ACTIONS / "0000")
        await_true(lambda: made.client.ask("GET", "/readyz").status == 200, "the task is there again")
        assert made.client.post({"users": site.users, "request_id": "a"}) == before
    # Or its files would stay open.
    assert "could not be closed" not in caplog.text


@pytest.mark.parametrize("options", [SOON, DEFAULTS])
def test_rows_of_another_fingerprint_are_never_served(options: Options, settings: Settings) -> None:
    other = dataclasses.replace(settings, allowed_lateness_ms=5)
    with running(other, options) as made:
        reply = made.client.ask("GET", "/v1/features/user/1")
        assert reply.status == 503
        assert "was made under other features or settings" in reply.json()["error"]
    service = Service(other, options)
    with pytest.raises(OtherFingerprintError, match="was made under other features or settings"):
        service.warm_up()
    service.close()


def files_open_after(error: type[TidemarkError], settings: Settings) -> int:
    with pytest.raises(error):
        open_reader(settings)
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_reader_that_can_not_be_opened_leaves_no_files_open(settings: Settings) -> None:
    other = dataclasses.replace(settings, allowed_lateness_ms=5)
    # What earlier tests have left to the collector would be closed amid this one.
    gc.collect()
    first = files_open_after(OtherFingerprintError, other)
    assert [files_open_after(OtherFingerprintError, other) for _ in range(5)] == [first] * 5


@pytest.mark.redis
def test_a_reader_that_can_not_be_opened_leaves_no_connections_open(settings: Settings, server: RedisServer) -> None:
    online = dataclasses.replace(settings, online=server.url)
    first = files_open_after(OnlineStoreError, online)
    assert [files_open_after(OnlineStoreError, online) for _ in range(5)] == [first] * 5


def test_a_warm_up_without_a_store_is_no_reason_not_to_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(Settings(data=tmp_path / "nothing"), SOON)
    service.warm_up()
    assert "the store does not answer yet: there is no log 'actions'" in caplog.text
    assert service.close() == 0


def test_a_warm_up_of_state_without_an_event(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, partitions=PARTITIONS)
    driving.open_log(settings, ACTIONS).close()
    service = Service(settings, SOON)
    service.warm_up()
    assert service.close() == 0


@pytest.mark.redis
def test_a_redis_that_hangs_holds_up_nobody_for_longer_than_the_timeout(settings: Settings, site: Site, server: RedisServer) -> None:
    """Its connections stay open, and nothing comes."""
    online = synced(settings, server)
    process = server._process
    assert process is not None
    with running(online, Options(OnStoreError.DEFAULTS, timeout_s=0.2)) as made:
        path = f"/v1/features/user/{site.users[0]}"
        await_true(lambda: made.client.get(path)["status"] == "FOUND", "Redis answers")
        process.send_signal(signal.SIGSTOP)
        try:
            assert {made.client.get(path)["status"] for _ in range(3)} == {"DEFAULTED"}
            assert made.client.ask("GET", "/readyz").status == 503
        finally:
            process.send_signal(signal.SIGCONT)
        await_true(lambda: made.client.get(path)["status"] == "FOUND", "it goes on by itself")


def test_a_stop_does_not_wait_for_a_warm_up(settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    go_on = threading.Event()
    service = Service(settings, SOON)
    monkeypatch.setattr(service._now, "_open", lambda: go_on.wait(PATIENCE_S) and open_reader(settings))
    monkeypatch.setattr("flows.stopping.requested", lambda: True)
    service.warm_up()
    assert "the store does not answer yet: it is silent" in caplog.text
    go_on.set()
    assert service.close() == 0
