"""Historical reads through Feast: what a training row is, that it equals online reads of the same prefix, and what is refused in one line."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource
from feast.errors import FeatureServiceNotFoundException, FeatureViewNotFoundException
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64

from feature_repo import historical, readers
from feature_repo.entity_frame import AS_OF, FINGERPRINT, POSITIONS
from feature_repo.errors import HistoricalReadError, StateIsWrittenByItsLogError
from feature_repo.online_store import reading_as_of
from feature_repo.reading import open_store
from flows import features
from flows.errors import FingerprintError, InputError
from flows.point_in_time import pins, users
from flows.positions import Positions
from flows.reading import FeatureReader
from flows.settings import Settings
from flows.skew.training import of_training
from flows.state.actions_task import state_fingerprint
from tests import driving
from tests.oracles.decide import decide
from tests.oracles.point_in_time import arrivals
from tests.point_in_time.asking import Oracle
from tests.processes import tidemark
from tests.strategies import random_stream

PARTITIONS = 2
SEQUENCE = [f"sequence_{name}" for name in features.SEQUENCE_FIELDS]
REFERENCES = [
    *(f"user_action_sequence:{name}" for name in SEQUENCE),
    *(f"user_revisit_counters:{name}" for name in features.USER_COUNTERS),
    *(f"pin_revisit_counters:{name}" for name in features.PIN_COUNTERS),
    *(f"topic_revisit_stats:{name}" for name, _ in features.TOPIC_STATS),
]
COUNTER = features.USER_COUNTERS[0]


@pytest.fixture(scope="module")
def events() -> pd.DataFrame:
    return random_stream(3, 3_000, PARTITIONS, users=30, pins=40, days=40)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, events: pd.DataFrame) -> Settings:
    return _ran(tmp_path_factory.mktemp("offline") / "data", events)


def _ran(path: Path, events: pd.DataFrame) -> Settings:
    settings = Settings(data=path, partitions=PARTITIONS)
    rng = np.random.default_rng(0)
    driving.write(settings, events, rng)
    driving.apply(settings, rng)
    return settings


@pytest.fixture
def store(data: Settings) -> Iterator[FeatureStore]:
    yield open_store(data)
    readers.close_readers()


def moment(milliseconds: int) -> pd.Timestamp:
    return pd.Timestamp(milliseconds, unit="ms", tz="UTC")


def asked(events: pd.DataFrame, n: int, seed: int = 0) -> pd.DataFrame:
    """Unsorted rows with repeats, ties in time and unknown entities, at arrivals and event times and beside them."""
    rng = np.random.default_rng(seed)
    times = np.concatenate([events["event_time"][~events["bad"]], arrivals(events)])
    at = rng.choice(times, n) + rng.integers(-1, 2, n)
    at[n // 2 :] = at[: n - n // 2]
    frame = pd.DataFrame(
        {
            "note": [f"row {i}" for i in range(n)],
            "user_id": rng.choice([*events["user_id"].unique(), 987], n),
            "event_timestamp": pd.to_datetime(at, unit="ms", utc=True),
            "pin_id": rng.choice([*events["pin_id"].unique(), 987], n),
            "topic": rng.choice([*events["topic"].unique(), "no such"], n),
        }
    )
    return pd.concat([frame, frame.iloc[: n // 5]])


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if "__" in name} for row in table.to_pylist()]


def check_oracle(table: pa.Table, decided: pd.DataFrame) -> None:
    oracle = Oracle(decided)
    ms = [int(t.timestamp() * 1000) for t in table.column("event_timestamp").to_pandas()]
    for row, t in zip(table.to_pylist(), ms, strict=True):
        sequence, counters = oracle.user(row["user_id"], t - 1, t)
        lists = [row[f"user_action_sequence__{name}"] for name in SEQUENCE]
        assert ([] if lists[0] is None else list(zip(*lists, strict=True))) == sequence
        assert (lists[0] is None) == (not sequence)
        assert [row[f"user_revisit_counters__{name}"] or 0 for name in features.USER_COUNTERS] == counters
        pin, found = oracle.pin(row["pin_id"], t - 1, t)
        assert [row[f"pin_revisit_counters__{name}"] for name in features.PIN_COUNTERS] == (pin if found else [None] * 24)
        topic, found = oracle.topic(row["topic"], t - 1, t)
        assert [row[f"topic_revisit_stats__{name}"] for name, _ in features.TOPIC_STATS] == (topic if found else [None] * 15)


def test_training_rows_equal_the_oracle_in_the_order_of_the_frame(store: FeatureStore, events: pd.DataFrame) -> None:
    frame = asked(events, 60)
    table = store.get_historical_features(frame, REFERENCES, full_feature_names=True).to_arrow()
    assert table.column_names[:5] == list(frame.columns)
    assert table.column("note").to_pylist() == frame["note"].tolist()
    check_oracle(table, decide(events, partitions=PARTITIONS))
    assert {table.schema.field(f"pin_revisit_counters__{name}").type for name in features.PIN_COUNTERS} == {pa.int64()}


@pytest.mark.parametrize("t_share", [0.4, 0.8])
def test_offline_equals_online_of_what_had_arrived(t_share: float, data: Settings, events: pd.DataFrame, tmp_path: Path) -> None:
    """The records that had arrived by t in a data directory of their own, its flows run, read online at t - 1: as the full log says offline at t."""
    t = int(arrivals(events).quantile(t_share))
    users, pins, topics = (events[name].unique().tolist() for name in ("user_id", "pin_id", "topic"))
    frame = pd.DataFrame({"user_id": users, "event_timestamp": moment(t)})
    frame["pin_id"] = [pins[i % len(pins)] for i in range(len(frame))]
    frame["topic"] = [topics[i % len(topics)] for i in range(len(frame))]
    offline = rows_of(open_store(data).get_historical_features(frame, REFERENCES, full_feature_names=True).to_arrow())
    online = open_store(_ran(tmp_path / "data", events[arrivals(events) <= t]))
    with reading_as_of(t - 1):
        keys = frame[["user_id", "pin_id", "topic"]].to_dict("records")
        response = online.get_online_features(REFERENCES, keys, full_feature_names=True).to_dict()
    for i, row in enumerate(offline):
        assert row == {name: response[name][i] for name in row}
    readers.close_readers()


def test_a_row_with_positions_equals_what_was_served(data: Settings, events: pd.DataFrame, tmp_path: Path) -> None:
    """Two commits of a live state, one row without positions between them; the log has gone on since."""
    served, want = [], []
    pin = int(events["pin_id"].mode()[0])
    live = Settings(data=tmp_path / "data", partitions=PARTITIONS)
    rng = np.random.default_rng(1)
    at = 0
    for until in (len(events) // 3, 2 * len(events) // 3, len(events)):
        driving.write(live, events.iloc[at:until], rng)
        at = until
        driving.apply(live, rng)
        with FeatureReader(live) as reader:
            as_of = reader.default_as_of()
            positions = Positions.of(reader).to_bytes()
        if until == len(events):
            break
        store = open_store(live)
        for user in events["user_id"].unique().tolist():
            response = store.get_online_features(REFERENCES[:5], [{"user_id": user}]).to_dict()
            counters = store.get_online_features([REFERENCES[5 + 24]], [{"pin_id": pin}]).to_dict()
            want.append([response[name][0] for name in SEQUENCE] + [counters[features.PIN_COUNTERS[0]][0]])
            served.append({"user_id": user, "pin_id": pin, "event_timestamp": moment(as_of + 7), POSITIONS: positions, AS_OF: as_of})
    frame = pd.DataFrame(served)
    order = rng.permutation(len(frame))
    refs = [*REFERENCES[:5], REFERENCES[5 + 24]]
    got = open_store(live).get_historical_features(frame.iloc[order], refs).to_arrow()
    assert [[row[name] for name in (*SEQUENCE, features.PIN_COUNTERS[0])] for row in got.to_pylist()] == [want[i] for i in order]
    # The moment itself, where no as_of is given.
    frame["event_timestamp"] = [moment(row[AS_OF]) for row in served]
    again = open_store(live).get_historical_features(frame.drop(columns=AS_OF), refs).to_arrow()
    assert [[row[name] for name in (*SEQUENCE, features.PIN_COUNTERS[0])] for row in again.to_pylist()] == want
    # A row without positions is a training row.
    frame[POSITIONS] = [None, *frame[POSITIONS].iloc[1:]]
    mixed = open_store(live).get_historical_features(frame, refs).to_arrow().to_pylist()
    alone = open_store(live).get_historical_features(frame[["user_id", "pin_id", "event_timestamp"]].iloc[:1], refs).to_arrow().to_pylist()
    assert [mixed[0][name] for name in SEQUENCE] == [alone[0][name] for name in SEQUENCE]
    assert [[row[name] for name in (*SEQUENCE, features.PIN_COUNTERS[0])] for row in mixed[1:]] == want[1:]
    readers.close_readers()


def test_parts_of_a_millisecond(store: FeatureStore, events: pd.DataFrame) -> None:
    """Strictly before the moment, to the nanosecond; arrived at it or before."""
    accepted = decide(events, partitions=PARTITIONS)
    one = accepted[(accepted["status"] == "accepted") & (accepted["action"] == "save")].iloc[100]
    t = max(int(one["event_time"]), int(arrivals(events)[one.name]))
    frame = pd.DataFrame(
        {
            "user_id": int(one["user_id"]),
            "event_timestamp": [pd.Timestamp(t * 1_000_000 + ns, tz="UTC") for ns in (0, 1, 999_999, 1_000_000)],
        }
    )
    table = store.get_historical_features(frame, REFERENCES[:5]).to_arrow()
    oracle = Oracle(accepted)
    wants = [oracle.user(int(one["user_id"]), time, by)[0] for time, by in ((t - 1, t), (t, t), (t, t), (t, t + 1))]
    assert [list(zip(*(row[name] or [] for name in SEQUENCE), strict=True)) for row in table.to_pylist()] == wants


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.assign(event_timestamp=f["event_timestamp"].dt.tz_localize(None)),
        lambda f: f.assign(event_timestamp=f["event_timestamp"].dt.tz_convert("Asia/Kathmandu")),
        lambda f: f.assign(event_timestamp=f["event_timestamp"].astype("datetime64[us, UTC]")),
        lambda f: f.assign(event_timestamp=[t.to_pydatetime() for t in f["event_timestamp"]]),
        lambda f: f.assign(user_id=f["user_id"].astype("Int64"), topic=f["topic"].astype("string")),
        lambda f: f.assign(topic=f["topic"].astype("category"), pin_id=f["pin_id"].astype(object)),
        lambda f: f.rename(columns={"event_timestamp": "when"}),
        lambda f: f.set_index(pd.Index(range(len(f), 0, -1))),
        lambda f: pa.Table.from_pandas(f, preserve_index=False),
    ],
)  # fmt: skip
def test_frames_that_say_the_same(change: Any, store: FeatureStore, events: pd.DataFrame) -> None:
    frame = asked(events, 20).reset_index(drop=True)
    want = rows_of(store.get_historical_features(frame, REFERENCES, full_feature_names=True).to_arrow())
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        changed = store.get_historical_features(change(frame.copy()), REFERENCES, full_feature_names=True)
    assert rows_of(changed.to_arrow()) == want


def test_an_empty_frame(store: FeatureStore) -> None:
    frame = pd.DataFrame({"user_id": pd.Series([], dtype="int64"), "event_timestamp": pd.to_datetime([], utc=True)})
    found = store.get_historical_features(frame, REFERENCES[:29]).to_df()
    assert list(found.columns) == ["user_id", "event_timestamp", *SEQUENCE, *features.USER_COUNTERS]
    assert not len(found)


def test_services_and_data_frames(store: FeatureStore, events: pd.DataFrame) -> None:
    frame = asked(events, 15)[["user_id", "event_timestamp"]]
    found = store.get_historical_features(frame, store.get_feature_service("ranking_v1_user")).to_df()
    assert list(found.columns) == ["user_id", "event_timestamp", *SEQUENCE, *features.USER_COUNTERS]
    assert found["user_id"].tolist() == frame["user_id"].tolist()
    both = store.get_historical_features(asked(events, 15), store.get_feature_service("ranking_v1"), full_feature_names=True).to_df()
    assert f"pin_revisit_counters__{features.PIN_COUNTERS[3]}" in both.columns
    with pytest.raises(Exception, match="full_feature_names"):
        store.get_historical_features(asked(events, 5), store.get_feature_service("ranking_v1"))


def test_a_renamed_key(store: FeatureStore, events: pd.DataFrame) -> None:
    """One view twice, by two columns."""
    frame = asked(events, 20)
    frame["author_id"] = frame["user_id"].to_numpy()[::-1]
    view = store.get_feature_view("user_revisit_counters")
    author = view.with_name("author").with_join_key_map({"user_id": "author_id"})
    view = view.with_name("reader")  # Feast can't sort a name beside none
    service = type(store.get_feature_service("ranking_v1"))(name="by_author", features=[author[[COUNTER]], view[[COUNTER]]])
    store.apply(service)
    found = store.get_historical_features(frame, service, full_feature_names=True).to_arrow()
    swapped = frame.assign(user_id=frame["author_id"])
    want = store.get_historical_features(swapped, [f"user_revisit_counters:{COUNTER}"]).to_arrow()
    assert found.column(f"author__{COUNTER}").to_pylist() == want.column(COUNTER).to_pylist()


def test_in_stretches_and_in_files(store: FeatureStore, events: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = asked(events, 50)
    want = store.get_historical_features(frame, REFERENCES, full_feature_names=True).to_arrow()
    monkeypatch.setattr(historical, "BATCH_ROWS", 7)
    monkeypatch.setattr(users, "_PART", 5)
    monkeypatch.setattr(pins, "_BLOCK", 5)
    job = store.get_historical_features(frame, REFERENCES, full_feature_names=True)
    with job.batches() as batches:
        parts = list(batches)
    assert [part.num_rows for part in parts] == [7] * (len(frame) // 7) + [len(frame) % 7]
    assert pa.concat_tables(parts).to_pylist() == want.to_pylist()
    assert job.to_parquet(tmp_path / "out.parquet") == len(frame)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == want.to_pylist()
    assert job.to_arrow().to_pylist() == want.to_pylist()
    with pytest.raises(InputError, match="can't write"):
        job.to_parquet(tmp_path / "nowhere" / "out.parquet")


def test_saved_datasets(store: FeatureStore, events: pd.DataFrame, tmp_path: Path) -> None:
    frame = asked(events, 20)[["user_id", "event_timestamp"]]
    job = store.get_historical_features(frame, [f"user_revisit_counters:{COUNTER}"])
    place = SavedDatasetFileStorage(path=str(tmp_path / "saved.parquet"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Feast's own: saved datasets are experimental
        saved = store.create_saved_dataset(job, "saved", place)
    pd.testing.assert_frame_equal(saved.to_df()[["user_id", COUNTER]], job.to_df()[["user_id", COUNTER]])
    with pytest.raises(HistoricalReadError, match="is there already"):
        job.persist(place)
    job.persist(place, allow_overwrite=True)
    with pytest.raises(HistoricalReadError, match="path of this machine"):
        job.persist(SavedDatasetFileStorage(path="s3://bucket/saved.parquet"))


def test_on_demand_views(store: FeatureStore, events: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feast's own: made of ours row by row, in memory as in stretches."""
    moved = open_store(Settings(data=store.config.offline_store.resolve().data, partitions=PARTITIONS))
    view = moved.get_feature_view("user_revisit_counters")

    @on_demand_feature_view(
        sources=[view, RequestSource(name="asked_for", schema=[Field(name="add", dtype=Int64)])], schema=[Field(name="more", dtype=Int64)]
    )
    def with_more(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"more": inputs["revisits_impression_all_7d_count"].fillna(0).astype("int64") + inputs["add"]})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Feast's own: they are experimental
        moved.apply([with_more])
    try:
        frame = asked(events, 20)[["user_id", "event_timestamp"]].assign(add=5)
        job = moved.get_historical_features(frame, [f"user_revisit_counters:{COUNTER}", "with_more:more"])
        found = job.to_arrow().to_pylist()
        assert [row["more"] for row in found] == [(row[COUNTER] or 0) + 5 for row in found]
        monkeypatch.setattr(historical, "BATCH_ROWS", 7)
        job.to_parquet(tmp_path / "out.parquet")
        assert pq.read_table(tmp_path / "out.parquet").to_pylist() == found
    finally:
        moved.registry.delete_feature_view("with_more", moved.project)


MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
FRAME = {"user_id": [1, 2], "event_timestamp": [MOMENT] * 2}


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (None, "an entity frame is needed"),
        ("SELECT 1", "by SQL is not supported"),
        (3, "is a int; give a pandas"),
        (pd.DataFrame({"user_id": [1]}), "no column 'event_timestamp', and no other"),
        (pd.DataFrame({"user_id": [1], "event_timestamp": ["2026-01-01"]}), "is of type string; make it a timestamp"),
        (pd.DataFrame({"user_id": [1], "event_timestamp": [None]}), "holds no times"),
        (pd.DataFrame({"user_id": [1, 1], "event_timestamp": [MOMENT, None]}), "empty in row 1$"),
        (pd.DataFrame({"user_id": [1, 1, 1], "event_timestamp": [MOMENT, None, None]}), r"empty in row 1 \(and 1 more\)$"),
        (pd.DataFrame({"user_id": [1], "a": [MOMENT], "b": [MOMENT]}), "more than one column of times"),
        (pd.DataFrame(FRAME).rename(columns={"user_id": "user"}), "no column 'user_id', the key of feature view 'user_revisit_counters'"),
        (pd.DataFrame(FRAME | {"user_id": ["a", "b"]}), "is of type string, and an ID is a whole number"),
        (pd.DataFrame(FRAME | {"user_id": [1.0, 2.0]}), "is of type double"),
        (pd.DataFrame(FRAME | {"user_id": pd.array([1, None], "Int64")}), "empty in row 1"),
        (pd.DataFrame(FRAME | {"user_id": np.array([1, 2**64 - 1], np.uint64)}), "no int64"),
        (pd.DataFrame(FRAME | {"user_id": [1, "b"]}), "can't become an Arrow table"),
        (pd.DataFrame(FRAME | {COUNTER: [1, 2]}), f"has a column '{COUNTER}', and so has the result"),
        (pd.DataFrame([[1, 2, MOMENT]], columns=["user_id", "user_id", "event_timestamp"]), "uplicate column"),
        (pd.DataFrame(FRAME | {POSITIONS: ["a", "b"]}), "must hold the bytes"),
        (pd.DataFrame(FRAME | {POSITIONS: [None, b"nonsense"]}), "row 1: these bytes are no positions"),
        (pd.DataFrame(FRAME | {AS_OF: [1, 2]}), "only a row that was served has an as_of"),
        (pd.DataFrame(FRAME | {POSITIONS: [b"", None], AS_OF: [1.5, 2]}), "no positions that this Tidemark can read|whole milliseconds"),
    ],
)  # fmt: skip
def test_frames_that_are_refused(frame: Any, message: str, store: FeatureStore) -> None:
    with pytest.raises(HistoricalReadError, match=message) as caught:
        store.get_historical_features(frame, [f"user_revisit_counters:{COUNTER}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        (["user_revisit_counters:no_such"], HistoricalReadError, "feature view 'user_revisit_counters' has no feature 'no_such'$"),
        ([f"user_revisit_counters:{COUNTER[:-1]}"], HistoricalReadError, f"did you mean '{COUNTER}'"),
        (["user_revisit_counters"], HistoricalReadError, "'user_revisit_counters' is not of the form 'view:feature'"),
        (f"user_revisit_counters:{COUNTER}", HistoricalReadError, "features are a list of 'view:feature' texts, or a feature service"),
        ([3], HistoricalReadError, "features are a list of 'view:feature' texts"),
        ({"a": 1}, HistoricalReadError, "features are a list of 'view:feature' texts"),
        ([], HistoricalReadError, "no features are asked for"),
        (["nothing:at_all"], FeatureViewNotFoundException, "nothing does not exist in project tidemark"),
        (FeatureService(name="no_such", features=[]), FeatureServiceNotFoundException, "no_such does not exist in project tidemark"),
    ],
)
def test_features_that_there_are_not(wanted: Any, error: type[Exception], message: str, store: FeatureStore) -> None:
    for ask in (
        lambda: store.get_historical_features(pd.DataFrame(FRAME), wanted),
        lambda: store.get_historical_features(features=wanted, entity_df=pd.DataFrame(FRAME)),
    ):
        with pytest.raises(error, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)
    with pytest.raises(FeatureServiceNotFoundException, match="no_such does not exist"):
        store.get_feature_service("no_such")


