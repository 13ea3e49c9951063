"""The embedding table against torch's own sparse embeddings: vectors of a batch of IDs, and their update.

`python -m benchmarks.table [--json] [--quick] [--ids N] [--batches B] [--repeats R] [--seed S]`. Tidemark's turn is what the learner does: IDs are
looked up and counted, their vectors copied out, and moved by row-wise Adagrad, duplicates summed. torch is given each ID's place beforehand, and runs
`EmbeddingBag(sparse=True)` forward, backward and a step of SparseAdam or Adagrad. IDs are drawn by Zipf's law with exponent 1; both use one thread,
and take turns batch by batch. The table is held against the oracle, and torch against arithmetic, before anything is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console

from benchmarks import _command, _measure
from benchmarks._measure import CheckFailedError
from benchmarks._table_torch import TorchTable
from online_model.table import EmbeddingTable, Spill, TableConfig
from tests.oracles.embedding_table import NaiveTable

DIMENSIONS = (32, 64)
SIZES = (4_096, 65_536)
OPTIMISERS = ("sparse_adam", "adagrad")
WANTED = 1.5
_RATE = 0.05
NOTE = (
    "milliseconds for a batch, median over all repeats; a ratio is torch's time over Tidemark's in the same repeat; "
    "`cpu` is processor time, which other work on the machine does not lengthen"
)


@dataclass
class Batches:
    """IDs that come again and again, and gradients for them."""

    ids: np.ndarray
    seed: int
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def draw(self, size: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
        """Places of IDs by Zipf's law with exponent 1 (the logarithm of a rank is uniform), and gradients: int64[size], f32[size, dimension]."""
        ranks = np.exp(self.rng.random(size) * np.log(len(self.ids))).astype(np.int64) - 1
        return ranks, self.rng.normal(size=(size, dimension)).astype(np.float32)


def made_ids(n: int, seed: int) -> np.ndarray:
    """Distinct IDs anywhere in int64, in the order of how often they come."""
    drawn = np.unique(np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, 2 * n))
    return np.random.default_rng(seed + 1).permutation(drawn)[:n]


def check_against_oracle(seed: int, spill: Spill) -> int:
    """The table, in memory and spilled, against the naive dict; torch's steps against arithmetic. Returns how many values were compared.

    Raises
    ------
    CheckFailedError
        They differ.
    """
    n, dimension, size = 400, 16, 500
    batches = Batches(made_ids(n, seed), seed)
    config = TableConfig(dimension, admit_after=2, candidates=200)
    naive = NaiveTable(dimension, 2, 200, config.initial_accumulator, config.epsilon, np.zeros(dimension))
    tables = [EmbeddingTable(config), EmbeddingTable(config, spill=spill)]
    torches = {name: TorchTable(n, dimension, name, _RATE) for name in OPTIMISERS}
    adagrad, sums = np.zeros((n, dimension)), np.zeros((n, dimension))
    for moment in range(12):
        places, gradients = batches.draw(size, dimension)
        ids = batches.ids[places]
        has = [naive.see(int(identity), moment) for identity in ids]
        naive.apply([int(identity) if row else None for identity, row in zip(ids, has, strict=True)], gradients, _RATE)
        for table in tables:
            rows = table.admit(ids, np.full(size, moment))
            if (rows > 0).tolist() != has:
                raise CheckFailedError(f"batch {moment}: the table and the oracle have admitted other IDs")
            table.apply(rows, gradients, _RATE)
        step = np.zeros((n, dimension))
        np.add.at(step, places, gradients.astype(np.float64))
        sums += step**2
        adagrad -= np.where(step != 0, _RATE * step / (np.sqrt(sums) + 1e-10), 0)
        for name, other in torches.items():
            before = other.vectors()[places].copy()
            out = other.step(torch.from_numpy(places), torch.arange(size), torch.from_numpy(gradients))
            if not np.array_equal(out.numpy(), before):
                raise CheckFailedError(f"batch {moment}: torch with {name} gives other vectors than it holds")
    want = np.array([naive.vector(int(identity)) for identity in batches.ids])
    for table in tables:
        if not np.allclose(table.gather(table.rows_of(batches.ids)), want, rtol=1e-4, atol=1e-5):
            raise CheckFailedError("the vectors of the table are not those of the oracle")
    if tables[0].digest() != tables[1].digest():
        raise CheckFailedError("a table that spills is not the one in memory")
    if not np.allclose(torches["adagrad"].vectors(), adagrad, rtol=1e-3, atol=1e-4):
        raise CheckFailedError("torch's Adagrad is not the one that is meant")
    tables[1].close()
    return 2 * want.size + adagrad.size


