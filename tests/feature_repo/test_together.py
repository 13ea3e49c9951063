"""Reads that belong together reflect one position, in any thread, task and process."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore

from feature_repo import readers
from feature_repo.errors import FeastReadError
from feature_repo.online_store import one_catch_up, reading_as_of
from feature_repo.reading import open_store, user_features
from flows.errors import SettingsError
from flows.settings import Settings
from tests.feature_repo.fake import T0, FakeReader


def test_reading_as_of(store: FeatureStore, reader: FakeReader) -> None:
    def pins() -> Any:
        return store.get_online_features(["user_action_sequence:sequence_pin_id"], [{"user_id": 1}]).to_dict()["sequence_pin_id"][0]

    with reading_as_of(T0 - 1):
        assert pins() == [11]
        with reading_as_of(T0 - 5001):
            assert pins() == []
        with reading_as_of(None):
            assert pins() == [12, 11]
        assert pins() == [11]
    assert pins() == [12, 11]
    assert [at for _, _, at in reader.asked] == [T0 - 1, T0 - 5001, T0, T0 - 1, T0]


@pytest.mark.parametrize("wrong", [-1, 253_402_300_800_000, 1.5, "1790000000000", True])
def test_reading_as_of_what_is_no_time(wrong: Any) -> None:
    with pytest.raises(FeastReadError, match="as_of"), reading_as_of(wrong):
        pass


def test_as_of_holds_in_its_own_thread_only(store: FeatureStore, reader: FakeReader) -> None:
    def elsewhere() -> None:
        store.get_online_features(["user_action_sequence:sequence_pin_id"], [{"user_id": 1}])

    with reading_as_of(5):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert [at for _, _, at in reader.asked] == [T0]


def test_async_read_takes_the_as_of_along(store: FeatureStore, reader: FakeReader) -> None:
    async def read() -> Any:
        with reading_as_of(T0 - 1):
            return await store.get_online_features_async(["user_action_sequence:sequence_pin_id"], [{"user_id": 1}])

    assert asyncio.run(read()).to_dict()["sequence_pin_id"] == [[11]]


def test_many_async_reads_at_once_each_get_their_own(store: FeatureStore, reader: FakeReader) -> None:
    async def read(number: int) -> Any:
        with reading_as_of(T0 if number % 2 else T0 - 1):
            rows = [{"user_id": 1 if number % 3 else 404}]
            return (await store.get_online_features_async(["user_action_sequence:sequence_pin_id"], rows)).to_dict()["sequence_pin_id"]

    async def together() -> list[Any]:
        return await asyncio.gather(*(read(number) for number in range(300)))

    got = asyncio.run(together())
    assert got == [[None if not number % 3 else [12, 11] if number % 2 else [11]] for number in range(300)]


def test_an_async_read_that_waits_holds_up_nobody_else(
    store: FeatureStore, reader: FakeReader, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = dataclasses.replace(settings, data=settings.data.parent / "another")
    other, going_on = open_store(elsewhere), threading.Event()
    readers.shared_reader(elsewhere)
    slow = reader.user_sequences

    def waits(user_ids: Any, as_of: int | None = None) -> Any:
        assert going_on.wait(60)
        return slow(user_ids, as_of)

    monkeypatch.setattr(reader, "user_sequences", waits)

    async def together() -> list[Any]:
        wanted = ["user_action_sequence:sequence_pin_id"]
        waiting = asyncio.create_task(store.get_online_features_async(wanted, [{"user_id": 1}]))
        await asyncio.sleep(0)
        meanwhile = await other.get_online_features_async(wanted, [{"user_id": 1}])
        assert not waiting.done()
        going_on.set()
        return [(await waiting).to_dict(), meanwhile.to_dict()]

    assert [one["sequence_pin_id"] for one in asyncio.run(together())] == [[[12, 11]], [None]]


def test_a_catch_up_is_not_shared_by_coroutines(store: FeatureStore, reader: FakeReader) -> None:
    async def other() -> None:
        user_features(store, 1)

    async def spans_an_await() -> None:
        task = asyncio.create_task(other())  # its context is from before the catch-up
        with one_catch_up(store):
            await asyncio.sleep(0)
        await task

    with pytest.raises(RuntimeError, match="must not span an await"):
        asyncio.run(spans_an_await())
    assert user_features(store, 1)["found"]


def test_a_request_for_several_views_catches_up_once(store: FeatureStore, reader: FakeReader) -> None:
    store.get_online_features(
        store.get_feature_service("ranking_v1"), [{"user_id": 1, "pin_id": 5, "topic": "käse"}], full_feature_names=True
    )
    assert reader.refreshed == 1
    assert {(method, count) for method, count, _ in reader.asked} == {
        ("user_sequences", 1),
        ("user_counters", 1),
        ("pin_counters", 1),
        ("topic_stats", 1),
    }


def test_positions_are_those_of_the_values(store: FeatureStore, reader: FakeReader) -> None:
    with one_catch_up(store) as caught:
        store.get_online_features(["user_action_sequence:sequence_pin_id"], [{"user_id": 1}])
        store.get_online_features(["user_action_sequence:sequence_pin_id"], [{"user_id": 2}])
        assert caught.positions == {"actions": [101], "revisits": [7]}
        assert caught.default_as_of == T0
    assert reader.refreshed == 1
    assert user_features(store, 1)["positions"] == {"actions": [102], "revisits": [7]}


def test_one_reader_per_data_directory(tmp_path: Path, opened: list[FakeReader], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data in (tmp_path / "a", Path("a"), tmp_path / "b" / ".." / "a", tmp_path / "b"):
        user_features(open_store(Settings(data=data)), 1)
    assert len(opened) == 2
    readers.close_readers()
    assert all(reader.closed for reader in opened)


@pytest.mark.parametrize("name", ["allowed_lateness_ms", "partitions"])
def test_settings_that_decide_values_are_one_per_data_directory(
    store: FeatureStore, reader: FakeReader, settings: Settings, name: str
) -> None:
    same = dataclasses.replace(settings, batch_records=7, anchor_records=8)
    assert user_features(open_store(same), 1)["found"]
    changed: dict[str, Any] = {name: 3}
    with pytest.raises(SettingsError, match=f"is open in this process with {name}"):
        user_features(open_store(dataclasses.replace(settings, **changed)), 1)
