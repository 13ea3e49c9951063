"""What an embedding costs on one core: actions trained in a second beside a bare loop of the same transformer, and users inferred in a second.

`python -m benchmarks.embedding [--json] [--quick] [--batches B] [--repeats R] [--pins P] [--seed S]`. A training is the command's own step:
users of a batch chosen, examples and candidates drawn, own pins masked, the sketch asked, then forward, backward and AdamW. The bare loop has the
same transformer, loss and optimiser, and every batch as tensors before it begins. Losses and weights of both, and vectors of users alone and among
others, are compared before anything is timed. The index of pins beside exact search is measured by `_embedding_index.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console

from benchmarks import _command, _embedding_index, _measure
from benchmarks._measure import CheckFailedError
from online_model.embedding.config import EmbeddingConfig
from online_model.embedding.embedding_model import EmbeddingModel
from online_model.embedding.loss import sampled_softmax
from online_model.embedding.model import ActionBatch, PinnerFormer
from online_model.embedding.pin_vectors import PinVectors
from online_model.embedding.sequences import UserSequences, sequences_of
from online_model.embedding.training import Training
from online_model.training.epoch import reproducible

WANTED = 0.8
NOTE = (
    "one thread; by clock, and `cpu`: by processor time, which other work on the machine does not lengthen; training in batches of 32 users "
    "with 256 actions each, of the default size (2 blocks of 64, 1 024 random negatives beside those of the batch)"
)
_INFERRED = 256

Timed = tuple[float, float]  # seconds by clock, and of the processor


def timed(work: Callable[[], object]) -> Timed:
    """How long it takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def histories(users: int, length: int, pins: int, seed: int) -> UserSequences:
    """Users with so many actions each, a fifth of them saves."""
    rng = np.random.default_rng(seed)
    n = users * length
    action = rng.choice([4, 1, 2, 6, 5], n)
    pin = (pins * rng.random(n) ** 2).astype(np.int64)
    time_ms = 1_700_000_000_000 + np.tile(np.arange(length), users) * 3_600_000 + rng.integers(0, 3_600_000, n)
    names = {"closeup": 1, "click": 2, "long_click": 3, "save": 4, "hide": 5, "grid_click": 6}
    surfaces = {"homefeed": 0, "search": 2}
    return sequences_of(
        np.repeat(np.arange(users), length), pin, action, rng.choice([0, 2], n), rng.integers(0, 30_000, n), time_ms, names, surfaces
    )


class BareLoop:
    """The same transformer, loss and optimiser over tensors that are ready.

    Parameters
    ----------
    training : Training
        Whose batches it learns from too.
    batches : int
        So many are made ready; it goes through them again and again.
    """

    def __init__(self, training: Training, batches: int) -> None:
        self.former = PinnerFormer(training.config, torch.from_numpy(training.vectors.vectors)).train()
        self.optimizer = torch.optim.AdamW(
            self.former.parameters(), lr=training.config.learning_rate, weight_decay=training.config.weight_decay
        )
        self._ready: list[tuple[ActionBatch, list[torch.Tensor]]] = []
        self._at = 0
        for number in range(batches):
            batch, examples, pool = training.made_ready(number)
            arrays = (
                examples.user, examples.output, examples.pin, pool.pin, pool.own[examples.user], pool.log_q, pool.positive_log_q, examples.weight,
            )  # fmt: skip
            self._ready.append((batch, list(map(torch.from_numpy, arrays))))

    def loss(self, number: int) -> torch.Tensor:
        """Of one of the batches."""
        batch, (user, output, pin, candidates, own, log_q, positive_log_q, weight) = self._ready[number]
        former = self.former
        told = former.outputs(former.states(batch)[user, output])
        positive, others = former.pins(former.vectors(pin)), former.pins(former.vectors(candidates))
        return sampled_softmax(told, positive, others, own, log_q, positive_log_q, former.temperature, weight)

    def step(self) -> None:
        """Learn from the next one."""
        loss = self.loss(self._at)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.former.parameters(), self.former.config.clip)
        self.optimizer.step()
        self._at = (self._at + 1) % len(self._ready)


