"""Tasks: the same state, digest and outputs for every history that leads to a position; what doesn't fit its log is refused."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.decode import Columns
from flows.errors import CorruptionError, LogError, TidemarkError
from flows.log import LocalLog, LogBatch
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISIT_SCHEMA, REVISITS, take_next
from flows.settings import Settings
from flows.state import tables
from flows.state.actions_task import Judge, JudgedBatch, state_fingerprint
from flows.state.revisits_task import RevisitsTask
from flows.state.store import TaskStore
from flows.state.task import Task, task_path
from tests import driving
from tests.of_messages import OfMessages
from tests.oracles.records import DAY, HOUR, T, click, log, save, seen
from tests.state.house import House
from tests.state.small import small
from tests.strategies import adversarial


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with small(sequences=True):
        yield


@pytest.fixture(scope="module")
def events() -> pd.DataFrame:
    return adversarial(20, 150, partitions=1)


def outputs(house: House) -> dict[str, list[list[object]]]:
    """What readers of the output logs take, by log and partition."""
    found: dict[str, list[list[object]]] = {}
    for name in (REVISITS, LATE, DEADLETTERS):
        for partition in range(house.settings.partitions):
            applied: dict[int, int] = {}
            parts = house.logs[name].read(partition, 0, 1 << 30)
            found[f"{name}-{partition}"] = [row for p in parts for row in take_next(p.records, applied, name).to_pylist()]
    return found


@pytest.fixture(scope="module")
def plain(events: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, list[list[object]]]]:
    """Digests and outputs of the stream, run at once."""
    with small(sequences=True):
        house = House(tmp_path_factory.mktemp("plain"), events)
        return house.finish(), outputs(house)


@settings(max_examples=8)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(1, 200), st.lists(st.integers(0, 149), max_size=3))
def test_any_history_gives_the_same_digest_and_outputs(
    events: pd.DataFrame,
    plain: tuple[dict[str, str], dict[str, list[list[object]]]],
    sizes: list[int],
    anchor_records: int,
    kills: list[int],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        house = House(Path(directory), events, anchor_records=anchor_records, batch_records=sizes[0])
        task = house.open()
        for position in [*sorted(kills), 150]:
            while task.position < position:
                task.apply(task.source.read(0, task.position, min(sizes[task.position % len(sizes)], position - task.position)))
            digest = task.digest()
            task.abandon()
            task = house.open()
            assert task.digest() == digest, "a kill changes nothing"
        task.close()
        assert (house.finish(sizes), outputs(house)) == plain
        house.close()


def test_a_source_may_resume_anywhere(tmp_path: Path, events: pd.DataFrame, plain: tuple[dict[str, str], object]) -> None:
    """Behind the task: what it has is skipped. Ahead of it: the gap is read from the log."""
    house = House(tmp_path / "house", events, batch_records=7)
    task = house.open()
    source = task.source
    assert task.apply(source.read(0, 40, 10)) == 50
    assert task.apply(source.read(0, 0, 30)) == 0
    assert task.apply(source.read(0, 45, 10)) == 5
    assert task.apply([*source.read(0, 50, 10), *source.read(0, 52, 3), *source.read(0, 80, 5)]) == 30
    assert task.apply([]) == 0
    assert [task.catch_up(100) for _ in range(4)] == [7, 7, 1, 0], "a stretch at a time"
    assert task.catch_up(90) == 0
    assert sum(task.catch_up(150) for _ in range(8)) == 50
    assert task.digest() == plain[0]["actions-0"]
    task.close()


@settings(max_examples=6)
@given(
    st.lists(st.tuples(st.lists(st.tuples(st.integers(0, 149), st.integers(1, 60)), max_size=3), st.booleans()), max_size=8),
    st.integers(1, 50),
)
def test_parts_from_anywhere_lead_to_the_same(
    events: pd.DataFrame,
    plain: tuple[dict[str, str], dict[str, list[list[object]]]],
    parts: list[tuple[list[tuple[int, int]], bool]],
    batch_records: int,
) -> None:
    """Several stretches at once too, in any order, that overlap, leave gaps, or were all applied long ago; with kills in between."""
    with tempfile.TemporaryDirectory() as directory:
        house = House(Path(directory), events, batch_records=batch_records, anchor_records=30)
        task = house.open()
        reached = 0
        for stretches, killed in parts:
            batches = [batch for start, n in stretches for batch in task.source.read(0, start, n)]
            reached = max([reached, *(batch.end_offset for batch in batches)])
            task.apply(batches)
            assert task.position == reached
            if killed:
                task.abandon()
                task = house.open()
        task.close()
        assert (house.finish(), outputs(house)) == plain
        house.close()


def test_a_start_sends_what_a_kill_left(tmp_path: Path, events: pd.DataFrame, plain: tuple[object, dict[str, list[list[object]]]]) -> None:
    """Also where no new record comes, and again where the kill came after sending."""
    house = House(tmp_path / "house", events)
    task = house.open()
    with mock.patch.object(task.outbox, "append"):
        house.feed(task, [40])
    task.abandon()
    assert not any(outputs(house).values())
    for _ in range(3):
        house.open().abandon()
        assert outputs(house) == plain[1]
    assert house.logs[REVISITS].end_position(0) == 3 * len(plain[1]["revisits-0"])
    house.close()


def test_two_states_over_the_same_logs_count_once(
    tmp_path: Path, events: pd.DataFrame, plain: tuple[dict[str, str], dict[str, list[list[object]]]]
) -> None:
    """Nothing keeps two machines off the same topics, but both put out the very same records, and readers leave out what repeats."""
    house = House(tmp_path / "house", events)
    one, other = house.open(), house.open(data=tmp_path / "other")  # type: ignore[arg-type]
    for size in (13, 40, 97, 150):
        for task, share in ((one, 1.0), (other, 0.5)):
            task.apply(task.source.read(0, task.position, int(size * share)))
    for task in (one, other):
        house.feed(task)
        assert task.digest() == plain[0]["actions-0"]
        task.close()
    assert house.logs[REVISITS].end_position(0) == 2 * len(plain[1]["revisits-0"])
    assert (house.finish(), outputs(house)) == plain
    house.close()


def test_each_commit_holds_no_more_than_asked(tmp_path: Path, events: pd.DataFrame) -> None:
    house = House(tmp_path / "house", events, batch_records=10)
    task = house.open()
    committed: list[int] = []
    judge = task._judge
    task._judge = lambda batches, decoded: committed.append(sum(b.end_offset - b.first_offset for b in batches)) or judge(batches, decoded)  # type: ignore[method-assign,func-returns-value]
    task.apply(house.logs[ACTIONS].read(0, 149, 1))
    assert sum(committed) == 150
    assert max(committed) <= 2 * 10
    task.close()


def test_a_log_that_skips_records_is_found(tmp_path: Path, events: pd.DataFrame) -> None:
    house = House(tmp_path / "house", events)
    task = house.open()
    batch = house.logs[ACTIONS].read(0, 100, 10)[0]

    class Holey:
        name = "actions"

        def read(self, *_: int) -> list[LogBatch]:
            return []

    task.source = Holey()  # type: ignore[assignment]
    with pytest.raises(CorruptionError, match=r"offsets 0 to 100 can't be read"):
        task.apply([batch])
    task.abandon()


def test_a_position_beyond_the_end_of_the_log_is_refused(tmp_path: Path, events: pd.DataFrame) -> None:
    house = House(tmp_path / "house", events)
    house.finish()
    house.close()
    shutil.rmtree(house.settings.logs)
    shorter = House(tmp_path / "house", events.iloc[:90])
    with pytest.raises(
        CorruptionError, match=r"is at position 150, but log 'actions', partition 0, ends at 90: the log has lost records; restore"
    ):
        shorter.open()
    with pytest.raises(CorruptionError, match=r"log 'revisits', partition 0, ends at 0"):
        shorter.open(REVISITS)
    # Refused, it lets go of the state.
    with pytest.raises(CorruptionError, match="lost records"):
        shorter.open()
    shorter.close()


# A start replays what came after the last anchor ------------------------------------------------------------------------------------------


def killed(tmp_path: Path, records: pd.DataFrame, position: int, anchor_records: int) -> House:
    """A house whose task was killed at a position."""
    house = House(tmp_path / "house", records, anchor_records=anchor_records)
    task = house.open()
    task.apply(house.logs[ACTIONS].read(0, 0, position // 2))
    task.apply(house.logs[ACTIONS].read(0, position // 2, position - position // 2))
    task.abandon()
    return house


STREAM = log(
    save(0), save(1, pin_id=71), seen(10), click(20), click(30, pin_id=71), save(HOUR, user_id=8), click(HOUR + 5, user_id=8), click(DAY)
)


@pytest.mark.parametrize("anchor_records", [1, 3, 4])
def test_a_start_replays_fewer_records_than_the_setting_says(tmp_path: Path, anchor_records: int) -> None:
    house = House(tmp_path / "house", STREAM, anchor_records=anchor_records)
    for position in range(1, len(STREAM) + 1):
        task = house.open()
        task.apply(house.logs[ACTIONS].read(0, task.position, 1))
        assert task.store.meta.position == position
        assert 0 <= position - task.store.meta.anchor < anchor_records
        # Killed: what is left to replay adds up over starts.
        task.abandon()
    house.close()


@pytest.mark.parametrize("anchor_records", [1, 5, 9])
def test_a_start_replays_as_few_records_where_a_message_holds_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anchor_records: int
) -> None:
    """An offset is a message over Kafka: counted by offsets, the working set would be saved once in a thousand times as many records."""
    size, house = 4, House(tmp_path / "house", pd.concat([STREAM] * 5, ignore_index=True), anchor_records=anchor_records)
    topic = OfMessages(house.logs[ACTIONS], size)
    house.logs[ACTIONS] = topic  # type: ignore[assignment]
    again = 0
    judge = Judge.judge

    def counted(self: Judge, batches: list[LogBatch], decoded: Columns | None = None) -> JudgedBatch:
        nonlocal again
        again += sum(batch.records.num_rows for batch in batches)
        return judge(self, batches, decoded)

    monkeypatch.setattr(Judge, "judge", counted)
    for position in range(topic.end_position(0)):
        again = 0
        task = house.open()
        assert again < anchor_records
        task.apply(topic.read(0, position, 1))
        assert task.position == position + 1
        task.abandon()
    assert position > 8
    topic.log.close()
    house.logs.pop(ACTIONS)
    house.close()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda e: e.assign(event_time=e["event_time"] + 1, timestamp=e["timestamp"] + 1), id="another time"),
        pytest.param(lambda e: e.assign(action=e["action"].replace("grid_click", "hide")), id="another action"),
    ],
)
def test_a_log_that_was_altered_since_the_anchor_is_found(tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    house = killed(tmp_path, STREAM, 8, anchor_records=1_000)
    house.close()
    shutil.rmtree(house.settings.logs)
    altered = House(tmp_path / "house", change(STREAM), anchor_records=1_000)
    with pytest.raises(CorruptionError, match="does not lead to the committed state"):
        altered.open()
    altered.close()


def tables_of(house: House) -> TaskStore:
    """The task's store, opened without its task."""
    mark = state_fingerprint(house.settings, house.vocabulary)
    return TaskStore(task_path(house.settings, ACTIONS, 0), ACTIONS, 0, mark, tables.ACTIONS_TABLES)


