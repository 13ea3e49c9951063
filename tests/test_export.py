"""Exports: the same bytes for every history, whole files or none, and what they reflect in their metadata."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.errors import InputError, StorageFullError
from flows.export import LABELS_SCHEMA, SCHEMAS, export_features, export_labels
from flows.features import PIN_COUNTERS, TOPIC_STATS, USER_COUNTERS
from flows.reading import FeatureReader
from tests.oracles.records import DAY, HOUR, T, click, log, save, seen
from tests.state.house import House
from tests.state.small import small
from tests.strategies import adversarial, play

KINDS = ("user", "pin", "topic", "labels")


def export(house: House, directory: Path, as_of: int) -> dict[str, bytes]:
    directory.mkdir(exist_ok=True)
    with FeatureReader(house.settings) as reader:
        for kind in KINDS[:3]:
            export_features(reader, kind, as_of, directory / kind)
        export_labels(reader, as_of, directory / "labels")
    return {kind: (directory / kind).read_bytes() for kind in KINDS}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(
        tmp_path / "data", log(save(0, topic="x", surface="related_pins"), seen(10), click(2 * DAY), save(3 * DAY, user_id=8, pin_id=71))
    )
    made.finish()
    yield made
    made.close()


def read(directory: Path, kind: str) -> list[dict[str, object]]:
    return pq.read_table(directory / kind).to_pylist()


def test_the_rows_of_a_small_stream(house: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(house, out, T + 3 * DAY)
    users = {row["user_id"]: row for row in read(out, "user")}
    assert users[7]["sequence_action"] == ["grid_click", "save"]
    assert users[7]["sequence_event_time"] == [T + 2 * DAY, T]
    assert {n: users[7][n] for n in USER_COUNTERS if users[7][n]} == dict.fromkeys(USER_COUNTERS, 1)
    assert users[8]["sequence_pin_id"] == [71]
    assert not any(users[8][n] for n in USER_COUNTERS)
    (pin,) = read(out, "pin")
    assert pin == {"pin_id": 70} | dict.fromkeys(PIN_COUNTERS, 1)
    (topic,) = read(out, "topic")
    assert topic["topic"] == "x"
    assert [topic[n] for n, _ in TOPIC_STATS[:5]] == [1, 1, 0, 1.0, 0.0]
    first, second = sorted(read(out, "labels"), key=lambda row: str(row["user_id"]))
    assert first == {
        "user_id": 7, "pin_id": 70, "save_time": T, "save_surface": "related_pins", "label_1dRevImpre": True, "label_1dRevGrid": False,
        "label_7dRevGrid": True, "first_revisit_time": T + 10, "matured": False,
    }  # fmt: skip
    assert (second["user_id"], second["first_revisit_time"], second["matured"]) == (8, None, False)


def test_only_what_had_happened_by_then(house: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(house, out, T + 10)
    (user,) = read(out, "user")
    assert user["sequence_action"] == ["save"]
    assert user["revisits_click_all_7d_count"] == 0
    assert user["revisits_impression_rp_90d_pins"] == 1
    (label,) = read(out, "labels")
    assert (label["label_1dRevImpre"], label["label_7dRevGrid"]) == (True, False)
    for before in (T - 1, -1, -(2**63), -(2**70)):
        export(house, out, before)
        assert [read(out, kind) for kind in KINDS] == [[], [], [], []]
    for after in (T + 400 * DAY, 2**62, 2**63 - 1, 2**70):
        export(house, out, after)
        assert [len(read(out, kind)) for kind in KINDS] == [2, 1, 1, 2]
        assert not any(read(out, "pin")[0][n] for n in PIN_COUNTERS), "counters go back to 0, and the pin stays"


def test_columns_and_types(house: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(house, out, T)
    for kind in KINDS:
        schema = pq.read_schema(out / kind)
        assert schema.remove_metadata().equals(LABELS_SCHEMA if kind == "labels" else SCHEMAS[kind])
        about = {k.decode(): v.decode() for k, v in schema.metadata.items() if k.startswith(b"tidemark.")}
        assert about["tidemark.as_of"] == str(T)
        assert orjson.loads(about["tidemark.positions"]) == {"actions": [4], "revisits": [[[0, 1]]]}
    assert SCHEMAS["topic"].field("saves_7d_count").type == pa.int64()
    assert SCHEMAS["topic"].field("click_rate_7d").type == pa.float64()


def test_the_same_bytes_for_every_history(tmp_path: Path) -> None:
    events = adversarial(6, 200, partitions=3)
    times = [int(events["event_time"].quantile(q)) for q in (0.4, 1.0)]
    plain, other = House(tmp_path / "plain", events, 3), House(tmp_path / "other", events, 3, batch_records=9, anchor_records=4)
    plain.finish()
    with small():
        other.finish([1, 11, 3])
        for as_of in times:
            assert export(other, tmp_path / "b", as_of) == export(plain, tmp_path / "a", as_of)
    plain.close()
    other.close()


def test_export_of_nothing(tmp_path: Path) -> None:
    made = House(tmp_path / "data", play([]), partitions=2)
    assert set(export(made, tmp_path / "a", 0)) == set(KINDS)
    made.finish()
    export(made, tmp_path / "a", T)
    assert [read(tmp_path / "a", kind) for kind in KINDS] == [[], [], [], []]
    made.close()


def test_users_at_the_ends_of_int64(tmp_path: Path) -> None:
    ends = (-(2**63), -1, 0, 2**63 - 1)
    records = [r for i, u in enumerate(ends) for r in (save(i, user_id=u, pin_id=u), click(i + 1, user_id=u, pin_id=u))]
    made = House(tmp_path / "data", log(*records))
    with small():
        made.finish([1])
        export(made, tmp_path / "out", T + DAY)
    assert [row["user_id"] for row in read(tmp_path / "out", "user")] == list(ends)
    assert sorted(row["pin_id"] for row in read(tmp_path / "out", "pin")) == list(ends)
    made.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError(errno.ENOSPC, "No space left on device"), StorageFullError), (PermissionError(errno.EACCES, "denied"), InputError)],
)
def test_a_file_is_whole_or_not_there(house: House, tmp_path: Path, error: OSError, kind: type[Exception]) -> None:
    out = tmp_path / "out"
    before = export(house, out, T)
    with FeatureReader(house.settings) as reader:
        with mock.patch.object(os, "replace", side_effect=error), pytest.raises(kind):
            export_features(reader, "user", T + DAY, out / "user")
        with mock.patch.object(pq.ParquetWriter, "write_table", side_effect=error), pytest.raises(kind):
            export_labels(reader, T + DAY, out / "labels")
        with pytest.raises(InputError, match="can't write"):
            export_features(reader, "user", T, tmp_path / "no such directory" / "file")
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="no regular file"):
            export_features(reader, "user", T, tmp_path / "pipe")
    assert {kind: (out / kind).read_bytes() for kind in KINDS} == before
    assert sorted(p.name for p in out.iterdir()) == sorted(KINDS), "nothing is left behind"


def test_impressions_alone_make_no_user(tmp_path: Path) -> None:
    made = House(tmp_path / "data", log(save(0), seen(5), *(seen(HOUR * i, user_id=9) for i in range(3))))
    made.finish()
    export(made, tmp_path / "out", T + DAY)
    assert [row["user_id"] for row in read(tmp_path / "out", "user")] == [7]
    assert [row["revisits_impression_all_7d_users"] for row in read(tmp_path / "out", "pin")] == [1]
    made.close()
