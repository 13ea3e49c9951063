"""Feast's own offline stores at a training set: joins counter rows that lie in a Parquet file to an entity frame, as of each row's moment.

Runs in an environment of Feast's own (`python -m benchmarks.features --install`), with nothing of Tidemark; what it measures goes to a file. Called
with one JSON object: store (dask or duckdb), facts, entities, features, types, limit_gb, out, told.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Array, FeastType, Int64


def main(task: dict[str, Any]) -> None:
    """One read, and what it took of this process."""
    most = task["limit_gb"] << 30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with tempfile.TemporaryDirectory() as directory:
        config = RepoConfig(
            project="tidemark",
            provider="local",
            registry=str(Path(directory) / "registry.db"),
            offline_store={"type": task["store"]},
            online_store={"type": "sqlite", "path": str(Path(directory) / "online.db")},
            entity_key_serialization_version=3,
        )
        store = FeatureStore(config=config)
        user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
        types: dict[str, FeastType] = {"int64": Int64, "list": Array(Int64)}
        view = FeatureView(
            name="facts",
            entities=[user],
            schema=[Field(name="user_id", dtype=Int64), *(Field(name=name, dtype=types[task["types"]]) for name in task["features"])],
            source=FileSource(path=task["facts"], timestamp_field="event_timestamp"),
            ttl=timedelta(0),
        )
        store.apply([user, view])
        entities = pd.read_parquet(task["entities"])
        wall, cpu = time.perf_counter(), time.process_time()
        table = store.get_historical_features(entities, [f"facts:{name}" for name in task["features"]]).to_arrow()
        told = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu, "rows": table.num_rows}
        pq.write_table(table, task["out"])
    lines = Path("/proc/self/status").read_text().splitlines()
    told["peak_rss_mb"] = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    Path(task["told"]).write_text(json.dumps(told))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
