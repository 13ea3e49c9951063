"""What is answered over HTTP is what the reader says, on both stores, and SERVED holds the very same, with its positions."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
import pytest

from flows.answers import EntityReader
from flows.events import hash_id, id_of
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, TOPIC_STATS, USER_COUNTERS
from flows.open_reader import open_reader
from flows.outputs import ACTIONS, REVISITS
from flows.partition import partition_of
from flows.positions import Positions
from flows.served import Status
from flows.settings import Settings
from flows.state.actions_task import state_fingerprint
from tests import driving
from tests.oracles.records import DAY, HOUR
from tests.processes import front_door
from tests.serving.conftest import PARTITIONS, Site, synced
from tests.serving.http import record_of, running, served

STORES = ["state", pytest.param("redis", marks=pytest.mark.redis)]


@pytest.fixture
def stored(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """Settings of a store, by the test's parameter."""
    return settings if request.param == "state" else synced(settings, request.getfixturevalue("shared_redis"))


def expected(reader: EntityReader, users: list[int], pins: list[int], topics: list[str], as_of: int) -> dict[str, Any]:
    """A batch's values, from the reader's arrays one by one."""
    actions, surfaces = reader.vocabulary.action_names(), reader.vocabulary.surface_names()
    rows, of_users = reader.user_sequences(np.array(users, np.int64), as_of), reader.user_counters(np.array(users, np.int64), as_of)
    of_pins, of_topics = reader.pin_counters(np.array(pins, np.int64), as_of), reader.topic_stats(topics, as_of)
    columns: dict[str, list[Any]] = {name: getattr(rows, name).tolist() for name in SEQUENCE_FIELDS}
    columns |= {"action": [actions[a] for a in columns["action"]], "surface": [surfaces[s] for s in columns["surface"]]}
    known = (rows.found | of_users.found).tolist()
    statistics = {
        name: [int(v) if kind == "int64" else v for v in of_topics.values[:, i].tolist()] for i, (name, kind) in enumerate(TOPIC_STATS)
    }

    def said(found: list[bool]) -> dict[str, list[Any]]:
        return {"found": found, "status": ["FOUND" if one else "NOT_FOUND" for one in found]}

    return {
        "users": {
            "user_id": users,
            **said(known),
            "sequence": {"offsets": rows.offsets.tolist(), **columns},
            "counters": {name: of_users.values[:, i].tolist() for i, name in enumerate(USER_COUNTERS)},
        },
        "pins": {
            "pin_id": pins,
            **said(of_pins.found.tolist()),
            "counters": {n: of_pins.values[:, i].tolist() for i, n in enumerate(PIN_COUNTERS)},
        },
        "topics": {"topic": topics, **said(of_topics.found.tolist()), "statistics": statistics},
    }


@pytest.mark.parametrize("stored", STORES, indirect=True)
def test_a_batch_is_what_the_reader_says_at_any_time(stored: Settings, site: Site) -> None:
    reader = open_reader(stored)
    latest = reader.default_as_of()
    assert latest is not None
    rng = np.random.default_rng(1)
    with running(stored) as server:
        for as_of in (None, latest, latest - 3 * HOUR, latest - 30 * DAY, latest + 8 * DAY, 0):
            users, pins = rng.choice(site.users, 70).tolist(), rng.choice(site.pins, 90).tolist()
            got = server.client.post({"users": users, "pins": pins, "topics": site.topics, "as_of": as_of})
            want = expected(reader, users, pins, site.topics, latest if as_of is None else as_of)
            assert {name: got[name] for name in want} == want
            assert (got["as_of"], got["positions"]) == (latest if as_of is None else as_of, reader.positions())
            assert got["fingerprint"] == state_fingerprint(stored, stored.load_vocabulary())
    reader.close()


