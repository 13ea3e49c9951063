"""Runs a study: history by history, arm by arm. What was made before is found and not made again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from online_model.registry.build import build_of
from online_model.studies.findings import findings
from online_model.studies.kept import Kept
from online_model.studies.plan import Plan
from online_model.studies.stream import open_stream
from online_model.studies.study import Bench, Progress, Seed, Study


def run(study: Study, plan: Plan, work: Path, quick: bool = False, progress: Progress = lambda what, done, total: None) -> dict[str, Any]:
    """Everything that a study finds.

    Parameters
    ----------
    study : Study
    plan : Plan
        The study's own, or a smaller one.
    work : Path
        Where histories, bases and scores are kept. Studies share it.
    quick : bool
        Whether the plan is not the one for claims.
    progress : callable

    Returns
    -------
    dict
        As of `findings`; the same plan gives the same.
    """
    with one_thread():
        worlds = {world: [_seed(study, plan, world, seed, work, progress) for seed in plan.seeds] for world in plan.worlds}
        build = asdict(build_of(0))
        # There are several, and the configuration has them.
        del build["seed"]
        return findings(study, plan, quick, worlds, build)


def _seed(study: Study, plan: Plan, world: str, seed: int, work: Path, progress: Progress) -> Seed:
    of = f"{world}, seed {seed}"

    def told(what: str, done: int = 0, total: int = 0) -> None:
        progress(f"{of}: {what}", done, total)

    stream = open_stream(plan.world(world, seed), work / "histories", told)
    bench = Bench(plan, stream, seed, work, Kept(work / study.name), told)
    return study.measure(study, bench)


@contextmanager
def one_thread() -> Iterator[None]:
    """How many threads there are decides bits; one is what every machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
