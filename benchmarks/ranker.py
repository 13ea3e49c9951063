"""What each encoder costs on one core: examples trained in a second, and 500 candidates ranked; and a retrain beside a plain loop.

`python -m benchmarks.ranker [--json] [--quick] [--encoder NAME] [--batches B] [--repeats R] [--seed S]`. Training is the retrain's own step: features
of a shuffled batch, vectors gathered, forward, backward, Adam, row-wise Adagrad. Ranking is what a server does for one request with 100 actions. The
loop that it is held against has all of that in tensors with each ID's place ready. Logits are compared with the oracle before anything is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import _command, _measure
from benchmarks._examples import examples
from benchmarks._measure import CheckFailedError
from benchmarks._ranker_plain import PlainLoop
from online_model.model.config import Encoder, ModelConfig
from online_model.model.ranker import Ranker
from online_model.model.scoring import score_rows
from online_model.table import EmbeddingTable, TableConfig
from online_model.training.config import TrainingConfig
from online_model.training.epoch import Epoch, reproducible
from online_model.training.examples import TrainingExamples
from online_model.training.tables import Tables
from tests.oracles import ranker as oracle

CANDIDATES = 500
COMPARED = ("mean", "transact_v1_1")
WANTED = 0.8
_RANKED = 5
_SLOW = ("vanilla", "transact_v1_0", "transact_v1_1")
NOTE = (
    "one thread; by clock, and `cpu`: by processor time, which other work on the machine does not lengthen; "
    "training in batches of 512 (the encoders with attention: 128), each example of another request, 75 actions on average of at most 100"
)

Timed = tuple[float, float]  # seconds by clock, and of the processor


def timed(work: Callable[[], object]) -> Timed:
    """How long it takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


class Subject:
    """A model with one encoder, in training beside its plain loop, and ranking.

    Parameters
    ----------
    encoder : str
    batches : int
        In a repeat.
    repeats : int
    seed : int
    """

    def __init__(self, encoder: str, batches: int, repeats: int, seed: int) -> None:
        self.config = ModelConfig(encoder=Encoder(encoder), seed=seed)
        self.batches = batches if encoder not in _SLOW else max(1, batches // 4)
        size = 128 if encoder in _SLOW else 512
        settings = TrainingConfig(batch_size=size, seed=seed)
        # The first batch is to get warm.
        n = size * (1 + self.batches * repeats)
        found = TrainingExamples.of([examples(n, users=20_000, pins=50_000, per_request=1, seed=seed)])
        rng = np.random.default_rng(seed)
        default = rng.normal(0, 0.05, (2, self.config.dim)).astype(np.float32)
        tables = Tables(*(EmbeddingTable(TableConfig(self.config.dim), row) for row in default))
        tables.begin(found, settings.accumulator_decay)
        self.epoch = Epoch(Ranker(self.config).train(), tables, found, settings)
        self.plain = PlainLoop(self.epoch, found, settings)
        one = TrainingExamples.of([examples(CANDIDATES, users=1, pins=50_000, per_request=CANDIDATES, seed=seed)])
        rows = tables.rows_in(one.columns).features(np.arange(CANDIDATES), self.config.sequence_length)
        self.request = lambda: score_rows(self.epoch.ranker, tables.gather(rows))
        self._tables, self._rows = tables, rows
        self.figures: dict[str, list[float]] = {}

    def check(self) -> None:
        """Raise unless logits are the oracle's, for some candidates of the request."""
        scored = self.request()
        some = np.arange(0, CANDIDATES, 125)
        inputs = self._tables.gather(self._rows)
        arrays = {name: value.numpy() for name, value in vars(inputs).items()}
        cut = {name: arrays[name][some] for name in ("user", "pin", "context", "pin_counters", "surface")}
        slot = np.full(len(some), self.config.serving_slot)
        weights = {name: value.detach().numpy() for name, value in self.epoch.ranker.state_dict().items()}
        expected = oracle.logits(self.config.to_dict(), weights, {**arrays, **cut, "slot": slot})
        if not np.allclose(scored[some], expected, rtol=1e-3, atol=1e-3):
            raise CheckFailedError(
                f"{self.config.encoder}: the logits are not the oracle's, by {np.abs(scored[some] - expected).max():.2g}"
            )
        index = torch.from_numpy(self.epoch.order.batch(0))
        with torch.no_grad():
            features = self.epoch.columns.features(index.numpy(), self.config.sequence_length)
            ours, theirs = (self.epoch.ranker.eval()(one) for one in (self._tables.gather(features), self.plain.inputs(index)))
        self.epoch.ranker.train()
        if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5):
            raise CheckFailedError(f"{self.config.encoder}: the plain loop has other batches")

    def warm(self) -> None:
        """A batch of each that doesn't count."""
        self.epoch.step()
        self.plain.step()
        self.request()

    def turn(self) -> None:
        """A repeat: batches of the retrain and of the plain loop in turns, then requests."""
        trained, plain = np.zeros(2), np.zeros(2)
        done = self.epoch.progress.examples
        for _ in range(self.batches):
            trained += timed(self.epoch.step)
            plain += timed(self.plain.step)
        learned = self.epoch.progress.examples - done
        ranked = np.median([timed(self.request) for _ in range(_RANKED)], axis=0) * 1e3
        for i, of in enumerate(("", "cpu_")):
            self._note(f"{of}examples_per_s", learned / trained[i])
            self._note(f"{of}plain_examples_per_s", learned / plain[i])
            self._note(f"{of}rank_500_ms", float(ranked[i]))

    def _note(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)