class Subject:
    """A training, its bare loop, and a model that infers.

    Parameters
    ----------
    batches, repeats, seed : int
    """

    def __init__(self, batches: int, repeats: int, seed: int) -> None:
        # Epochs without end: what is measured is a step.
        self.config = replace(EmbeddingConfig(seed=seed, epochs=1_000), positives=("save",))
        self.batches, size = batches, self.config.batch_users
        sequences = histories(size * (batches + 1), self.config.length, 20_000, seed)
        vectors = PinVectors(
            sequences.pin_ids, np.random.default_rng(seed).normal(size=(len(sequences.pin_ids), self.config.vector_dim)).astype(np.float32)
        )
        self._given = (sequences, vectors)
        self.training = Training(sequences, vectors, self.config)
        self.bare = BareLoop(Training(sequences, vectors, self.config), batches + 1)
        self.model = EmbeddingModel(self.training.former, vectors, dict(sequences.actions), dict(sequences.surfaces))
        self._inferred = sequences.take(np.arange(min(_INFERRED, len(sequences))))
        self.figures: dict[str, list[float]] = {}

    def check(self) -> None:
        """Raise unless both learn the same from a batch, and a user's vector is the same alone."""
        # Without dropout, which draws anew for each, and at one rate.
        config, (sequences, vectors) = replace(self.config, dropout=0.0, warmup=0.0), self._given
        ours, bare = Training(sequences, vectors, config), BareLoop(Training(sequences, vectors, config), 1)
        ours.step()
        with torch.no_grad():
            plain = float(bare.loss(0))
        bare.step()
        if abs(plain - ours.progress.loss) > 1e-6 * abs(plain):
            raise CheckFailedError(f"the first loss is {ours.progress.loss:.6f}, that of the bare loop {plain:.6f}")
        if any(not torch.allclose(a, b) for a, b in zip(ours.former.parameters(), bare.former.parameters(), strict=True)):
            raise CheckFailedError("a step leads to other weights than that of the bare loop")
        one = self._inferred.take(np.array([3]))
        if not (self.model.users(one) == self.model.users(self._inferred)[3]).all():
            raise CheckFailedError("a user's vector is another alone than among others")

    def turn(self) -> None:
        """A repeat: steps of the training and of the bare loop in turns, then users."""
        trained, bare = np.zeros(2), np.zeros(2)
        done = self.training.progress.actions
        for _ in range(self.batches):
            trained += timed(self.training.step)
            bare += timed(self.bare.step)
        actions = self.training.progress.actions - done
        inferred = timed(lambda: self.model.users(self._inferred))
        for i, of in enumerate(("", "cpu_")):
            self._note(f"{of}actions_per_s", actions / trained[i])
            self._note(f"{of}bare_actions_per_s", actions / bare[i])
            self._note(f"{of}users_inferred_per_s", len(self._inferred) / inferred[i])

    def _note(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)


def measure(batches: int, repeats: int, seed: int, pins: int) -> dict[str, Any]:
    """Training and inference, repeat by repeat; then the index of so many pins.

    Raises
    ------
    CheckFailedError
        The bare loop learns something else, or a vector depends on its neighbours.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with reproducible(torch.device("cpu")):
            subject = Subject(batches, repeats, seed)
            subject.check()
            # One of each that doesn't count.
            subject.training.step()
            subject.bare.step()
            for _ in range(repeats):
                subject.turn()
            index, index_ratios = _embedding_index.measure(pins, subject.config.output_dim, min(200, pins), max(3, repeats), seed)
    finally:
        torch.set_num_threads(threads)
    figures = subject.figures
    ratios = {
        f"train_vs_bare_loop{suffix}": _measure.ratio(figures[f"{of}actions_per_s"], figures[f"{of}bare_actions_per_s"])
        for of, suffix in (("", ""), ("cpu_", "_by_cpu_time"))
    }
    return {
        "benchmark": "embedding",
        "results": {
            "note": NOTE,
            "threads": 1,
            "torch": torch.__version__,
            "instruction_set": torch.backends.cpu.get_cpu_capability(),
            "weights": sum(p.numel() for p in subject.model.former.parameters()),
            **{name: _measure.spread(values, 1) for name, values in figures.items()},
            "index": index,
        },
        "ratios": ratios | index_ratios,
        "machine": _measure.machine(),
        "seed": seed,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    results = result["results"]
    for name in ("actions_per_s", "bare_actions_per_s", "users_inferred_per_s"):
        by_clock, by_cpu = results[name], results[f"cpu_{name}"]
        console.print(
            f"{name}: {by_clock['median']:,.0f} ({by_clock['min']:,.0f} to {by_clock['max']:,.0f}); by cpu {by_cpu['median']:,.0f}"
        )
    for name in ("exact", *_embedding_index.LIBRARIES):
        if (of := results["index"].get(name)) is not None:
            built = f"built in {of['build_cpu_s']:.1f} s of one core, " if "build_cpu_s" in of else ""
            console.print(
                f"{name}: {built}{of['query_cpu_us']['median']:,.0f} µs a query, recall@{results['index']['k']} {of['recall']:.4f}"
            )
    _measure.show_ratios(result, console)
    console.print(f"wanted: train_vs_bare_loop {WANTED}; {results['note']}")
    console.print(f"{_measure.where(result)}; torch {results['torch']}; seed {result['seed']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="Two batches in each of 3 repeats.")
@click.option("--batches", type=click.IntRange(1), help="In a repeat. Default 6.")
@click.option("--repeats", type=click.IntRange(1), help="Default 5; 3 with --quick.")
@click.option("--pins", type=click.IntRange(200), help="In the index. Default 20000; 2000 with --quick.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(as_json: bool, quick: bool, batches: int | None, repeats: int | None, pins: int | None, seed: int) -> None:
    """What training an embedding and inferring users costs, beside a bare loop; and the index, beside exact search."""
    batches, repeats = batches or (2 if quick else 6), repeats or (3 if quick else 5)
    pins = pins or (2_000 if quick else 20_000)
    _command.run("embedding", lambda scratch: measure(batches, repeats, seed, pins), show, as_json)


if __name__ == "__main__":
    main()