@pytest.mark.parametrize("stored", STORES, indirect=True)
def test_served_holds_what_was_answered_bit_for_bit(stored: Settings, site: Site) -> None:
    began = time.time_ns() // 1_000_000
    with running(stored) as server:
        asked = {
            "batch": {"users": site.users[:1], "pins": site.pins, "topics": site.topics, "surface": "homefeed"},
            "pins": {"pins": site.pins[:5]},
            "past": {"users": site.users[3:4], "as_of": 1_700_000_000_000},
        }
        for name, said in asked.items():
            server.client.post({**said, "request_id": name})
        server.client.get(f"/v1/features/topic/{site.topics[0]}?request_id=topic&surface=search")
    rows = served(stored)
    reader = open_reader(stored)
    latest, packed = reader.default_as_of(), Positions.of(reader).to_bytes()
    for name, said in {**asked, "topic": {"topics": site.topics[:1], "surface": "search"}}.items():
        part, [i] = record_of(rows, name)
        users, pins, topics = said.get("users", []), said.get("pins", []), said.get("topics", [])
        assert part.has_user[i] == bool(users)
        key = users[0] if users else hash_id(name)
        assert part is rows[int(partition_of(np.array([key]), PARTITIONS)[0])]
        as_of = said.get("as_of", latest)
        assert began <= part.timestamp[i] <= time.time_ns() // 1_000_000
        assert part.as_of[i] == as_of
        assert (part.surfaces[part.surface[i]] if part.surface[i] >= 0 else None) == said.get("surface")
        assert part.fingerprints[part.fingerprint[i]] == server.service.fingerprint
        assert part.prefixes[part.prefix[i]] == packed
        if users:
            want, counters = reader.user_sequences(np.array(users), as_of), reader.user_counters(np.array(users), as_of)
            span = slice(part.sequence_offsets[i], part.sequence_offsets[i + 1])
            for field in SEQUENCE_FIELDS:
                assert part.sequence[field][span].tobytes() == getattr(want, field).tobytes()
            assert (part.user_id[i], part.user_counters[i].tobytes()) == (users[0], counters.values[0].tobytes())
            assert part.user_status[i] == (Status.FOUND if want.found[0] or counters.found[0] else Status.NOT_FOUND)
        span = slice(part.pin_offsets[i], part.pin_offsets[i + 1])
        of_pins = reader.pin_counters(np.array(pins, np.int64), as_of)
        assert part.pin_id[span].tolist() == pins
        assert part.pin_counters[span].tobytes() == of_pins.values.tobytes()
        assert part.pin_status[span].tolist() == [Status.FOUND if found else Status.NOT_FOUND for found in of_pins.found]
        span = slice(part.topic_offsets[i], part.topic_offsets[i + 1])
        assert (part.topic[span], part.topic_stats[span].tobytes()) == (topics, reader.topic_stats(topics, as_of).values.tobytes())
    reader.close()


def test_a_request_of_several_users_is_a_record_for_each_in_its_own_partition(settings: Settings, site: Site) -> None:
    users = site.users[:20]
    with running(settings) as server:
        server.client.post({"users": users, "pins": site.pins[:7], "request_id": "many"})
    homes = partition_of(np.array(users), PARTITIONS)
    for home, part in enumerate(served(settings)):
        assert part.user_id.tolist() == [user for user, at in zip(users, homes, strict=True) if at == home]
        assert part.request_id == ["many"] * len(part)
        assert np.diff(part.pin_offsets).tolist() == [7 * (user == users[0]) for user in part.user_id.tolist()]


