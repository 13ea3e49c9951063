"""What the flows made of a simulated stream over Kafka, beside what a clean run over the embedded log makes of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows import deadletters
from flows.export import ENTITIES, export_features, export_labels
from flows.open_log import open_log
from flows.outputs import ACTIONS, REVISITS
from flows.reading import FeatureReader
from flows.settings import Settings
from flows.status_command import digest_of
from tests.processes import Simulated, settings_of

Made = tuple[dict[str, pa.Table], dict[str, int], list[str], dict[str, int], int]
"""Exports without their metadata, which hold positions, the log's own; counts; digests of revisits; dead letters by reason; lag."""


def made(settings: Settings, scratch: Path) -> Made:
    """Everything that a data directory says and that doesn't depend on its log's offsets."""
    scratch.mkdir()
    with FeatureReader(settings) as reader:
        as_of = reader.default_as_of() or 0
        for entity in ENTITIES:
            export_features(reader, entity, as_of, scratch / entity)
        export_labels(reader, as_of, scratch / "labels")
        counts, positions = reader.counts(), reader.positions()
    lag = 0
    for flow in (ACTIONS, REVISITS):
        with open_log(settings, flow, read_only=True) as log:
            lag += sum(log.end_positions()) - sum(positions[flow])
    tables = {path.name: pq.read_table(path).replace_schema_metadata(None) for path in sorted(scratch.iterdir())}
    digests = [digest_of(settings, REVISITS, p) for p in range(settings.partitions)]
    return tables, counts, digests, deadletters.counts(settings), lag


@cache
def _wanted(run: Path, scratch: Path) -> Made:
    return made(settings_of(run), scratch)


def assert_as_embedded(settings: Settings, simulated: Simulated, scratch: Path) -> None:
    """Whatever happened on the way: all of the stream is applied, and to the byte as over the embedded log."""
    got, want = made(settings, scratch), _wanted(simulated.run, simulated.directory / "as-embedded")
    assert got[1:] == want[1:]
    assert [name for name in want[0] if not got[0][name].equals(want[0][name])] == []