def test_features_may_come_as_any_sequence(store: FeatureStore) -> None:
    reference = f"user_revisit_counters:{COUNTER}"
    [one, other] = [store.get_historical_features(pd.DataFrame(FRAME), wanted).to_arrow() for wanted in ([reference], (reference,))]
    assert one.to_pylist() == other.to_pylist()


def test_what_is_not_ours_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    frame = pd.DataFrame(FRAME)
    with pytest.raises(HistoricalReadError, match="end_date and start_date can't stand in for it"):
        store.get_historical_features(
            features=[f"user_revisit_counters:{COUNTER}"],
            start_date=datetime(2026, 1, 1, tzinfo=UTC),
            end_date=datetime(2026, 2, 1, tzinfo=UTC),
        )
    view = store.get_feature_view("user_revisit_counters")
    foreign = FeatureView(
        name="foreign",
        entities=[store.get_entity("user")],
        schema=[Field(name="x", dtype=Int64)],
        source=FileSource(path=str(tmp_path / "x.parquet"), timestamp_field="event_timestamp"),
    )
    offline = store._get_provider().offline_store
    with pytest.raises(HistoricalReadError, match="view 'foreign' doesn't follow from the log"):
        offline.get_historical_features(store.config, [foreign], ["foreign:x"], frame, store.registry, store.project)
    with pytest.raises(HistoricalReadError, match=r"user_revisit_counters_export' is no table.*entity frame"):
        offline.pull_all_from_table_or_query(store.config, view.batch_source, ["user_id"], [COUNTER], "event_timestamp")
    with pytest.raises(HistoricalReadError, match="features export"):
        offline.pull_latest_from_table_or_query(
            store.config, view.batch_source, ["user_id"], [COUNTER], "event_timestamp", None, MOMENT, MOMENT
        )
    with pytest.raises(StateIsWrittenByItsLogError, match="a write to the offline store is refused"):
        store.write_to_offline_store("user_revisit_counters", pd.DataFrame(FRAME | {COUNTER: [1, 2]}), reorder_columns=False)