def test_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    house = killed(tmp_path, STREAM, 8, anchor_records=1)
    for changed in ({"allowed_lateness_ms": 1}, {"dedup_horizon_ms": 1}, {"clock_skew_ms": 1}):
        with pytest.raises(TidemarkError, match="made under other features or settings"):
            house.open(**changed)
    house.open(batch_records=3, anchor_records=5).close()
    house.close()


def test_a_clean_close_leaves_nothing_to_replay(tmp_path: Path) -> None:
    house = House(tmp_path / "house", STREAM)
    house.finish()
    meta = tables_of(house)
    assert (meta.meta.anchor, meta.meta.position, meta.prefixed(b"O")) == (8, 8, [])
    meta.close()
    house.close()


# Digests ----------------------------------------------------------------------------------------------------------------------------------


def test_any_single_change_changes_the_digest(tmp_path: Path) -> None:
    house = House(tmp_path / "house", pd.concat([STREAM, adversarial(3, 150, partitions=1)]).pipe(renumbered))
    task = house.feed(house.open(), [40])
    meta, digests = task.store.meta, {task.digest()}

    def differs() -> None:
        digest = task.digest()
        assert digest not in digests
        digests.add(digest)

    meta.position += 1
    differs()
    meta.position -= 1
    meta.watermark -= 1
    differs()
    meta.watermark += 1
    meta.sequences[REVISITS][0] += 1
    differs()
    meta.sequences[REVISITS][0] -= 1
    meta.counts["accepted"] += 1
    differs()
    meta.counts["accepted"] -= 1
    for name, table in task.store.runs.tables.items():
        rows = np.concatenate(list(task.store.runs.scan(table, meta.manifest[name])))
        at = rows[-1].copy()
        for column in range(table.columns):
            kept = dict(task.store.runs.manifest)
            batch = task.store.batch()
            changed = at.copy()
            if name == "sequences":
                # Above all others, or the fold would drop it.
                changed[1] = 2**60
            changed[column] ^= 1 << 40
            task.store.runs.add(batch, name, changed.reshape(1, -1))
            task.store._db.write(batch)
            differs()
            task.store.runs.manifest = kept | {name: [run for run in task.store.runs.manifest[name] if run in kept[name]]}
    task.digest()
    assert task.digest() in digests
    task.abandon()
    house.close()