def measure(encoders: tuple[str, ...], batches: int, repeats: int, seed: int) -> dict[str, Any]:
    """Each encoder, repeat by repeat.

    Raises
    ------
    CheckFailedError
        Logits are not the oracle's.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with reproducible(torch.device("cpu")):
            subjects = {name: Subject(name, batches, repeats, seed) for name in encoders}
            for subject in subjects.values():
                subject.check()
                subject.warm()
            for _ in range(repeats):
                for subject in subjects.values():
                    subject.turn()
    finally:
        torch.set_num_threads(threads)
    figures = {name: subject.figures for name, subject in subjects.items()}
    ratios = {}
    for name in (one for one in COMPARED if one in figures):
        for of, suffix in (("", ""), ("cpu_", "_by_cpu_time")):
            ours, theirs = figures[name][f"{of}examples_per_s"], figures[name][f"{of}plain_examples_per_s"]
            ratios[f"retrain_vs_plain_loop_{name}{suffix}"] = _measure.ratio(ours, theirs)
    if set(COMPARED) <= set(figures):
        mean, late = figures["mean"], figures["transact_v1_1"]
        ratios["train_mean_vs_transact_v1_1"] = _measure.ratio(mean["cpu_examples_per_s"], late["cpu_examples_per_s"], 1)
        ratios["rank_transact_v1_1_vs_mean"] = _measure.ratio(late["cpu_rank_500_ms"], mean["cpu_rank_500_ms"], 1)
    return {
        "benchmark": "ranker",
        "results": {
            "note": NOTE,
            "threads": 1,
            "torch": torch.__version__,
            "instruction_set": torch.backends.cpu.get_cpu_capability(),
            "encoders": {name: {figure: _measure.spread(values, 1) for figure, values in of.items()} for name, of in figures.items()},
            "weights": {name: sum(p.numel() for p in subject.epoch.ranker.parameters()) for name, subject in subjects.items()},
        },
        "ratios": ratios,
        "machine": _measure.machine(),
        "seed": seed,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    table = Table("encoder", "weights", "examples/s", "by cpu", "plain loop, by cpu", "500 candidates, ms", "by cpu")
    for name, of in result["results"]["encoders"].items():
        names = ("examples_per_s", "cpu_examples_per_s", "cpu_plain_examples_per_s", "rank_500_ms", "cpu_rank_500_ms")
        table.add_row(name, f"{result['results']['weights'][name]:,}", *(f"{of[figure]['median']:,.0f}" for figure in names))
    console.print(table)
    _measure.show_ratios(result, console)
    console.print(f"wanted: retrain_vs_plain_loop {WANTED}; {result['results']['note']}")
    console.print(f"{_measure.where(result)}; torch {result['results']['torch']}; seed {result['seed']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="Mean pooling and v1.1 alone, 4 batches in each of 3 repeats.")
@click.option(
    "--encoder",
    "encoders",
    type=click.Choice([one.value for one in Encoder]),
    multiple=True,
    help="Only this (may be given several times).",
)
@click.option("--batches", type=click.IntRange(1), help="In a repeat; a quarter for the encoders with attention. Default 12.")
@click.option("--repeats", type=click.IntRange(1), help="Default 5; 3 with --quick.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(as_json: bool, quick: bool, encoders: tuple[str, ...], batches: int | None, repeats: int | None, seed: int) -> None:
    """What each encoder costs in training and in ranking, and a retrain beside a plain loop."""
    chosen = encoders or (COMPARED if quick else tuple(one.value for one in Encoder))
    batches, repeats = batches or (4 if quick else 12), repeats or (3 if quick else 5)
    _command.run("ranker", lambda scratch: measure(chosen, batches, repeats, seed), show, as_json)


if __name__ == "__main__":
    main()