def test_positions_of_another_data_directory_are_refused(store: FeatureStore, data: Settings, tmp_path: Path) -> None:
    zeros = np.zeros(3, np.int64)
    for positions, message in (
        (Positions(zeros, zeros, np.zeros((3, 3), np.int64)), "of 3 partitions"),
        (Positions(np.array([10**9, 0]), zeros[:2], np.zeros((2, 2), np.int64)), "ends at"),
        (Positions(zeros[:2], np.array([0, 4]), np.zeros((2, 2), np.int64)), "correction 4"),
        (Positions(zeros[:2], zeros[:2], np.full((2, 2), 10**6)), "changes of pins"),
    ):
        frame = pd.DataFrame({"pin_id": [1], "event_timestamp": moment(10**12), POSITIONS: [positions.to_bytes()]})
        with pytest.raises(Exception, match=message) as caught:
            store.get_historical_features(frame, [f"pin_revisit_counters:{features.PIN_COUNTERS[0]}"]).to_df()
        assert "\n" not in str(caught.value)


def test_the_command(store: FeatureStore, data: Settings, events: pd.DataFrame, tmp_path: Path) -> None:
    frame = asked(events, 30)
    frame.to_parquet(tmp_path / "entities.parquet", index=False)
    common = ("features", "history", "--entities", tmp_path / "entities.parquet", "--out", tmp_path / "out.parquet")
    done = tidemark(*common, "--service", "ranking_v1", "--full-names", "--json", data=data.data, partitions=PARTITIONS)
    said = done.json()
    assert said["rows"] == len(frame)
    want = store.get_historical_features(frame, store.get_feature_service("ranking_v1"), full_feature_names=True).to_arrow()
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == want.to_pylist()
    done = tidemark(
        *common, "--feature", f"user_revisit_counters:{COUNTER}", "--feature", "user_action_sequence", data=data.data, partitions=PARTITIONS
    )
    assert f"{len(frame):,} rows" in done.out
    assert pq.read_schema(tmp_path / "out.parquet").names == [*frame.columns, COUNTER, *SEQUENCE]
    for arguments, message in (
        ((*common,), "--feature or --service"),
        ((*common, "--feature", "x", "--service", "y"), "--feature or --service"),
        ((*common, "--service", "y"), "there is no feature service 'y'"),
        ((*common, "--feature", "nothing:x"), "nothing"),
        ((*common, "--service", "ranking_v1_user", "--out", tmp_path / "entities.parquet"), "is the file of --entities"),
        ((*common, "--feature", "user_revisit_counters:x"), "x"),
        ((*common, "--service", "ranking_v1"), "--full-names"),
        (("features", "history", "--entities", data.registry, "--out", "x", "--service", "ranking_v1_user"), "can't be read as Parquet"),
    ):
        failed = tidemark(*arguments, data=data.data, partitions=PARTITIONS, code=2)
        assert message in failed.err
        assert "Traceback" not in failed.err
        assert failed.err.strip().count("\n") <= 4


