"""`tidemark retrain`: the options, once or on a schedule, and what is told of it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table

from flows import stopping
from flows.duration_option import Duration
from flows.errors import TidemarkError, one_line
from flows.examples.store import open_examples
from flows.metrics_option import metrics_options, serve_if_asked
from flows.run.display import console_for_tables, moment
from flows.settings import DAY_MS, Settings
from flows.time_option import Time
from online_model.learner.delayed import DelayedLabels
from online_model.registry.registry import Registry
from online_model.retrain.errors import EmptyWindowError
from online_model.retrain.gate import Rule
from online_model.retrain.metrics import Metrics
from online_model.retrain.model_file import read_model_file
from online_model.retrain.plan import Request, planned
from online_model.retrain.progress import StageBars
from online_model.retrain.run import Outcome, retrain, unfinished
from online_model.retrain.schedule import CRON, Schedule, run_on_schedule
from online_model.retrain.spans import FROM_SCRATCH, HeldBack
from online_model.training.errors import TrainingStoppedError

_YEAR_MS = 366 * DAY_MS


class GateOption(click.ParamType):
    """A head and a metric: save/auc."""

    name = "HEAD/METRIC"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        head, _, metric = str(value).partition("/")
        if not metric:
            self.fail(f"'{value}' names no head and metric: give save/auc, hide/logloss or save/hit@3", param, ctx)
        return head, metric


@click.command(
    "retrain",
    epilog="Example: tidemark retrain --from-scratch; tidemark retrain --once --dry-run; tidemark retrain --schedule",
)
@click.option("--once", is_flag=True, help="Go on from the base that is served, now; one that was stopped is gone on with.")
@click.option("--schedule", "on_schedule", is_flag=True, help="The same again and again, when it is due, until stopped.")
@click.option("--from-scratch", is_flag=True, help="Begin with nothing, and learn from the whole store, once.")
@click.option("--cron", default=CRON, show_default=True, metavar="LINE", help="With --schedule: when it is due, in UTC.")
@click.option(
    "--replay", "replayed", type=Time(), nargs=2, metavar="T T", help="With --schedule: each time due between two moments, at once."
)
@click.option("--as-of", type=Time(), help="The moment of the retrain; what became known later doesn't exist for it. Now, if left out.")
@click.option(
    "--hold-back",
    type=Duration(_YEAR_MS),
    metavar="DURATION",
    help="Labels that matured so long before that moment judge the new base. 12h; from scratch 3d.",
)
@click.option(
    "--calibrate", type=Duration(_YEAR_MS), default="1d", show_default=True, help="Labels of so long before that fit calibrators."
)
@click.option("--from", "since", type=Time(), help="From scratch: leave out what became known before.")
@click.option(
    "--model",
    "model_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="From scratch: TOML with [model], [training], [table].",
)
@click.option(
    "--user-embedding",
    type=click.IntRange(1),
    metavar="VERSION",
    help="From scratch: the model takes users' vectors of this embedding version too. Later retrains take the same.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of first weights, order and resamples.")
@click.option("--gate", type=GateOption(), default="save/auc", show_default=True, help="What the gate decides by.")
@click.option("--tolerance", type=float, default=0.005, show_default=True, metavar="NUMBER", help="How much worse is let pass.")
@click.option(
    "--delayed-labels",
    type=click.Choice([way.value for way in DelayedLabels]),
    help="How both models learn on in the gate, and the new one in shadow. By default as the served base does, else fake-negative.",
)
@click.option(
    "--any-fingerprint",
    is_flag=True,
    help="Learn from examples too that were made under other settings, if their columns mean the same; the manifest names them.",
)
@click.option(
    "--memory", type=click.IntRange(1), default=8_192, show_default=True, metavar="MIB", help="What the window's examples may take."
)
@click.option("--threads", type=click.IntRange(1), help="Of torch; they decide bits, and stand in the manifest.")
@metrics_options("--schedule")
@click.option("--dry-run", is_flag=True, help="Say which examples would be taken; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each retrain.")
@click.pass_context
def retrain_command(
    ctx: click.Context,
    once: bool,
    on_schedule: bool,
    from_scratch: bool,
    cron: str,
    replayed: tuple[int, int] | None,
    as_of: int | None,
    hold_back: int | None,
    calibrate: int,
    since: int | None,
    model_file: Path | None,
    user_embedding: int | None,
    seed: int,
    gate: tuple[str, str],
    tolerance: float,
    delayed_labels: str | None,
    any_fingerprint: bool,
    memory: int,
    threads: int | None,
    metrics_port: int | None,
    metrics_address: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a new base of the last one and the labels that have matured since, and serve it if it is not worse.

    It begins with the last full base; what was learned online is left out, and learned again in shadow before the switch. Labels count by when
    they matured: those of the last day or so are held back, to fit calibrators and to judge. If the gate refuses the new base, the old one stays;
    the candidate lies in models/refused. Killed at any moment, the same command goes on.

    Exits with 1 if the new base was refused, with 3 if there is nothing new to learn from.
    """
    _check(once, on_schedule, from_scratch, replayed, as_of, since, model_file or user_embedding, dry_run, metrics_port)
    settings: Settings = ctx.obj
    files = read_model_file(model_file) if model_file is not None else {}
    held = HeldBack(hold_back if hold_back is not None else (FROM_SCRATCH if from_scratch else HeldBack()).evaluation_ms, calibrate)
    learner = {"delayed_labels": delayed_labels} if delayed_labels is not None else {}
    request = Request(
        held,
        Rule(*gate, tolerance),
        from_scratch,
        since,
        seed,
        learner=learner,
        any_fingerprint=any_fingerprint,
        user_embedding=user_embedding,
        **files,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    if dry_run:
        _dry_run(settings, request, as_of if as_of is not None else _now(), as_json)
        return
    one = _One(settings, request, memory << 20, as_json)
    stopping.listen()
    if replayed is not None:
        refused = [not one.run(at, go_on=False) for at in Schedule(cron).between(*replayed) if not stopping.requested()]
        if any(refused):
            ctx.exit(1)
    elif on_schedule:
        _scheduled(one, Schedule(cron), metrics_port, metrics_address)
    elif not one.run(as_of if as_of is not None else _now(), go_on=as_of is None):
        ctx.exit(1)


def _check(
    once: bool,
    on_schedule: bool,
    from_scratch: bool,
    replayed: tuple[int, int] | None,
    as_of: int | None,
    since: int | None,
    of_scratch: object,
    dry_run: bool,
    metrics_port: int | None,
) -> None:
    if on_schedule == (once or from_scratch):
        raise click.UsageError("say --once, --schedule or --from-scratch")
    if (since is not None or of_scratch is not None) and not from_scratch:
        raise click.UsageError("--from, --model and --user-embedding are of a training from scratch: otherwise the last base says them")
    if (replayed is not None or metrics_port is not None) and not on_schedule:
        raise click.UsageError("--replay and --metrics-port are of use with --schedule")
    if on_schedule and (as_of is not None or dry_run):
        raise click.UsageError("--as-of and --dry-run are of one retrain: leave out --schedule")
    if replayed is not None and replayed[0] >= replayed[1]:
        raise click.UsageError("--replay needs two moments, the earlier one first")


class _One:
    """One retrain, told."""

    def __init__(self, settings: Settings, request: Request, memory_bytes: int, as_json: bool) -> None:
        self.settings, self._request = settings, request
        self._memory_bytes, self._as_json = memory_bytes, as_json
        self.last: Outcome | None = None

    def run(self, as_of: int, go_on: bool) -> bool:
        """Whether its base was published."""
        started = time.monotonic()
        with StageBars(quiet=self._as_json) as bars:
            seconds = bars.seconds
            made = retrain(self.settings, self._request, as_of, go_on, _now, self._memory_bytes, bars)
        self.last = made
        _tell(made, seconds | {"all": time.monotonic() - started}, self._as_json)
        return made.passed


def _scheduled(one: _One, schedule: Schedule, metrics_port: int | None, metrics_address: str) -> None:
    metrics = Metrics()

    def say(line: str) -> None:
        click.echo(f"tidemark: {one_line(line)}", err=True)

    def missed(line: str) -> None:
        metrics.ended("passed_over")
        say(line)

    def job(due: int, go_on: bool = False) -> None:
        say(f"the retrain as of {moment(due)} {'goes on' if go_on else 'begins'}")
        try:
            if one.run(due, go_on) and one.last is not None and one.last.base is not None:
                metrics.ended("published")
                metrics.published(one.last.base, due)
            else:
                metrics.ended("refused")
                say("ALERT: the gate has refused the new base; the old one stays")
        except EmptyWindowError as error:
            metrics.ended("nothing_new")
            say(str(error))
        except TrainingStoppedError as error:
            say(str(error))
        except TidemarkError as error:
            metrics.ended("failed")
            say(f"ALERT: {error}")
        _say_next()

    def _say_next() -> None:
        due = schedule.next(_now())
        metrics.due(due)
        say(f"the next retrain is due at {moment(due)}")

    serve_if_asked(metrics.registry, metrics_address, metrics_port, lambda line: click.echo(line, err=True))
    if (begun := unfinished(one.settings)) is not None:
        job(begun, go_on=True)
    elif (last := schedule.latest(_now())) is not None:
        say(f"the last time was {moment(last)}; if it was missed: tidemark retrain --once --as-of {last}")
    _say_next()
    run_on_schedule(schedule, job, missed)


def _dry_run(settings: Settings, request: Request, as_of: int, as_json: bool) -> None:
    examples = open_examples(settings)
    try:
        plan = planned(Registry.of(settings), examples, request, as_of)
        spans = plan.spans
        counts = {
            "learned": sum(spans.learned) - sum(spans.begin),
            "calibrated": sum(spans.calibrated) - sum(spans.learned),
            "judged": sum(spans.judged) - sum(spans.calibrated),
        }
    finally:
        examples.close()
    parent = plan.parent.number if plan.parent is not None else None
    incumbent = plan.incumbent.number if plan.incumbent is not None else None
    if as_json:
        click.echo(
            json.dumps({"dry_run": True, "parent": parent, "incumbent": incumbent, "records": counts, **asdict(spans), "note": plan.note})
        )
        return
    click.echo(f"would begin {'with nothing' if parent is None else f'from base {parent}'}, as of {moment(as_of)}")
    for name, until in (("learned", spans.learned_until), ("calibrated", spans.cut), ("judged", spans.as_of)):
        click.echo(f"  {name + ' from':<16} {counts[name]:>12,} records, those until {moment(until)}")
    click.echo(
        "the gate would compare with " + ("nothing" if incumbent is None else f"base {incumbent}") + "; nothing was changed (--dry-run)"
    )
    if plan.note:
        click.echo(f"note: {plan.note}")


def _tell(made: Outcome, seconds: dict[str, float], as_json: bool) -> None:
    if as_json:
        told: dict[str, Any] = asdict(made) | {
            "refused": str(made.refused) if made.refused else None,
            "seconds": {stage: round(took, 3) for stage, took in seconds.items()},
        }
        click.echo(json.dumps(told))
        return
    training = made.metrics["training"]
    begun = "from scratch" if made.parent is None else f"from base {made.parent}"
    resumed = " (went on with one that was stopped)" if made.resumed else ""
    took = ", ".join(f"{stage} {of:.1f} s" for stage, of in seconds.items() if of >= 0.05)
    click.echo(f"{begun}, as of {moment(made.as_of)}: learned from {training['examples']:,} examples{resumed}; {took}")
    _print_metrics(made)
    if made.note:
        click.echo(f"note: {made.note}")
    if made.base is not None:
        click.echo(f"gate passed: {made.reason}")
        back = "; to go back: tidemark models rollback" if made.incumbent is not None else ""
        click.echo(f"base {made.base} is served from now on{back}")
    else:
        click.echo(f"gate refused: {made.reason}", err=True)
        stays = "nothing is served" if made.incumbent is None else f"base {made.incumbent} stays"
        click.echo(
            f"{stays}; the candidate lies in {made.refused} (to serve it all the same: tidemark models publish {made.refused})", err=True
        )


def _print_metrics(made: Outcome) -> None:
    gate = made.metrics["gate"]
    if "candidate" not in gate:
        return
    table = Table("head", "auc", "before", "hit@3", "before", "calibration", "before", title=f"Judged by {gate['rows']:,} examples")
    for head, found in gate["candidate"].items():
        before = gate.get("incumbent", {}).get(head, {})
        cells = [_figure(of.get(name)) for name in ("auc", "hit@3", "calibration") for of in (found, before)]
        table.add_row(head, *cells)
    console_for_tables().print(table)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _now() -> int:
    """Wall clock, ms since 1970."""
    return time.time_ns() // 1_000_000
