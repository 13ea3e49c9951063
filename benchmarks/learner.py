"""The online learner against its bare step: from log records to applied rows, beside forward and backward of the frozen model alone.

`python -m benchmarks.learner [--json] [--quick] [--batches B] [--repeats R] [--seed S]`. Tidemark's turn is what `tidemark learn` does where there
is much to learn: a process reads a log of four partitions, merges them and makes micro-batches ready; here IDs are admitted, vectors gathered, the
model run forward and backward, rows updated. The bare step has the same micro-batches as tensors, vectors included, and does forward and backward.
Both take turns. Before anything is timed, logits are compared with the oracle, and after each turn rows with those of a learner that reads by
itself. Then a learner follows examples that are appended at a rate, and each delta is read back.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console

from benchmarks import _command, _measure
from benchmarks._example_stream import partitioned, stream
from benchmarks._examples import examples
from benchmarks._learner_live import PARTITIONS, live
from benchmarks._measure import CheckFailedError
from flows.examples.record import EXAMPLES
from flows.examples.rows import batch_of
from flows.examples.store import open_examples
from flows.log import LocalLog
from flows.settings import Settings
from online_model.learner.apart import SLOTS, Apart
from online_model.learner.config import LearnerConfig
from online_model.learner.course import Course
from online_model.learner.reading import Batches, Ready
from online_model.learner.reading_process import Asked
from online_model.learner.step import Step
from online_model.model.config import Encoder, ModelConfig
from online_model.model.inputs import Inputs
from online_model.model.ranker import Ranker
from online_model.table import EmbeddingTable, TableConfig
from online_model.training.epoch import reproducible
from online_model.training.tables import Tables
from tests.oracles import ranker as oracle

ENCODERS = {"mean": 1024, "transact_v1_1": 128}
"""Records of a micro-batch: those with attention take longer."""
WANTED, WANTED_P99_S = 0.8, 60
_APPENDED = 2_048
BEFORE = {"mean": 64, "transact_v1_1": SLOTS}
"""Micro-batches learned before the clock runs: until as many wait as at the end, and the kernel has given each process a core, some 0.3 s."""
NOTE = (
    "one thread of torch, and a process that reads and makes batches ready; a ratio is the bare step's time over Tidemark's for the same "
    "examples, once the process runs, which takes it a second; `by_cpu_time`: of both processes; `by_learning_thread`: of the one that learns"
)


def write_records(settings: Settings, n: int, seed: int) -> None:
    """Records of EXAMPLES as the join appends them."""
    made = stream(examples(n, users=20_000, pins=50_000, days=0.2, seed=seed), seed)
    with LocalLog.open(settings.logs, EXAMPLES, PARTITIONS, create=True) as log:
        for p, rows in enumerate(partitioned(made, PARTITIONS)):
            for low in range(0, len(rows), _APPENDED):
                part = rows.take(np.arange(low, min(low + _APPENDED, len(rows))))
                log.append([(p, batch_of(part, 0, p, low))])


class Subject:
    """A frozen model that learns, beside its bare step.

    Parameters
    ----------
    scratch : Path
        Where its log lies.
    encoder : str
    batches : int
        In a repeat.
    seed : int
    """

    def __init__(self, scratch: Path, encoder: str, batches: int, seed: int) -> None:
        self.encoder, self.batches = encoder, batches
        config = LearnerConfig(batch_rows=ENCODERS[encoder], batch_ms=86_400_000)
        self.course = Course(1, "", config, {}, (0,) * PARTITIONS, "made-up")
        self.ranker = Ranker(ModelConfig(encoder=Encoder(encoder), seed=seed))
        self.settings = Settings(data=scratch / encoder, partitions=PARTITIONS)
        self.before = BEFORE[encoder]
        # At the end as many are ready as at the beginning.
        write_records(self.settings, config.batch_rows * (self.before + batches + SLOTS + 4), seed)
        rng = np.random.default_rng(seed)
        self._default = rng.normal(0, 0.05, (2, self.ranker.config.dim)).astype(np.float32)
        self.figures: dict[str, list[float]] = {}
        self.kept: list[tuple[Inputs, torch.Tensor]] = []
        self.rows: tuple[str, ...] = ()

    def _step(self) -> Step:
        return Step(self.ranker, Tables(*(EmbeddingTable(TableConfig(len(row)), row) for row in self._default)), self.course.config)

    def _asked(self) -> Asked:
        opened = partial(open_examples, self.settings)
        return Asked(opened, self.course.begin, self.ranker.config, self.course, follow=False, ended=False)

    def check(self) -> None:
        """Keep the micro-batches, with their vectors; compare logits with the oracle.

        Raises
        ------
        CheckFailedError
        """
        step = self._step()
        forward_backward = step.forward_backward

        def keeping(inputs: Inputs, labels: torch.Tensor) -> tuple[np.ndarray, float]:
            copied = replace(inputs, user=inputs.user.detach().clone(), pin=inputs.pin.detach().clone())
            self.kept.append((copied, labels))
            return forward_backward(inputs, labels)

        with closing(open_examples(self.settings)) as log:
            source = Batches(log, self.course.begin, self.ranker.config, self.course)
            for _ in range(self.before):
                step.learn_prepared(_there(source.next()).batch)
            step.forward_backward = keeping  # type: ignore[method-assign]
            for _ in range(self.batches):
                learned = step.learn_prepared(_there(source.next()).batch)
                if len(self.kept) == 1 and learned.examples:
                    self._compare(learned.logits)
        self.rows = (step.tables.users.digest(), step.tables.pins.digest())

    def _compare(self, logits: np.ndarray) -> None:
        inputs = self.kept[0][0]
        some = torch.arange(min(3, len(inputs)))
        fields = ("user", "pin", "context", "pin_counters", "surface", "slot")
        cut = replace(inputs, **{name: getattr(inputs, name)[some] for name in fields})
        arrays = {name: getattr(cut, name).numpy() for name in Inputs.__dataclass_fields__}
        weights = {name: value.numpy() for name, value in self.ranker.state_dict().items()}
        expected = oracle.logits(self.ranker.config.to_dict(), weights, arrays)
        if not np.allclose(logits[: len(some)], expected, rtol=1e-3, atol=1e-3):
            raise CheckFailedError(
                f"{self.encoder}: the logits are not the oracle's, by {np.abs(logits[: len(some)] - expected).max():.2g}"
            )

    def turn(self, counts: bool = True) -> None:
        """A repeat: Tidemark's turn, then the bare step's."""
        examples_, seconds = self._learn()
        bare = self._bare()
        if not counts:
            return
        for name, ours, theirs in zip(("", "cpu_", "thread_"), seconds, bare, strict=True):
            self.figures.setdefault(f"{name}examples_per_s", []).append(examples_ / ours)
            self.figures.setdefault(f"{name}bare_examples_per_s", []).append(examples_ / theirs)

    def _learn(self) -> tuple[int, tuple[float, float, float]]:
        step, learned = self._step(), 0
        with closing(Apart(self._asked())) as apart:
            for _ in range(self.before):
                step.learn_prepared(_there(apart.get(60)).batch)
            begun = _clocks(apart.process_id)
            for _ in range(self.batches):
                learned += step.learn_prepared(_there(apart.get(60)).batch).examples
            seconds = _since(begun, apart.process_id)
        if (step.tables.users.digest(), step.tables.pins.digest()) != self.rows:
            raise CheckFailedError(f"{self.encoder}: a process that makes batches ready has changed rows")
        return learned, seconds

    def _bare(self) -> tuple[float, float, float]:
        step = self._step()
        begun = _clocks()
        for inputs, labels in self.kept:
            step.forward_backward(replace(inputs, user=inputs.user.detach(), pin=inputs.pin.detach()), labels)
        return _since(begun)


def _there(ready: Ready | None) -> Ready:
    if ready is None:
        raise CheckFailedError("there are fewer micro-batches than are to be learned")
    return ready


def _clocks(other: int | None = None) -> tuple[float, float, float]:
    """Now; processor time of this process and of another one; of this thread."""
    # Linux: the clock of a process's threads, those that are alive and those that have ended.
    others = 0.0 if other is None else time.clock_gettime((~other << 3) | 2)
    return time.perf_counter(), time.process_time() + others, time.thread_time()


def _since(begun: tuple[float, float, float], other: int | None = None) -> tuple[float, float, float]:
    now = _clocks(other)
    return now[0] - begun[0], now[1] - begun[1], now[2] - begun[2]


def measure(scratch: Path, batches: int, repeats: int, seed: int, rate: int, seconds: float, publish_every_s: int) -> dict[str, Any]:
    """Both encoders, repeat by repeat; then both live.

    Raises
    ------
    CheckFailedError
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with reproducible(torch.device("cpu")):
            subjects = {name: Subject(scratch, name, batches if name == "mean" else max(2, batches // 8), seed) for name in ENCODERS}
            for subject in subjects.values():
                subject.check()
                subject.turn(counts=False)
            for _ in range(repeats):
                for subject in subjects.values():
                    subject.turn()
    finally:
        torch.set_num_threads(threads)
    ratios: dict[str, dict[str, float]] = {}
    for of, suffix in (("", ""), ("cpu_", "_by_cpu_time"), ("thread_", "_by_learning_thread")):
        each = {}
        for name, subject in subjects.items():
            ours, theirs = (subject.figures[f"{of}{who}examples_per_s"] for who in ("", "bare_"))
            each[f"vs_bare_step_{name}{suffix}"] = _measure.ratio(ours, theirs)
        ratios[f"vs_bare_step{suffix}"] = min(each.values(), key=lambda one: one["median"])
        ratios |= each
    return {
        "benchmark": "learner",
        "results": {
            "note": NOTE,
            "torch": torch.__version__,
            "instruction_set": torch.backends.cpu.get_cpu_capability(),
            "encoders": {name: {f: _measure.spread(v, 1) for f, v in subject.figures.items()} for name, subject in subjects.items()},
            "live": {"mean": live(scratch / "live", "mean", rate, seconds, publish_every_s, seed)},
        },
        "ratios": ratios,
        "machine": _measure.machine(),
        "seed": seed,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    for name, of in result["results"]["encoders"].items():
        ours, bare = (of[f"cpu_{who}examples_per_s"]["median"] for who in ("", "bare_"))
        clock = of["examples_per_s"]["median"]
        console.print(f"{name}: {clock:,.0f} examples/s by clock, {ours:,.0f} by cpu; the bare step {bare:,.0f} by cpu")
    _measure.show_ratios(result, console)
    for name, one in result["results"]["live"].items():
        fresh = ", ".join(f"{q} {value:.1f} s" for q, value in one["freshness_s"].items())
        console.print(
            f"{name}, {one['records_per_s']} records/s, a delta each {one['publish_every_s']} s: from example to delta {fresh}; "
            f"keep-up {one['keep_up']:.1f}"
        )
    console.print(f"wanted: vs_bare_step {WANTED}, p99 {WANTED_P99_S} s; {result['results']['note']}")
    console.print(f"{_measure.where(result)}; torch {result['results']['torch']}; seed {result['seed']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="16 micro-batches in each of 3 repeats; 15 s live, a delta each 5 s.")
@click.option("--batches", type=click.IntRange(2), help="In a repeat; an eighth for v1.1. Default 48.")
@click.option("--repeats", type=click.IntRange(1), help="Default 7; 3 with --quick.")
@click.option("--rate", type=click.IntRange(1), default=300, show_default=True, help="Records appended a second.")
@click.option("--seconds", type=click.FloatRange(1), help="So long. Default 120; 15 with --quick.")
@click.option("--publish-every", type=click.IntRange(1), metavar="SECONDS", help="Default 20; 5 with --quick.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(
    as_json: bool,
    quick: bool,
    batches: int | None,
    repeats: int | None,
    rate: int,
    seconds: float | None,
    publish_every: int | None,
    seed: int,
) -> None:
    """The learner beside its bare step, and how fresh its deltas are."""
    batches, repeats = batches or (16 if quick else 48), repeats or (3 if quick else 7)
    seconds, publish_every = seconds or (15 if quick else 120), publish_every or (5 if quick else 20)
    _command.run("learner", lambda scratch: measure(scratch, batches, repeats, seed, rate, seconds, publish_every), show, as_json)


if __name__ == "__main__":
    main()
