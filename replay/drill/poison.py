"""A producer that writes what is wrong: nothing that is stored is damaged, what was sent is. A rebuild without it is all that helps."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.events import EVENT_SCHEMA
from flows.export import ENTITIES, export_features, export_labels
from flows.log import LocalLog, read_before
from flows.outputs import ACTIONS
from flows.reading import FeatureReader
from flows.settings import Settings
from replay.drill.operator import DrillError, Type, must
from replay.drill.site import Site

PRODUCER = "v13"
FILTER = f"producer == '{PRODUCER}'"
_READ_RECORDS = 65_536
_SHARE = 0.05
_WRONG = (("save", "related_pins"), ("save", "homefeed"), ("impression", "own_profile"), ("grid_click", "own_profile"))


def poisoned(sound: Site, site: Site, rng: Random, tidemark: Type) -> str:
    """A producer 'v13' sends wrong events among the right ones: saves and revisits that never were.

    Parameters
    ----------
    sound : Site
        Whose ACTIONS log holds the right ones.
    site : Site
        A directory that isn't there yet; made of both, with a checkpoint before the first wrong one.
    """
    numbers = np.random.default_rng(rng.randrange(2**32))
    sent = 0
    with LocalLog.open(sound.settings.logs, ACTIONS, read_only=True) as right:
        ends = right.end_positions()
        middles = [end // 2 for end in ends]
        with LocalLog.open(site.settings.logs, ACTIONS, right.partitions, create=True) as log:
            for partition, middle in enumerate(middles):
                _append(right, log, partition, 0, middle)
        must(tidemark(site.settings, "run", "--json"), "tidemark run")
        must(tidemark(site.settings, "replay", "checkpoint", "--json"), "tidemark replay checkpoint")
        with LocalLog.open(site.settings.logs, ACTIONS) as log:
            for partition, (middle, end) in enumerate(zip(middles, ends, strict=True)):
                wrong = _wrong(right, partition, middle, numbers)
                log.append([(partition, wrong)])
                sent += wrong.num_rows
                _append(right, log, partition, middle, end)
    must(tidemark(site.settings, "run", "--json"), "tidemark run")
    if not sent:
        raise DrillError("no event of the log could be made wrong: too few events for this drill")
    return f"{sent:,} wrong events of producer {PRODUCER} among {sum(ends):,} right ones"


def exports(settings: Settings, as_of: int, scratch: Path) -> dict[str, pa.Table]:
    """What is exported at a time, by entity; without pins that say nothing: one whose revisits were all taken back stays known."""
    scratch.mkdir(parents=True, exist_ok=True)
    found: dict[str, pa.Table] = {}
    with FeatureReader(settings) as reader:
        for entity in ENTITIES:
            export_features(reader, entity, as_of, scratch / entity)
            found[entity] = pq.read_table(scratch / entity).replace_schema_metadata(None)
        export_labels(reader, as_of, scratch / "labels")
        found["labels"] = pq.read_table(scratch / "labels").replace_schema_metadata(None)
    says = np.zeros(found["pin"].num_rows, bool)
    for name in found["pin"].schema.names[1:]:
        says |= found["pin"].column(name).to_numpy() != 0
    found["pin"] = found["pin"].filter(pa.array(says))
    return found


def newest(settings: Settings) -> int:
    """The time as of which features are read by default."""
    with FeatureReader(settings) as reader:
        return reader.default_as_of() or 0


def _append(source: LocalLog, log: LocalLog, partition: int, start: int, end: int) -> None:
    while start < end:
        batches = read_before(source, end, partition, start, _READ_RECORDS)
        log.append([(partition, batch.records) for batch in batches])
        start = batches[-1].end_offset


def _wrong(right: LocalLog, partition: int, middle: int, numbers: np.random.Generator) -> pa.RecordBatch:
    """Events of the users and at the times of right ones just before the middle, on each other's pins, with IDs of their own."""
    start = max(0, middle - _READ_RECORDS)
    typed = [
        batch.records for batch in read_before(right, middle, partition, start, _READ_RECORDS) if batch.records.schema.equals(EVENT_SCHEMA)
    ]
    table = pa.Table.from_batches(typed, EVENT_SCHEMA).combine_chunks()
    n = table.num_rows
    # The newest, or they would be too late to count.
    of = np.sort(n - 1 - numbers.integers(0, max(1, n // 4), max(1, round(_SHARE * n)))) if n else np.zeros(0, np.int64)
    taken = table.take(pa.array(of))
    kinds = [_WRONG[i] for i in numbers.integers(0, len(_WRONG), len(of))]
    pins = numbers.permutation(taken.column("pin_id").to_numpy())
    changed = {
        "event_id": pa.array((1 << 60) + numbers.permutation(len(of)), pa.int64()),
        "pin_id": pa.array(pins, pa.int64()),
        "action": pa.array([action for action, _ in kinds], pa.string()),
        "surface": pa.array([surface for _, surface in kinds], pa.string()),
        "producer": pa.array([PRODUCER] * len(of), pa.string()),
    }
    columns = [changed.get(field.name, pc.cast(taken.column(field.name), field.type).combine_chunks()) for field in EVENT_SCHEMA]
    return pa.RecordBatch.from_arrays(
        [
            (column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column).cast(field.type)
            for column, field in zip(columns, EVENT_SCHEMA, strict=True)
        ],
        schema=EVENT_SCHEMA,
    )