def renumbered(events: pd.DataFrame) -> pd.DataFrame:
    return events.assign(offset=range(len(events))).reset_index(drop=True)


def test_the_digest_is_that_of_the_content_and_not_of_the_slices(tmp_path: Path, events: pd.DataFrame) -> None:
    house = House(tmp_path / "house", events)
    house.finish()
    for flow in (ACTIONS, REVISITS):
        task = house.open(flow)
        digest, scan = task.digest(), task.store.runs.scan
        for slice_rows in (1, 20, 1 << 19):
            task.store.runs.scan = lambda table, runs, size=slice_rows, scan=scan: scan(table, runs, size)  # type: ignore[method-assign]
            assert task.digest() == digest
        task.close()
    house.close()


# Expiry -----------------------------------------------------------------------------------------------------------------------------------


def test_what_was_taken_back_after_a_merge_expires_with_its_pin_still_known(tmp_path: Path) -> None:
    """The revisit of pin 70 changes hands, and both its rows expire in another run than its first one."""
    takeover = save(5 * 60_000, timestamp=T + 12 * 60_000)
    other, far = {"user_id": 8, "pin_id": 71}, {"user_id": 9, "pin_id": 77}
    records = [
        *(save(0, surface="related_pins"), save(1, **other), click(10 * 60_000), click(10 * 60_000 + 1, **other), takeover),
        *(save(200 * DAY, **far), *(click(200 * DAY + 1 + i, **far) for i in range(6))),
    ]
    house, plain = House(tmp_path / "house", log(*records)), House(tmp_path / "plain", log(*records))
    assert house.finish([1]) == plain.finish()
    for flow, entities in ((ACTIONS, {7, 8, 9}), (REVISITS, {70, 71, 77})):
        task = house.open(flow)
        rows = np.concatenate(list(task.store.runs.scan(tables.REVISITS, task.store.meta.manifest["revisits"])))
        assert set(rows[:, 0].tolist()) == entities
        assert len(rows) == 8, "one of each that expired"
        task.close()
    house.close()


