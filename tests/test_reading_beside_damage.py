"""While the state of one task is damaged, whoever reads other tasks gets what they would get without it, and nobody gets anything of that one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flows.answers import EntityReader
from flows.errors import DataDirectoryError, StateError
from flows.export import export_features
from flows.online.follower import Follower, standings
from flows.online.reader import RedisReader
from flows.outputs import ACTIONS, REVISITS
from flows.partition import partition_of
from flows.positions import Positions
from flows.reading import FeatureReader
from flows.settings import Settings
from flows.state.copy import write_state
from flows.state.task import task_path
from flows.state.view import TaskView
from online_model.serving.answer import Ask
from online_model.serving.lane import Lane
from replay.in_place import put_in_place
from tests.online.conftest import server as server
from tests.online.conftest import shared_redis as shared_redis
from tests.online.redis_server import RedisServer
from tests.processes import tidemark
from tests.state.house import House
from tests.strategies import random_stream

PARTITIONS, DAMAGED, OTHER = 3, 1, 0
IDS = np.arange(100, 400, dtype=np.int64)
NOBODY = np.empty(0, np.int64)
HOMES = partition_of(IDS, PARTITIONS)
SOUND, LOST = IDS[HOMES != DAMAGED], IDS[HOMES == DAMAGED]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make(tmp_path_factory, 8)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make(tmp_path_factory, 9)


def make(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Settings:
    events = random_stream(seed, 3_000, partitions=PARTITIONS, users=200, pins=200, days=40)
    events["user_id"] = IDS[events["user_id"].factorize()[0] % len(IDS)]
    events["pin_id"] = IDS[events["pin_id"].factorize()[0] % len(IDS)]
    events["partition"] = partition_of(events["user_id"].to_numpy(np.int64), PARTITIONS)
    house = House(tmp_path_factory.mktemp("made") / "data", events, partitions=PARTITIONS)
    house.finish([300])
    # What is opened again moves its rows from its log into a table.
    house.finish()
    for flow in (ACTIONS, REVISITS):
        # As a run tells, so that lag can be seen.
        house.logs[flow].commit_group(flow, dict(enumerate(house.logs[flow].end_positions())))
    house.close()
    return house.settings


@pytest.fixture
def settings(made: Settings, tmp_path: Path) -> Settings:
    shutil.copytree(made.data, tmp_path / "data")
    return dataclasses.replace(made, data=tmp_path / "data")


def lose_the_manifest(path: Path) -> None:
    for one in path.glob("MANIFEST-*"):
        one.unlink()


def garble_current(path: Path) -> None:
    (path / "CURRENT").write_text("what is this\n")


def overwrite_tables(path: Path) -> None:
    """All blocks, what tells where they are included, but what it takes to open them."""
    tables = list(path.glob("*.sst"))
    assert tables
    for one in tables:
        data = bytearray(one.read_bytes())
        data[: len(data) // 2] = bytes(len(data) // 2)
        one.write_bytes(data)


def lose_current(path: Path) -> None:
    (path / "CURRENT").unlink()


def lose_all(path: Path) -> None:
    shutil.rmtree(path)


def lose_commits(path: Path) -> None:
    """As where all files with rows are gone: RocksDB opens what is left as an empty database."""
    shutil.rmtree(path)
    write_state(path, [])


WAYS = [lose_the_manifest, garble_current, overwrite_tables, lose_current, lose_all, lose_commits]
Way = Callable[[Path], None]


def told(reader: EntityReader, users: np.ndarray, pins: np.ndarray, as_of: int) -> list[bytes]:
    sequences = reader.user_sequences(users, as_of)
    arrays = [value for value in vars(sequences).values() if isinstance(value, np.ndarray)]
    for counted in (reader.user_counters(users, as_of), reader.pin_counters(pins, as_of)):
        arrays += [counted.values, counted.found]
    assert sequences.found.any()
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("flow", [ACTIONS, REVISITS])
@pytest.mark.parametrize("open_before", [False, True])
def test_others_are_read_and_it_is_again_once_it_is_put_back(
    way: Way, flow: str, open_before: bool, made: Settings, settings: Settings
) -> None:
    path, good = task_path(settings, flow, DAMAGED), task_path(made, flow, DAMAGED)
    with FeatureReader(made) as sound:
        as_of = sound.default_as_of()
        assert as_of is not None
        users, pins = (SOUND, IDS) if flow == ACTIONS else (IDS, SOUND)
        expected, all_of_it = told(sound, users, pins, as_of), told(sound, IDS, IDS, as_of)
        positions = sound.positions()
    if open_before:
        reader = FeatureReader(settings)
        way(path)
        if path.exists():
            (path / "000000.log").touch()
        reader._watch._looked -= 10  # as if a second had gone by
        reader.refresh()
    else:
        way(path)
        reader = FeatureReader(settings)
    with reader:
        assert told(reader, users, pins, as_of) == expected
        lost = reader.user_sequences if flow == ACTIONS else reader.pin_counters
        for ids in (LOST, LOST[:1], IDS):
            with pytest.raises(StateError, match=rf"state {path}.*(restore|goes through the log again)"):
                lost(ids, as_of)
        if way is not overwrite_tables:
            # What its meta record says, is damaged too.
            assert list(reader.unreadable) == [(flow, DAMAGED)]
            assert reader.positions()[flow] == [0 if p == DAMAGED else at for p, at in enumerate(positions[flow])]
            prefix = Positions.of(reader)
            assert (prefix.actions[DAMAGED] == 0) == (flow == ACTIONS)
            for entity in ("user", "pin"):
                if flow == ACTIONS or entity == "pin":
                    with pytest.raises(StateError):
                        export_features(reader, entity, as_of, settings.data / "out.parquet")
        if flow == ACTIONS:
            with pytest.raises(StateError):
                reader.topic_stats(["art"], as_of)
            if way is not overwrite_tables:
                # Else it is known how far it was, and the log says the rest.
                with pytest.raises(StateError):
                    reader.past_pins(as_of - 1, SOUND[:1])
        assert not (settings.data / "out.parquet").exists()
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(good, path)
        reader._watch._looked -= 10
        reader.refresh()
        assert told(reader, IDS, IDS, as_of) == all_of_it
        assert not reader.unreadable


@pytest.mark.parametrize("slowly", [True, False])
def test_another_directory_in_the_place_is_read_anew(slowly: bool, other: Settings, settings: Settings) -> None:
    """Its past too, which comes from its log."""
    with FeatureReader(other) as sound:
        now = sound.default_as_of()
        assert now is not None
        past = now - 10 * 86_400_000
        topics, _ = sound.all_topics(now)
        expected = [*told(sound, IDS, IDS, now), *told(sound, IDS, IDS, past), sound.topic_stats(topics, past).values.tobytes()]
    with FeatureReader(settings) as reader:
        reader.topic_stats(topics, past)
        shutil.rmtree(settings.data)
        if slowly:
            reader._watch._looked -= 10
            reader.refresh()
            assert len(reader.unreadable) == 2 * PARTITIONS
        shutil.copytree(other.data, settings.data)
        reader._watch._looked -= 10
        reader.refresh()
        assert [*told(reader, IDS, IDS, now), *told(reader, IDS, IDS, past), reader.topic_stats(topics, past).values.tobytes()] == expected


@pytest.mark.redis
def test_redis_follows_another_directory_in_the_place(other: Settings, online: Settings) -> None:
    with Follower(online) as follower:
        list(follower.round())
        shutil.rmtree(online.data)
        follower._reader._watch._looked -= 10
        with pytest.raises((StateError, DataDirectoryError)):
            list(follower.round())
        shutil.copytree(other.data, online.data)
        follower._reader._watch._looked -= 10
        list(follower.round())
    with FeatureReader(other) as sound, RedisReader(online) as reader:
        as_of = sound.default_as_of()
        assert as_of is not None
        reader.refresh()
        assert told(reader, IDS, IDS, as_of) == told(sound, IDS, IDS, as_of)


@pytest.mark.parametrize("way", WAYS)
def test_requests_that_wait_together_are_answered_each_by_itself(way: Way, settings: Settings) -> None:
    way(task_path(settings, ACTIONS, DAMAGED))
    lane = Lane("now", lambda: FeatureReader(settings), 100)
    try:
        asks = [Ask(np.array([one]), NOBODY, (), None) for one in [*SOUND[:20], *LOST[:5], *SOUND[20:40]]]
        for ask, answer in [(ask, lane.read(ask)) for ask in asks]:
            if ask.users[0] in LOST:
                with pytest.raises(StateError, match=r"restore|goes through the log again"):
                    answer.result(60)
            else:
                assert answer.result(60).user_status.tolist() in ([1], [0])
        if way is not overwrite_tables:
            assert list(lane.read(Ask(NOBODY, NOBODY, (), None)).result(60).prefix.damaged) == [f"{ACTIONS}/{DAMAGED}"]
    finally:
        lane.close()


@pytest.fixture
def online(settings: Settings, server: RedisServer) -> Settings:
    return dataclasses.replace(settings, online=server.url)


@pytest.mark.redis
@pytest.mark.parametrize("flow", [ACTIONS, REVISITS])
def test_redis_follows_all_that_may_be_followed(flow: str, made: Settings, online: Settings) -> None:
    path = task_path(online, flow, DAMAGED)
    garble_current(path)
    with Follower(online) as follower:
        seen = set()
        with pytest.raises(StateError, match=f"state {path}"):
            seen.update((one.flow, one.partition) for one in follower.round())
        # A pin in Redis must not reflect more than users do there.
        flows = (ACTIONS,) if flow == ACTIONS else (ACTIONS, REVISITS)
        assert seen == {(of, p) for of in flows for p in range(PARTITIONS)} - {(flow, DAMAGED)}
        standing = {(one.flow, one.partition): one for one in standings(online)}
        assert standing[flow, DAMAGED].position is None
        assert {task for task, one in standing.items() if one.online is not None} == seen
        shutil.rmtree(path)
        shutil.copytree(task_path(made, flow, DAMAGED), path)
        follower._reader._watch._looked -= 10
        assert len(list(follower.round())) == 2 * PARTITIONS
    assert all(one.position == one.online for one in standings(online))


def test_a_run_makes_no_database_where_one_has_lost_its_beginning(settings: Settings) -> None:
    path = task_path(settings, ACTIONS, DAMAGED)
    lose_current(path)
    before = sorted(one.name for one in path.iterdir())
    said = tidemark("run", code=1, data=settings.data, partitions=PARTITIONS)
    assert f"state {path}: its file CURRENT is gone; put the task back" in said.err
    assert sorted(one.name for one in path.iterdir() if one.suffix != ".lock") == before
    assert "restored actions/1" in tidemark("replay", "restore", data=settings.data, partitions=PARTITIONS).out
    assert tidemark("status", data=settings.data, partitions=PARTITIONS).out.count("damaged") == 0


def test_a_task_is_put_back_beside_another_that_is_damaged(settings: Settings) -> None:
    for partition in (DAMAGED, OTHER):
        lose_current(task_path(settings, ACTIONS, partition))
    said = tidemark("replay", "restore", "--task", f"actions/{DAMAGED}", data=settings.data, partitions=PARTITIONS)
    assert f"restored actions/{DAMAGED}" in said.out
    assert f"actions/{OTHER} was left out, with damaged state" in said.err
    said = tidemark("status", code=1, data=settings.data, partitions=PARTITIONS)
    assert said.out.count("damaged") == 1
    assert f"of {PARTITIONS - 1} of {PARTITIONS} tasks" in said.out


def test_what_is_put_back_from_nothing_is_no_loss(settings: Settings) -> None:
    lose_all(task_path(settings, ACTIONS, DAMAGED))
    tidemark("replay", "restore", "--task", f"actions/{DAMAGED}", "--no-run", data=settings.data, partitions=PARTITIONS)
    assert "damaged" not in tidemark("status", data=settings.data, partitions=PARTITIONS).out


def test_states_that_were_replaced_for_damage_are_told_and_the_others_compared(settings: Settings) -> None:
    garble_current(task_path(settings, ACTIONS, DAMAGED))
    tidemark("replay", "restore", "--task", f"actions/{DAMAGED}", data=settings.data, partitions=PARTITIONS)
    compared = ("replay", "diff", "--with-replaced", "--json")
    said = tidemark(*compared, code=1, data=settings.data, partitions=PARTITIONS)
    assert f"actions/{DAMAGED}: what was replaced is damaged, so there is nothing to compare with" in said.err
    assert "put the task back" not in said.err
    tidemark("replay", "restore", "--task", f"actions/{OTHER}", data=settings.data, partitions=PARTITIONS)
    said = tidemark(*compared, data=settings.data, partitions=PARTITIONS)
    assert [(row["task"], row["differs"]) for row in json.loads(said.out)["tasks"]] == [(f"actions/{OTHER}", False)]
    assert f"actions/{DAMAGED}: what was replaced is damaged" in said.err


def test_what_a_reader_has_made_is_not_in_the_way_of_a_restore(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look of a reader and its opening the directory may be moved away."""
    path, rename, met = task_path(settings, ACTIONS, DAMAGED), Path.rename, set[Path]()

    def beside_a_reader(self: Path, target: Path) -> Path:
        if target == path and self not in met:
            met.add(self)
            path.mkdir()
            (path / "rocksdict-config.json").touch()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", beside_a_reader)
    new = path.with_name("new")
    write_state(new, [])
    put_in_place(new, path)
    assert (path / "CURRENT").exists()
    with pytest.raises(DataDirectoryError):
        put_in_place(path.with_name("none"), path)
    # The old one is back.
    assert (path / "CURRENT").exists()


