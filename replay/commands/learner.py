"""`tidemark replay learner`."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import asdict

import click

from flows import stopping
from flows.settings import Settings
from flows.time_option import Time
from replay.commands.options import DRY, JSON, records_bar

_POSITIONS = re.compile(r"[0-9]{1,8}|[0-9]{1,18}(,[0-9]{1,18})+")


class _Where(Time):
    """Positions, one of each partition, or a time."""

    name = "POSITIONS|T"

    def convert(  # type: ignore[override]
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | tuple[int, ...]:
        if _POSITIONS.fullmatch(str(value)):
            return tuple(map(int, str(value).split(",")))
        return super().convert(value, param, ctx)


@click.command(
    epilog="Example: tidemark replay learner --skip 2026-11-29T10:00Z 2026-11-29T10:20Z --dry-run; by positions, one of each partition: "
    "tidemark replay learner --to 120400,118233"
)
@click.option(
    "--to", type=_Where(), help="Rows are learned again from the newest snapshot at or before there on. Default: where --skip begins."
)
@click.option(
    "--skip",
    nargs=2,
    type=_Where(),
    metavar="FROM TO",
    help="Leave out the examples from there up to there, now and whenever rows are made again.",
)
@click.option("--base", type=click.IntRange(1), help="This base, instead of the one that is served.")
@DRY
@JSON
@click.pass_obj
def learner(
    settings: Settings,
    to: int | tuple[int, ...] | None,
    skip: tuple[int | tuple[int, ...], int | tuple[int, ...]] | None,
    base: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Roll learned rows back to before a position, and learn again, with a bad span left out or not.

    Where examples stand is said by positions of the log 'examples', one of each partition with commas, or by the time at which they became known.
    Consumers need do nothing: one delta tells them all rows that differ. Stop `tidemark learn` before, and start it again afterwards; it also
    finishes what was interrupted here.
    """
    if to is None and skip is None:
        raise click.UsageError("say how far back: --to POSITIONS or a time, or --skip FROM TO")
    # Not before it is needed: torch takes a second to load.
    import torch

    from flows.errors import InputError
    from flows.examples.store import open_examples
    from flows.open_log import open_log
    from flows.outputs import EMBEDDINGS
    from flows.state.task_lock import holding
    from online_model.learner.course import Span, path_of
    from online_model.learner.learner import Site
    from online_model.registry.registry import Registry
    from online_model.training.epoch import reproducible
    from replay.learner import course_for, plan, positions_of, roll_back

    registry = Registry.of(settings)
    number = registry.current().base if base is None else base
    lock = path_of(registry.directory, number).with_suffix(".lock")
    stopping.listen()
    with (
        closing(open_examples(settings)) as examples,
        open_log(settings, EMBEDDINGS, create=True) as embeddings,
        holding(lock, lambda who: f"base {number} is being learned on by another process ({who}); stop that one first"),
        reproducible(torch.device("cpu")),
    ):
        site = Site(registry, examples, embeddings)
        found, course = course_for(site, number)
        span = None
        if skip is not None:
            span = Span(*(positions_of(examples, one) for one in skip))
            if any(end < begin for begin, end in zip(span.begin, span.end, strict=True)) or span.begin == span.end:
                raise InputError(f"--skip: no example lies from {span.begin} up to {span.end}")
        back = positions_of(examples, to) if to is not None else None
        if back is None:
            assert span is not None
            back = span.begin
        elif span is not None:
            back = tuple(map(min, back, span.begin))
        wanted = plan(site, found, course, back, span)
        if dry_run:
            said = f"base {number}: would learn {wanted.records:,} records again, from delta {wanted.after} on; nothing was changed"
            click.echo(json.dumps({"dry_run": True, **asdict(wanted), "records": wanted.records}) if as_json else said)
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(int(course.build.get("threads", 1)))
        try:
            with records_bar(as_json, "learn again") as (advance, total):
                total(wanted.records)
                done = roll_back(site, course, wanted, advance)
        finally:
            torch.set_num_threads(threads)
    if as_json:
        told = {name: getattr(done, name) for name in ("records", "rows", "delta", "finished")}
        click.echo(json.dumps({"dry_run": False, **asdict(done.plan), **told}))
    elif not done.finished:
        click.echo(f"base {number}: stopped after {done.records:,} records; `tidemark learn` goes on from there")
    elif not done.plan.records:
        later = "; the span will be left out when learning comes there" if span is not None else ""
        click.echo(f"base {number}: nothing behind there was learned{later}")
    else:
        click.echo(
            f"base {number}: {done.records:,} records learned again from delta {done.plan.after} on; "
            f"delta {done.delta} tells {done.rows:,} rows that differ from those of delta {done.plan.until}"
        )
