"""Tidemark's side of a training set: `get_historical_features` over a filled log, which runs the kernels up to each row's moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import _stream
from benchmarks._measure import Clock
from feature_repo.offline_store import HistoricalJob
from feature_repo.reading import open_store
from flows.settings import Settings


class Contestant:
    """See the module."""

    def __init__(self, settings: Settings, scratch: Path) -> None:
        self._scratch = scratch
        self._store = open_store(settings)
        self.events = 0
        # On a stream of its own: what numba loads is loaded.
        warm = open_store(_stream.make(scratch / "warm", 2_000, 100, seed=1))
        frame = pd.DataFrame({"user_id": [1], "event_timestamp": [pd.Timestamp("2030-01-01", tz="UTC")]})
        wanted = ["user_action_sequence:sequence_pin_id", "user_revisit_counters:revisits_click_all_7d_count"]
        warm.get_historical_features(frame, wanted).to_arrow()

    def run(self, entities: str, features: list[str], out: str, to_file: bool = False) -> dict[str, Any]:
        """Features for an entity frame in a Parquet file: as a table, which Feast's users get, or straight to a file, a stretch at a time."""
        if to_file:
            clock = Clock()
            job = self._store.get_historical_features(pq.read_table(entities), features)
            assert isinstance(job, HistoricalJob)
            self.events = job.to_parquet(out)
            return clock.read()
        frame = pd.read_parquet(entities)
        clock = Clock()
        table: pa.Table = self._store.get_historical_features(frame, features).to_arrow()
        spent = clock.read()
        self.events = table.num_rows
        pq.write_table(table, out)
        return spent