def test_a_reader_makes_no_directory(settings: Settings) -> None:
    """Or what takes the place of one that is being replaced could not be put there."""
    path = task_path(settings, ACTIONS, DAMAGED)
    lose_current(path)
    for one in path.iterdir():
        one.unlink()
    with pytest.raises(StateError, match="CURRENT is gone"):
        TaskView(path)
    assert not list(path.iterdir())


@pytest.mark.parametrize("way", [lose_the_manifest, lose_current, lose_all, lose_commits])
def test_status_and_features_of_the_command_line(way: Way, settings: Settings) -> None:
    path = task_path(settings, ACTIONS, DAMAGED)
    way(path)
    said = tidemark("status", "--json", code=1, data=settings.data, partitions=PARTITIONS)
    tasks = json.loads(said.out)["tasks"]
    assert [one["partition"] for one in tasks if one["problem"]] == [DAMAGED]
    assert [(one["position"], one["lag"]) for one in tasks if one["problem"]] == [(None, None)]
    assert f"state {path}" in said.err
    assert ("`tidemark run` goes through the log again" if way is lose_commits else "restore") in said.err
    assert tidemark("status", code=1, data=settings.data, partitions=PARTITIONS).out.count("damaged") == 1
    found = tidemark("features", "user", str(SOUND[0]), "--json", data=settings.data, partitions=PARTITIONS)
    assert json.loads(found.out)["found"]
    assert "left out of as_of" in found.err
    shown = tidemark("features", "user", str(SOUND[0]), data=settings.data, partitions=PARTITIONS)
    assert f", of task actions/{HOMES[HOMES != DAMAGED][0]}" in shown.out
    refused = tidemark("features", "user", str(LOST[0]), "--json", code=1, data=settings.data, partitions=PARTITIONS)
    assert f"state {path}" in refused.err
    assert "Traceback" not in refused.err
    assert not refused.out
