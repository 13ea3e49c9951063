"""Runs an evaluation: seed by seed, arm by arm, each arm once however many tables have it. What was made before is found and not made again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flows.errors import InputError
from online_model.embedding.evaluation.arms import Bench, Measured
from online_model.embedding.evaluation.findings import SeedRows, findings
from online_model.embedding.evaluation.plan import ALL, EvaluationPlan
from online_model.embedding.evaluation.tables import POPULAR, PaperTable, Row
from online_model.embedding.evaluation.worlds import Worlds
from online_model.registry.build import build_of
from online_model.studies.kept import digest_of
from online_model.studies.running import one_thread

Progress = Callable[[str, int, int, int, int], None]
"""Called with what is being done, how much of it and of how much (0 of 0 where nobody knows), then arms done and of how many."""


def run(
    plan: EvaluationPlan,
    tables: Sequence[PaperTable],
    worlds: Worlds,
    work: Path,
    quick: bool = False,
    progress: Progress = lambda what, done, of, arms, of_arms: None,
) -> dict[str, Any]:
    """Everything that an evaluation finds.

    Parameters
    ----------
    plan : EvaluationPlan
    tables : sequence of PaperTable
    worlds : Worlds
    work : Path
        Where arms are kept.
    quick : bool
        Whether the plan is not the one for claims.
    progress : callable

    Returns
    -------
    dict
        As of `findings`; the same plan, tables and world give the same.

    Raises
    ------
    InputError
        There is no table, or nothing to be found.
    TrainingStoppedError
        The process was asked to stop; what was made is kept.
    """
    if not tables:
        raise InputError(
            f"plan '{plan.name}' has none of the tables asked for: types, without and lengths say what tables 5, 6 and figure 4 are of"
        )
    with one_thread():
        seeds = [_seed(plan, tables, worlds, seed, place, work, progress) for place, seed in enumerate(plan.seeds)]
        build = asdict(build_of(0))
    # There are several, and the configuration has them.
    del build["seed"]
    return findings(plan, tables, quick, seeds, build)


def _seed(
    plan: EvaluationPlan, tables: Sequence[PaperTable], worlds: Worlds, seed: int, place: int, work: Path, progress: Progress
) -> SeedRows:
    arms = _arms(tables, plan, seed)
    of_arms = len(arms) * len(plan.seeds)
    name = f"seed {seed}"
    bench = Bench(plan, worlds.of_seed(seed, lambda stage: progress(f"{name}: {stage}", 0, 0, place * len(arms), of_arms)), seed, work)
    if not len(bench.targets[ALL]):
        raise InputError(
            f"seed {seed}: none of {len(bench.split.evaluated):,} evaluated users has a positive action on a pin with a vector in the last "
            f"{plan.window_days:g} days; positive are {', '.join(plan.embedding.positives)}: say otherwise in the plan"
        )
    measured: dict[tuple[str, Any], Measured] = {}
    for number, (digest, rows) in enumerate(arms.items()):
        done = place * len(arms) + number

        def told(what: str, some: int, of: int, rows: Sequence[Row] = rows, done: int = done) -> None:
            progress(f"{name}, {rows[0].name}: {what}", some, of, done, of_arms)

        told("looking", 0, 0)
        refreshes = list(dict.fromkeys(row.refresh for row in rows))
        for refresh, one in bench.measured(rows[0].arm, refreshes, told).items():
            measured[digest, refresh] = one
    progress(f"{name}: measured", 0, 0, (place + 1) * len(arms), of_arms)
    by_row = {(table.key, row.name): measured[_digest(plan, seed, row), row.refresh] for table in tables for row in table.rows}
    return SeedRows(bench, {**by_row, ("", POPULAR): bench.popular()})


def _arms(tables: Sequence[PaperTable], plan: EvaluationPlan, seed: int) -> dict[str, list[Row]]:
    """Rows by what they train: rows of one configuration share an arm."""
    out: dict[str, list[Row]] = {}
    for table in tables:
        for row in table.rows:
            out.setdefault(_digest(plan, seed, row), []).append(row)
    return out


def _digest(plan: EvaluationPlan, seed: int, row: Row) -> str:
    return digest_of(replace(plan.embedding, **row.arm, seed=seed).to_dict())