@pytest.mark.parametrize("stored", STORES, indirect=True)
def test_single_entities_are_what_the_command_prints(stored: Settings, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    online = {"online": stored.online} if stored.online else {}
    asked = [("user", user) for user in (*site.users[:2], 1)] + [("pin", pin) for pin in (*site.pins[:2], 1)]
    with running(stored) as server:
        for kind, name in [*asked, ("topic", site.topics[0]), ("topic", "there is none"), ("user", "anna")]:
            got = server.client.get(f"/v1/features/{kind}/{name}")
            said = front_door("features", kind, name, "--json", data=stored.data, monkeypatch=monkeypatch, partitions=PARTITIONS, **online)
            assert json.dumps({key: got[key] for key in said.json()}) == json.dumps(said.json())
            assert set(got) - set(said.json()) == {"status", "request_id", "fingerprint"}


def test_ids_are_numbers_to_the_last_of_int64_or_texts(settings: Settings) -> None:
    with running(settings) as server:
        got = server.client.post(
            {"users": [2**63 - 1, "9223372036854775807", "9223372036854775808", "", "käse", "007", -(2**63)], "pins": ["a/b"]}
        )
        texts = ["9223372036854775808", "", "käse", "007"]
        assert got["users"]["user_id"] == [2**63 - 1, 2**63 - 1, *map(hash_id, texts), -(2**63)]
        assert b"9223372036854775807" in server.client.ask("GET", "/v1/features/user/9223372036854775807").body
        assert server.client.get("/v1/features/pin/a%2Fb")["pin_id"] == got["pins"]["pin_id"][0] == id_of("a/b")


def test_many_at_once_each_get_their_own(settings: Settings, site: Site) -> None:
    """Requests that come together are read together, and cut apart again."""
    reader = open_reader(settings)
    latest = reader.default_as_of() or 0

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for i in range(10):
            users, pins = rng.choice(site.users, 2).tolist(), rng.choice(site.pins, rng.integers(0, 30)).tolist()
            as_of = [None, latest - 2 * HOUR][int(rng.integers(2))]
            replies.append(
                (users, pins, as_of, server.client.post({"users": users, "pins": pins, "as_of": as_of, "request_id": f"{seed}-{i}"}))
            )

    replies: list[tuple[list[int], list[int], int | None, Any]] = []
    with running(settings) as server:
        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(replies) == 80
    for users, pins, as_of, got in replies:
        want = expected(reader, users, pins, [], as_of if as_of is not None else latest)
        assert got["users"] == want["users"]
        assert not pins or got["pins"] == want["pins"]
    assert sorted({one for part in served(settings) for one in part.request_id}) == sorted(f"{s}-{i}" for s in range(8) for i in range(10))
    reader.close()


def test_before_the_first_event(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A log and no state: nothing is found, at no time; and that is what SERVED says."""
    settings = Settings(data=tmp_path_factory.mktemp("empty"), partitions=PARTITIONS)
    driving.open_log(settings, ACTIONS).close()
    with running(settings) as server:
        got = server.client.get("/v1/features/user/1?request_id=a")
        assert (got["found"], got["as_of"], got["sequence"]) == (False, None, [])
        assert got["positions"] == {ACTIONS: [0, 0], REVISITS: [0, 0]}
        not_ready = server.client.get("/readyz", status=503)
        assert "accepted no event yet" in not_ready["reasons"][0]
    part, [i] = record_of(served(settings), "a")
    found = Positions.from_bytes(part.prefixes[part.prefix[i]])
    assert found is not None
    assert (part.as_of[i], found.actions.tolist()) == (0, [0, 0])


def test_what_is_said_of_itself(settings: Settings) -> None:
    with running(settings) as server:
        said = server.client.get("/openapi.json")
        assert set(said["paths"]) == {f"/v1/features/{one}" for one in ("user/{id}", "pin/{id}", "topic/{name}")} | {
            "/v1/features", "/v1/rank", "/v1/retrieve", "/healthz", "/readyz", "/metrics",
        }  # fmt: skip
        for path, methods in said["paths"].items():
            for operation in methods.values():
                assert operation["summary"], path
        body = said["paths"]["/v1/features"]["post"]["requestBody"]["content"]["application/json"]
        for example in body["examples"].values():
            server.client.post(example["value"])
        assert server.client.ask("GET", "/docs").status == 200
        ready = server.client.get("/readyz")
        assert (ready["ready"], ready["store"], ready["served_log"]["ok"]) == (True, "task state", True)
        assert server.client.get("/healthz") == {"status": "ok"}


def test_metrics_count_what_was_served(settings: Settings, site: Site) -> None:
    with running(settings) as server:
        server.client.post({"users": site.users[:2], "pins": [*site.pins[:3], 4]})
        server.client.get("/v1/features/user/%2D1")
        server.client.get("/nowhere", status=404)
        metric = server.client.metric
        assert metric('tidemark_serving_rows_total{entity="pin",status="found"}') == 3
        assert metric('tidemark_serving_rows_total{entity="pin",status="not_found"}') == 1
        assert metric('tidemark_serving_requests_total{endpoint="batch",status="200"}') == 1
        assert metric('tidemark_serving_requests_total{endpoint="other",status="404"}') == 1
        assert metric('tidemark_serving_request_seconds_count{endpoint="user"}') == 1
        newest = int(site.events["event_time"].max())
        assert metric("tidemark_serving_newest_event_timestamp_seconds") == newest / 1000
        assert metric('tidemark_serving_position{flow="actions",partition="0"}') > 0
        assert "_created" not in server.client.ask("GET", "/metrics").body.decode()
    assert server.service.log.kept == 3
    assert server.service.log.lost == 0
