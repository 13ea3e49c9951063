"""Has all loops compiled before the workers of pytest-xdist begin: on a clean checkout each of them would do so for itself, at once."""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from flows.compile_cache import CACHE
from flows.kernels import what_if, what_if_sequences
from online_model.table import EmbeddingTable, TableConfig
from tests.processes import simulate, tidemark


def explain_nothing() -> None:
    """What explains skew takes longest of all to compile."""
    none = np.empty(0, np.int64)
    bounds, cuts, shifts = none.reshape(0, 2), none.reshape(0, 1), none.reshape(0, 2)
    hits = np.empty((0, what_if.FIRST_SHIFT + what_if_sequences.MORE), np.bool_)
    what_if.explain(none.reshape(0, 8), bounds, cuts, none, none.reshape(0, 25), shifts, 0, False, hits)
    what_if.agrees(none.reshape(0, 8), bounds, cuts, none, none.reshape(0, 25), 0, False, hits[:, 0].copy())
    offsets = np.zeros(1, np.int64)
    what_if_sequences.explain_sequences(none.reshape(0, 12), bounds, cuts, none, none.reshape(0, 5), offsets, shifts, 100, hits)


def learn_nothing() -> None:
    """The embedding table's."""
    table = EmbeddingTable(TableConfig(2))
    for _ in range(2):
        rows = table.admit(np.arange(1_100), np.zeros(1_100, np.int64))
    table.apply(rows, np.zeros((1_100, 2), np.float32), 1, learn_default=True)
    table.gather(rows)
    table.put(np.arange(2_000, 2_002), np.zeros((2, 2), np.float32))
    table.expire(1)
    EmbeddingTable.from_state(table.config, table.state())


def run_a_little() -> None:
    """What flows, reads and examples need."""
    with tempfile.TemporaryDirectory() as directory:
        made = simulate(Path(directory), events=500)
        tidemark("backfill", "--kinds", "all", "--out", Path(directory) / "examples", data=made.ingested)


if __name__ == "__main__":
    done = CACHE / "compiled-before-tests"
    if not done.exists():
        # What depends on none of the others, side by side.
        with ProcessPoolExecutor(3) as pool:
            for one in [pool.submit(work) for work in (run_a_little, explain_nothing, learn_nothing)]:
                one.result()
        done.touch()