class Turn:
    """Times of one contestant, a repeat at a time."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self._repeat: list[tuple[float, float]] = []

    def time(self, work: Callable[[], Any]) -> Any:
        """Do it, and remember how long that took."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self._repeat.append((time.perf_counter() - wall, time.process_time() - cpu))
        return result

    def end_repeat(self, counts: bool) -> None:
        """A repeat's figure is its median batch, ms; one that doesn't count is forgotten."""
        wall, cpu = np.median(self._repeat, axis=0) * 1e3
        if counts:
            self.wall.append(float(wall))
            self.cpu.append(float(cpu))
        self._repeat = []


def measure_case(ids: np.ndarray, dimension: int, size: int, batches: int, repeats: int, seed: int, spill: Spill) -> dict[str, Any]:
    """One dimension and size of batch: figures of all contestants, which take turns."""
    tables = {"tidemark": EmbeddingTable(TableConfig(dimension, admit_after=1))}
    tables["tidemark_spilled"] = EmbeddingTable(TableConfig(dimension, admit_after=1), spill=spill)
    for table in tables.values():
        for part in np.array_split(ids, max(1, len(ids) // 100_000)):
            table.admit(part, np.zeros(len(part), np.int64))
    torches = {name: TorchTable(len(ids), dimension, name, _RATE) for name in OPTIMISERS}
    pieces = {(name, piece): Turn() for name in tables for piece in ("look_up_and_count", "gather", "apply")}
    turns = {name: Turn() for name in (*tables, *torches)}
    times, offsets, source = np.ones(size, np.int64), torch.arange(size), Batches(ids, seed)

    def ours(name: str, seen: np.ndarray, gradients: np.ndarray) -> np.ndarray:
        table = tables[name]
        rows = pieces[name, "look_up_and_count"].time(lambda: table.admit(seen, times))
        vectors: np.ndarray = pieces[name, "gather"].time(lambda: table.gather(rows))
        pieces[name, "apply"].time(lambda: table.apply(rows, gradients, _RATE))
        return vectors

    def each(turn: int) -> Iterator[str]:
        names = list(turns)
        return iter(names[turn % len(names) :] + names[: turn % len(names)])

    for repeat in range(repeats + 1):
        for number in range(batches):
            places, gradients = source.draw(size, dimension)
            seen, given, theirs = ids[places], torch.from_numpy(places), torch.from_numpy(gradients)
            vectors = {}
            for name in each(number):
                if name in tables:
                    vectors[name] = turns[name].time(lambda: ours(name, seen, gradients))  # noqa: B023 - called at once
                else:
                    vectors[name] = turns[name].time(lambda: torches[name].step(given, offsets, theirs))  # noqa: B023
            if not np.array_equal(vectors["tidemark"], vectors["tidemark_spilled"]):
                raise CheckFailedError("a table that spills gives other vectors than the one in memory")
        for turn in (*turns.values(), *pieces.values()):
            # The first is to get warm.
            turn.end_repeat(counts=repeat > 0)
    memory = {name: round(table.memory_bytes() / 2**20, 1) for name, table in tables.items()}
    tables["tidemark_spilled"].close()
    return {
        "dimension": dimension,
        "batch": size,
        "distinct_in_a_batch": len(np.unique(seen)),
        "ms": {name: _measure.spread(turn.wall) for name, turn in turns.items()},
        "cpu_ms": {name: _measure.spread(turn.cpu) for name, turn in turns.items()},
        "pieces_ms": {piece: _measure.spread(turn.wall) for (name, piece), turn in pieces.items() if name == "tidemark"},
        "memory_mb": memory,
        "ratios": {name: _measure.ratio(turns[name].wall, turns["tidemark"].wall) for name in OPTIMISERS},
        "cpu_ratios": {name: _measure.ratio(turns[name].cpu, turns["tidemark"].cpu) for name in OPTIMISERS},
        "spilled_vs_in_memory": _measure.ratio(turns["tidemark_spilled"].cpu, turns["tidemark"].cpu),
    }


def measure(n: int, batches: int, repeats: int, seed: int, scratch: Path) -> dict[str, Any]:
    """All cases; a ratio of the whole is that of the case and optimiser in which the table gains least.

    Raises
    ------
    CheckFailedError
        A result is wrong.
    """
    compared = check_against_oracle(seed, Spill(scratch / "checked", 20))
    ids = made_ids(n, seed)
    cases = [
        measure_case(ids, dimension, size, batches, repeats, seed, Spill(scratch / "cold", max(2, n // 4)))
        for dimension in DIMENSIONS
        for size in SIZES
    ]

    def least(key: str, names: tuple[str, ...]) -> dict[str, float]:
        found: dict[str, float] = min((case[key][name] for case in cases for name in names), key=lambda ratio: ratio["median"])
        return found

    return {
        "benchmark": "table",
        "results": {
            "note": NOTE,
            "ids": n,
            "batches": batches,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "hot_rows_of_tidemark_spilled": max(2, n // 4),
            "values_compared": compared,
            "cases": cases,
        },
        "ratios": {
            "table_vs_sparse_embedding": least("ratios", OPTIMISERS),
            "table_vs_sparse_embedding_by_cpu_time": least("cpu_ratios", OPTIMISERS),
            **{f"table_vs_{name}": least("ratios", (name,)) for name in OPTIMISERS},
            **{f"table_vs_{name}_by_cpu_time": least("cpu_ratios", (name,)) for name in OPTIMISERS},
        },
        "machine": _measure.machine(),
        "seed": seed,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    results = result["results"]
    console.print(f"{results['ids']:,} IDs, {results['threads']} thread, torch {results['torch']}")
    for case in results["cases"]:
        console.print(f"dimension {case['dimension']}, batch {case['batch']:,} ({case['distinct_in_a_batch']:,} distinct)")
        for name, ms in case["ms"].items():
            console.print(
                f"  {name}: {ms['median']:.2f} ms ({ms['min']:.2f} to {ms['max']:.2f}), cpu {case['cpu_ms'][name]['median']:.2f} ms"
            )
        console.print("  of tidemark: " + ", ".join(f"{name} {ms['median']:.2f} ms" for name, ms in case["pieces_ms"].items()))
        for name in OPTIMISERS:
            console.print(
                f"  {name} / tidemark: {case['ratios'][name]['median']:.2f}, by cpu time {case['cpu_ratios'][name]['median']:.2f}"
            )
    _measure.show_ratios(result, console)
    console.print(f"wanted: table_vs_sparse_embedding {WANTED}; {results['note']}")
    console.print(f"{_measure.where(result)}; seed {result['seed']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="200 000 IDs, 4 batches a repeat.")
@click.option("--ids", type=click.IntRange(1_000), help="Default 1 000 000.")
@click.option("--batches", type=click.IntRange(1), help="Of each size in a repeat. Default 8.")
@click.option("--repeats", type=click.IntRange(1), help="Default 5; 3 with --quick.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(as_json: bool, quick: bool, ids: int | None, batches: int | None, repeats: int | None, seed: int) -> None:
    """The embedding table against torch's EmbeddingBag with SparseAdam and with Adagrad, both given ready places."""
    n, batches, repeats = ids or (200_000 if quick else 1_000_000), batches or (4 if quick else 8), repeats or (3 if quick else 5)
    _command.run("table", lambda scratch: measure(n, batches, repeats, seed, scratch), show, as_json)


if __name__ == "__main__":
    main()
