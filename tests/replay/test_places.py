"""Checkpoints in an object store: a server that speaks S3, on loopback; also one that dies in the middle."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import s3fs
from moto.backends import get_backend
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from flows.outputs import ACTIONS, REVISITS
from replay.checkpoints.manifest import listed
from replay.place import Place, PlaceError
from tests.processes import front_door
from tests.state.house import House
from tests.strategies import adversarial

URL = "s3://bucket/tidemark/checkpoints"
SETTINGS: dict[str, Any] = {"anchor_records": 50}
PARTITIONS = 2


class Store:
    """A store in this process. `dies_at`: it goes away halfway through that many writes from now."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self.dies_at: int | None = None
        self._counting = threading.Lock()
        self.port = 0
        self.start()

    def start(self) -> None:
        self._server: BaseWSGIServer = make_server("127.0.0.1", self.port, self._serve, threaded=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Fine if it has stopped already."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] == "PUT":
            # Each connection has a thread of its own.
            with self._counting:
                if self.dies_at is not None:
                    self.dies_at -= 1
                dies = self.dies_at == -1
            if dies:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
                # Nobody is accepted any more, and this one's connection ends without an answer.
                self.stop()
                raise ConnectionAbortedError("the store is gone")
        return self._app(environ, start_response)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    made = Store()
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.port}")
    # Or its client takes ten seconds to give up.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield made
    made.stop()
    get_backend("s3").reset()
    s3fs.S3FileSystem.clear_instance_cache()


@dataclass(frozen=True)
class Site:
    """A data directory halfway, which ends with these digests."""

    data: Path
    digests: dict[str, str]

    def house(self) -> House:
        return House(self.data, adversarial(11, 0, PARTITIONS), PARTITIONS, **SETTINGS)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    events = adversarial(11, 900, PARTITIONS)
    clean = House(tmp_path / "clean", events, PARTITIONS, **SETTINGS)
    digests = clean.finish()
    clean.close()
    house = House(tmp_path / "data", events, PARTITIONS, **SETTINGS)
    for flow in (ACTIONS, REVISITS):
        for partition in range(PARTITIONS):
            task = house.open(flow, partition)
            task.apply(task.source.read(partition, 0, task.source.end_position(partition) * 2 // 3))
            task.close()
    house.close()
    return Site(tmp_path / "data", digests)


def replay(site: Site, monkeypatch: pytest.MonkeyPatch, *arguments: object, code: int = 0) -> Any:
    given = {**SETTINGS, "data": site.data, "partitions": PARTITIONS, "checkpoints": URL}
    done = front_door("replay", *arguments, monkeypatch=monkeypatch, code=code, **given)
    return json.loads(done.out) if "--json" in arguments and code == 0 else done


def to_the_end(site: Site) -> dict[str, str]:
    """Everything applied; digests by task."""
    house = site.house()
    try:
        return house.finish()
    finally:
        house.close()


def test_checkpoints_in_a_store(store: Store, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made, told, verified, swept, restored from; and everything is the same afterwards."""
    first = replay(site, monkeypatch, "checkpoint", "--json")
    assert (first["place"], first["failed"], len(first["tasks"])) == (URL, [], 2 * PARTITIONS)
    assert to_the_end(site) == site.digests
    assert all(row["new"] for row in replay(site, monkeypatch, "checkpoint", "--json")["tasks"])
    assert not (site.data / "checkpoints").exists()
    told = replay(site, monkeypatch, "status", "--json")
    assert {row["checkpoints"] for row in told["tasks"]} == {2}
    assert replay(site, monkeypatch, "verify", "--json")["problems"] == []
    place = Place(URL)
    pieces = len(place.files("actions/0000/pieces"))
    swept = replay(site, monkeypatch, "checkpoint", "--keep", 1, "--json")
    assert {row["deleted"]["checkpoints"] for row in swept["tasks"]} == {1}
    assert len(listed(place, ACTIONS, 0)) == 1
    assert len(place.files("actions/0000/pieces")) < pieces
    shutil.rmtree(site.data / "state")
    restored = replay(site, monkeypatch, "restore", "--all", "--no-run", "--json")["restored"]
    assert all(row["passed_over"] == [] and row["to_replay"] == 0 < row["position"] for row in restored)
    assert replay(site, monkeypatch, "verify", "--json")["problems"] == []
    assert to_the_end(site) == site.digests


@pytest.mark.parametrize("writes", [0, 4])
def test_a_store_that_dies_in_the_middle_of_a_write(store: Store, site: Site, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store.dies_at = writes
    done = replay(site, monkeypatch, "checkpoint", code=1)
    assert f"checkpoints in {URL}" in done.err
    assert "run again when it can be reached" in done.err
    assert len(done.err.splitlines()) == 1, "the other tasks are not tried"
    store.dies_at = None
    store.start()
    assert replay(site, monkeypatch, "checkpoint", "--json")["failed"] == []
    assert replay(site, monkeypatch, "verify", "--json")["problems"] == []
    shutil.rmtree(site.data / "state")
    restored = replay(site, monkeypatch, "restore", "--all", "--no-run", "--json")["restored"]
    assert all(row["passed_over"] == [] and row["position"] > 0 for row in restored)
    assert to_the_end(site) == site.digests


def test_a_store_that_is_away_is_no_reason_to_replay_everything(store: Store, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    replay(site, monkeypatch, "checkpoint")
    read, left = Place.read, iter(range(2))

    def dying(self: Place, name: str) -> bytes | None:
        if next(left, None) is None:
            store.stop()
        return read(self, name)

    with monkeypatch.context() as patched:
        patched.setattr(Place, "read", dying)
        done = replay(site, monkeypatch, "restore", "--task", "actions/0", "--no-run", "--json", code=1)
    assert "run again when it can be reached" in done.err
    for command in ("status", "verify"):
        assert f"checkpoints in {URL}" in replay(site, monkeypatch, command, code=1).err
    assert to_the_end(site) == site.digests, "the state that was there still is"
    store.start()


def test_a_store_that_refuses_is_said(store: Store, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs.S3FileSystem().rmdir("bucket")
    assert "bucket does not exist" in replay(site, monkeypatch, "checkpoint", code=1).err
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(PlaceError, match=r"(?i)credentials"):
        Place(URL).files("")