# The revisits task ------------------------------------------------------------------------------------------------------------------------

Change = tuple[int, int, int, int, int, int, int]  # origin, sequence, pin, user, time, kind, weight


def changes(drawn: list[tuple[int, int, int, int]]) -> dict[int, list[Change]]:
    """Credits by origin; each user lies with one origin."""
    out: dict[int, list[Change]] = {0: [], 1: [], 2: []}
    for origin, pin, time, kind in drawn:
        user = origin * 10 + time % 3
        out[origin].append((origin, len(out[origin]), pin, user, time * DAY, kind, 1))
        if kind == 3:
            out[origin] += [(origin, len(out[origin]) + i, pin, user, time * DAY, k, w) for i, (k, w) in enumerate([(3, -1), (1, 1)])]
    return out


def revisits_log(directory: Path, records: list[Change]) -> LocalLog:
    directory.mkdir(parents=True, exist_ok=True)
    made = LocalLog.open(directory, REVISITS, 1, create=True)
    names = ("origin", "sequence", "pin_id", "user_id", "time", "kind", "weight")
    for start in range(0, len(records), 5):
        part = dict(zip(names, np.array(records[start : start + 5], np.int64).T, strict=True))
        n = len(part["origin"])
        part |= {"generation": np.zeros(n, np.int64), "timestamp": part["time"]}
        arrays = [pa.array(part[f.name]).cast(f.type) for f in REVISIT_SCHEMA]
        made.append([(0, pa.RecordBatch.from_arrays(arrays, schema=REVISIT_SCHEMA))])
    return made


