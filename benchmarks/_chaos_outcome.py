"""All that a data directory says, whichever log it lies on, and how that differs from what another says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.export import ENTITIES, export_features, export_labels
from flows.open_log import open_log
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS, take_next
from flows.reading import FeatureReader
from flows.settings import DAY_MS, Settings
from flows.status_command import digest_of

_MOST = 1_000_000


@dataclass(frozen=True)
class Said:
    """What must not depend on a history.

    Attributes
    ----------
    digests : dict of str to str
        Of every task.
    exports : dict of str to Table
        Every entity's features and the labels, at the newest event and some days before it.
    outputs : dict of str to Counter
        REVISITS, LATE and DEADLETTERS as a reader takes them, each record once; its place in the log left out.
    counts : dict of str to int
    records : int
        In ACTIONS.
    lag : int
    """

    digests: dict[str, str]
    exports: dict[str, pa.Table]
    outputs: dict[str, Counter[tuple[Any, ...]]]
    counts: dict[str, int]
    records: int
    lag: int

    def without_offsets(self) -> Said:
        """What must be the same where the same events lie at other offsets."""
        return replace(
            self,
            digests={name: digest for name, digest in self.digests.items() if name.startswith(REVISITS)},
            exports={name: table.replace_schema_metadata(None) for name, table in self.exports.items()},
            outputs={REVISITS: self.outputs[REVISITS]},
        )


def say(settings: Settings, scratch: Path, days: Sequence[int] = (0, 5)) -> Said:
    """Gather it; nothing may be running. Exports are as of the newest event, and of so many days before it."""
    scratch.mkdir(parents=True, exist_ok=True)
    exports: dict[str, pa.Table] = {}
    with FeatureReader(settings) as reader:
        newest = reader.default_as_of() or 0
        for as_of in (newest - before * DAY_MS for before in days):
            for name in (*ENTITIES, "labels"):
                out = scratch / f"{name}-{newest - as_of}.parquet"
                if name == "labels":
                    export_labels(reader, as_of, out)
                else:
                    export_features(reader, name, as_of, out)
                exports[out.stem] = pq.read_table(out)
        counts, positions = reader.counts(), reader.positions()
    lag = 0
    for flow in (ACTIONS, REVISITS):
        with open_log(settings, flow, create=True) as log:
            lag += sum(log.end_positions()) - sum(positions[flow])
    return Said(
        {f"{flow}-{p}": digest_of(settings, flow, p) for flow in (ACTIONS, REVISITS) for p in range(settings.partitions)},
        exports,
        {name: _records(settings, name) for name in (REVISITS, LATE, DEADLETTERS)},
        counts,
        _held(settings),
        lag,
    )


def _records(settings: Settings, name: str) -> Counter[tuple[Any, ...]]:
    """Each record that counts, as (partition, columns)."""
    out: Counter[tuple[Any, ...]] = Counter()
    with open_log(settings, name, create=True) as log:
        for partition in range(log.partitions):
            applied: dict[int, int] = {}
            for batch in _read(log, partition):
                rows = take_next(batch.records, applied, f"{name}, partition {partition}").to_pylist()
                out.update((partition, *row.values()) for row in rows)
    return out


def _held(settings: Settings) -> int:
    with open_log(settings, ACTIONS) as log:
        return sum(batch.records.num_rows for partition in range(log.partitions) for batch in _read(log, partition))


def _read(log: Any, partition: int) -> Any:
    at, end = 0, log.end_position(partition)
    while at < end:
        batches = log.read(partition, at, _MOST)
        if not batches:
            break
        yield from batches
        at = batches[-1].end_offset


@dataclass(frozen=True)
class Compared:
    """How one differs from another.

    Attributes
    ----------
    differences : list of str
    lost, doubled : int
        Records of ACTIONS, REVISITS, LATE and DEADLETTERS that are missing, or there once too often.
    values : int
        How many values were compared.
    """

    differences: list[str]
    lost: int
    doubled: int
    values: int


def compare(got: Said, clean: Said, ingested: int) -> Compared:
    """Compare what a disturbed history says with what a clean one does.

    Parameters
    ----------
    ingested : int
        How many records were given to ACTIONS.
    """
    differences, lost, doubled, values = [], 0, 0, 0

    def unequal(what: str, had: object, wanted: object) -> None:
        differences.append(f"{what}: {had}, in the clean run {wanted}")

    if got.lag:
        unequal("records that are not applied", got.lag, 0)
    for name in sorted(got.digests.keys() & clean.digests.keys()):
        values += 1
        if got.digests[name] != clean.digests[name]:
            unequal(f"digest of {name}", got.digests[name], clean.digests[name])
    for name in sorted(clean.counts.keys() | got.counts.keys()):
        values += 1
        if got.counts.get(name, 0) != clean.counts.get(name, 0):
            unequal(f"count of {name}", got.counts.get(name, 0), clean.counts.get(name, 0))
    for name, table in clean.exports.items():
        values += table.num_rows * table.num_columns
        if not got.exports[name].equals(table, check_metadata=True):
            columns = [c for c in table.column_names if not got.exports[name].column(c).equals(table.column(c))] or ["metadata"]
            unequal(f"export {name}", f"{got.exports[name].num_rows} rows", f"{table.num_rows} rows, different in {', '.join(columns[:5])}")
    for name, records in clean.outputs.items():
        values += records.total()
        missing, extra = records - got.outputs[name], got.outputs[name] - records
        lost, doubled = lost + missing.total(), doubled + extra.total()
        if missing or extra:
            unequal(f"records of {name}", f"{missing.total()} missing, {extra.total()} more", records.total())
            differences += [f"{name}: missing {row}" for row in list(missing)[:2]] + [f"{name}: more {row}" for row in list(extra)[:2]]
    handled = sum(n for name, n in got.counts.items() if name in ("accepted", "duplicate") or name.startswith("deadletter."))
    for what, had, wanted in (("records in ACTIONS", got.records, ingested), ("accepted, duplicate or dead", handled, got.records)):
        lost, doubled = lost + max(0, wanted - had), doubled + max(0, had - wanted)
        if had != wanted:
            differences.append(f"{what}: {had}, should be {wanted}")
    return Compared(differences, lost, doubled, values)
