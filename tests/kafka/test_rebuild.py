"""A bad span is taken out over a real broker, where several records may share an offset and offsets have holes, as over the embedded log."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.outputs import ACTIONS, REVISITS
from flows.settings import Settings
from flows.status_command import digest_of
from tests.kafka.conftest import options
from tests.kafka.outcome import made
from tests.processes import Simulated, settings_of, tidemark
from tests.replay.test_rebuild_command import EXCLUDE, SMALL, poison_of

pytestmark = pytest.mark.kafka


def test_a_bad_span_is_taken_out(on_kafka: Settings, simulated: Simulated, tmp_path: Path) -> None:
    settings = {**options(on_kafka), **SMALL}
    files = [file for file in simulated.files if file.suffix == ".parquet"]
    pq.write_table(poison_of(pq.read_table(files[2]), 1, 200), tmp_path / "poison.parquet")
    for more in (files[:2], [tmp_path / "poison.parquet"], files[2:]):
        tidemark("ingest", *more, data=on_kafka.data, **settings)
        tidemark("run", data=on_kafka.data, **settings)
        if more is files[:2]:
            tidemark("replay", "checkpoint", data=on_kafka.data, **settings)
    tidemark("ingest", *files, data=tmp_path / "clean", **SMALL)
    tidemark("run", data=tmp_path / "clean", **SMALL)
    told = tidemark(*EXCLUDE, "--yes", "--json", data=on_kafka.data, **settings).json()
    assert told["switched"]
    # Some are bad, by their arrival.
    assert 190 < sum(part["excluded"] for part in told["plan"]["parts"]) <= 200
    tidemark("run", data=on_kafka.data, **settings)
    got, want = made(on_kafka, tmp_path / "got")[0], made(settings_of(tmp_path / "clean"), tmp_path / "want")[0]
    assert [name for name in want if not got[name].equals(want[name])] == []

    def digests() -> dict[str, str]:
        return {f"{flow}/0": digest_of(on_kafka, flow, 0) for flow in (ACTIONS, REVISITS)}

    before = digests()
    tidemark("replay", "restore", "--all", data=on_kafka.data, **settings)
    assert digests() == before