def test_a_training_set_says_what_it_was_made_under(store: FeatureStore, data: Settings, events: pd.DataFrame, tmp_path: Path) -> None:
    here = state_fingerprint(data, data.load_vocabulary())
    frame = asked(events, 5)
    job = store.get_historical_features(frame, REFERENCES[:1])
    job.to_parquet(tmp_path / "t.parquet")
    for schema in (job.to_arrow().schema, pq.read_schema(tmp_path / "t.parquet")):
        assert schema.metadata[b"tidemark.fingerprint"].decode() == here
    assert of_training(tmp_path / "t.parquet", here).records == len(frame)
    with pytest.raises(FingerprintError, match="--any-fingerprint"):
        of_training(tmp_path / "t.parquet", "another")


def test_rows_served_under_another_fingerprint_are_refused_unless_asked_for(
    store: FeatureStore, data: Settings, events: pd.DataFrame
) -> None:
    frame = asked(events, 3)[:3]
    frame[FINGERPRINT] = [state_fingerprint(data, data.load_vocabulary()), None, "another"]
    with pytest.raises(HistoricalReadError, match=r"row 2 .* under fingerprint another"):
        store.get_historical_features(frame, REFERENCES[:1])
    with pytest.raises(HistoricalReadError, match="is of type int64"):
        store.get_historical_features(frame.assign(**{FINGERPRINT: 1}), REFERENCES[:1])
    assert len(store.get_historical_features(frame.drop(columns=FINGERPRINT), REFERENCES[:1]).to_df()) == 3
    assert len(store.get_historical_features(frame[:2], REFERENCES[:1]).to_df()) == 2


@pytest.mark.parametrize(("unit", "value"), [("s", 2**61), ("ms", -(2**62)), ("us", 2**61), ("ns", 2**62)])
def test_moments_that_no_datetime_has(unit: str, value: int, store: FeatureStore, events: pd.DataFrame) -> None:
    """All of the log lies before or behind them."""
    user = int(events["user_id"].iloc[0])
    frame = pa.table({"user_id": [user], "event_timestamp": pa.array([value], pa.timestamp(unit))})
    got = store.get_historical_features(frame, [f"user_revisit_counters:{COUNTER}", "user_action_sequence:sequence_pin_id"]).to_arrow()
    assert bool(got.column("sequence_pin_id")[0].as_py()) == (value > 0)
