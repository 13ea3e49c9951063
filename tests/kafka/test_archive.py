"""The archive of a real topic: what retention takes is read from there, and a range that neither has is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from flows.archive.archive import Archive
from flows.archive.joined import JoinedLog
from flows.errors import RetentionError
from flows.events import RAW_SCHEMA
from flows.log import LedgerEntry, LogBatch
from flows.log_kafka import KafkaLog
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.reading import FeatureReader
from flows.settings import Settings
from tests.archive.making import rows
from tests.kafka.conftest import options
from tests.kafka.outcome import assert_as_embedded
from tests.processes import Simulated, refused, tidemark

pytestmark = pytest.mark.kafka


def take(settings: Settings, positions: dict[int, int]) -> None:
    """What retention does."""
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    gone = [TopicPartition(f"{settings.kafka_prefix}{ACTIONS}", p, at) for p, at in positions.items()]
    for future in admin.delete_records(gone).values():
        future.result(30)


def everything(log: KafkaLog | JoinedLog, partition: int, at: int, most: int) -> list[LogBatch]:
    out: list[LogBatch] = []
    while batches := log.read(partition, at, most):
        assert batches[0].first_offset == at
        at = batches[-1].end_offset
        out += batches
    assert at == log.end_position(partition)
    return out


def test_of_several_segments_each_record_is_compared_once(on_kafka: Settings, simulated: Simulated) -> None:
    """A transaction leaves holes in offsets, so a read of as many records as a segment has offsets would reach into the next."""
    command = {"data": on_kafka.data, **options(on_kafka)}
    for file in simulated.files[:3]:
        tidemark("ingest", file, **command)
        tidemark("archive", "run", **command)
    told = tidemark("archive", "verify", "--log", ACTIONS, "--compare", "--json", **command).json()
    assert told["problems"] == []
    assert told["segments"] > on_kafka.partitions
    assert told["compared"] == told["records"] > 0


def test_holes_nulls_and_messages_of_many_records_come_back_as_they_were(on_kafka: Settings) -> None:
    with KafkaLog.open(on_kafka, ACTIONS) as log:
        raw = [
            pa.record_batch([pa.array([b"{}", None, b"", b"\xff"], pa.binary()), pa.array(range(1, 5), pa.int64())], schema=RAW_SCHEMA)
        ] * 2
        numbers = pa.record_batch({"n": pa.array(range(20_000)), "timestamp": pa.array(range(20_000))})
        for k in range(3):
            # Each commit takes an offset.
            log.append([(0, raw[0]), (0, numbers), (0, raw[1])], ledger=LedgerEntry("file", k + 1, previous=k))
        whole = {p: everything(log, p, 0, 1_000) for p in (0, 1)}
    tidemark("archive", "run", "--log", ACTIONS, data=on_kafka.data, **options(on_kafka))
    told = tidemark("archive", "verify", "--compare", "--json", data=on_kafka.data, **options(on_kafka)).json()
    assert (told["problems"], told["records"], told["compared"]) == ([], 60_024, 60_024)
    with open_log(on_kafka, ACTIONS) as log:
        assert isinstance(log, JoinedLog)
        end = log.end_position(0)
        starts = np.concatenate([b.offsets_of_records() for b in whole[0]])
        take(on_kafka, {0: int(starts[30_000])})
        for most in (1, 3, 10_000):
            got = everything(log, 0, 0, most)
            if most > 1:
                assert rows(got) == rows(whole[0])
            else:
                assert sum(b.records.num_rows for b in got) == 60_024
        assert log.read(0, end, 10) == []
        assert log.read(1, 0, 10) == []
        assert log.start_positions() == [0] * on_kafka.partitions
    # All of it gone, and more written: where the one ends the other begins.
    take(on_kafka, {0: end})
    with open_log(on_kafka, ACTIONS) as log:
        log.append([(0, raw[0])])
        assert rows(everything(log, 0, 0, 10_000)) == [*rows(whole[0]), *((end + o, s, v) for o, s, v in rows(whole[0][:1])[:4])]


def test_what_nobody_archived_in_time_is_missing_and_named(on_kafka: Settings) -> None:
    def append(count: int) -> None:
        with KafkaLog.open(on_kafka, ACTIONS) as log:
            log.append(
                [
                    (
                        0,
                        pa.record_batch(
                            [pa.array([b"x"] * count, pa.binary()), pa.array(range(1, count + 1), pa.int64())], schema=RAW_SCHEMA
                        ),
                    )
                ]
            )

    settings = options(on_kafka)
    append(10)
    tidemark("archive", "run", "--log", ACTIONS, data=on_kafka.data, **settings)
    append(10)
    take(on_kafka, {0: 15})
    with open_log(on_kafka, ACTIONS) as log:
        assert log.read(0, 0, 100)[-1].end_offset == 10
        with pytest.raises(RetentionError, match=r"partition 0: offsets 10 to 14 are missing: the log begins at 15"):
            log.read(0, 10, 100)
    assert "offsets 10 to 14 are missing" in refused("run", data=on_kafka.data, **settings)
    assert "offsets 10 to 14 are lost" in refused("archive", "run", data=on_kafka.data, **settings)
    told = tidemark("archive", "status", "--log", ACTIONS, "--json", data=on_kafka.data, **settings).json()["partitions"][0]
    assert (told["start"], told["end"], told["missing"], told["lag"], told["live_start"]) == (0, 10, [[10, 15]], 5, 15)
    tidemark("archive", "run", "--leave-gap", data=on_kafka.data, **settings)
    told = tidemark("archive", "status", "--log", ACTIONS, "--json", data=on_kafka.data, **settings).json()["partitions"][0]
    assert (told["start"], told["end"], told["missing"], told["lag"]) == (0, 20, [[10, 15]], 0)
    [problem] = tidemark("archive", "verify", "--json", data=on_kafka.data, code=1, **settings).json()["problems"]
    assert "partition 0: offsets 10 to 14 are missing" in problem
    assert Archive(on_kafka.archives, ACTIONS, on_kafka.partitions).covered(0) == [(0, 10), (15, 20)]


def test_what_is_gone_is_told_again_by_every_run_and_changes_no_state(on_kafka: Settings, simulated: Simulated, tmp_path: Path) -> None:
    settings = options(on_kafka)
    for path in simulated.files[:2]:
        tidemark("ingest", path, data=on_kafka.data, **settings)
    tidemark("run", data=on_kafka.data, **settings)
    with KafkaLog.open(on_kafka, ACTIONS, read_only=True) as log:
        reached = log.end_positions()
    for path in simulated.files[2:]:
        tidemark("ingest", path, data=on_kafka.data, **settings)
    with KafkaLog.open(on_kafka, ACTIONS, read_only=True) as log:
        ends = log.end_positions()
    before = reached[0] + 5
    assert before < ends[0]
    take(on_kafka, {0: before})
    for workers in (1, 2, 1):
        line = refused("run", "--workers", workers, data=on_kafka.data, **settings)
        assert (
            f"begins at offset {before}: what lies between {reached[0]} and there is gone by its retention; read it from the archive"
            in line
        )
        with FeatureReader(on_kafka) as reader:
            assert reader.positions()[ACTIONS][0] == reached[0]


def test_flows_over_a_topic_that_has_lost_its_beginning_are_those_of_the_whole(
    on_kafka: Settings, simulated: Simulated, tmp_path: Path
) -> None:
    settings = options(on_kafka)
    for path in simulated.files[:3]:
        tidemark("ingest", path, data=on_kafka.data, **settings)
    tidemark("archive", "run", data=on_kafka.data, **settings)
    for path in simulated.files[3:]:
        tidemark("ingest", path, data=on_kafka.data, **settings)
    # Of some partitions a part, of one all that is archived.
    ends = [Archive(on_kafka.archives, ACTIONS, on_kafka.partitions).end(p) for p in range(on_kafka.partitions)]
    take(on_kafka, {p: end if p == 0 else end // 2 for p, end in enumerate(ends)})
    done = tidemark("run", "--workers", 2, data=on_kafka.data, **settings)
    assert f"{simulated.records:,} events" in done.out
    assert_as_embedded(on_kafka, simulated, tmp_path / "got")