def revisits_state(directory: Path, records: list[Change], sizes: list[int]) -> tuple[str, list[list[int]]]:
    config = Settings(data=directory, partitions=1)
    with revisits_log(config.logs, records) as source:
        task: Task = RevisitsTask(config, 0, config.load_vocabulary(), source)
        while task.position < source.end_position(0):
            task.apply(source.read(0, task.position, sizes[task.position % len(sizes)]))
            if task.position % 3 == 0:
                task.abandon()
                task = RevisitsTask(config, 0, config.load_vocabulary(), source)
        digest = task.digest()
        parts = list(task.store.runs.scan(tables.REVISITS, task.store.meta.manifest["revisits"]))
        before = tables.expiry(config, task.watermark or 0)
        rows = np.concatenate([np.empty((0, 5), np.int64), *parts])
        task.close()
    return digest, rows[(rows[:, 3] // HOUR + 1) * HOUR > before].tolist()


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 250), st.integers(0, 3)), min_size=1, max_size=25),
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_the_order_of_origins_and_repeats_enter_no_state(drawn: list[tuple[int, int, int, int]], sizes: list[int], seed: int) -> None:
    of, random = changes(drawn), Random(seed)
    one_by_one = [record for origin in of for record in of[origin]]
    left, mixed = {origin: list(records) for origin, records in of.items() if records}, list[Change]()
    while left:
        origin = random.choice(sorted(left))
        mixed.append(left[origin].pop(0))
        if random.random() < 0.2:
            left[origin] = of[origin][random.randint(0, mixed[-1][1]) :]
        if not left[origin]:
            del left[origin]
    with tempfile.TemporaryDirectory() as directory:
        want = revisits_state(Path(directory) / "a", one_by_one, [1 << 20])
        assert revisits_state(Path(directory) / "b", mixed, sizes) == want


def test_a_missing_record_of_an_origin_is_found(tmp_path: Path) -> None:
    records = changes([(0, 1, 1, 0), (0, 1, 2, 0), (0, 1, 3, 0)])[0]
    with pytest.raises(CorruptionError, match=r"log 'revisits', partition 0: record 1 of origin 0 is missing"):
        revisits_state(tmp_path, [records[0], records[2]], [10])


def test_reading_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    with revisits_log(tmp_path, changes([(0, 1, 1, 0)])[0]) as source, pytest.raises(LogError, match="lies outside"):
        source.read(0, 5, 1)


def test_driving_leaves_no_lock(tmp_path: Path, events: pd.DataFrame) -> None:
    """The driver of the differential tests kills by letting go: the next one can open at once."""
    config = Settings(data=tmp_path / "data", partitions=1)
    rng = np.random.default_rng(0)
    driving.write(config, events, rng)
    assert driving.apply(config, rng, kill_share=0.9, most=20) == driving.apply(config, rng)
