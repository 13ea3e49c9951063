"""Options that the commands of `tidemark skew` share: periods, and how much is taken of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flows.run.display import RateColumn
from flows.skew import check as checks
from flows.time_option import Time


class Period(click.ParamType):
    """`FROM..TO`, either of which may be left out."""

    name = "FROM..TO"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | None, int | None]:
        if isinstance(value, tuple):
            return value
        first, dots, until = str(value).partition("..")
        if not dots:
            self.fail(f"'{value}' is no period: give FROM..TO, as 2026-11-01..2026-11-08", param, ctx)
        return (Time().convert(first, param, ctx) if first else None, Time().convert(until, param, ctx) if until else None)


class Sample(click.ParamType):
    """A number of records, or a share of them."""

    name = "N|RATE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        if isinstance(value, int | float):
            return value
        text = str(value)
        if text.isdecimal() and int(text) > 0:
            return int(text)
        try:
            rate = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            rate = 0.0
        if not 0 < rate <= 1:
            self.fail(f"'{text}' is neither a number of records above 0 nor a share of them (0.01, 1%)", param, ctx)
        return rate


JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@contextmanager
def bars(quiet: bool) -> Iterator[checks.Progress]:
    """Served records and log records as they go by, with rates and the time to go."""
    columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as shown:
        served, log = shown.add_task("served records", total=None), shown.add_task("log records", total=None)
        yield checks.Progress(
            total=lambda n: shown.update(served, total=n),
            served=lambda n: shown.advance(served, n),
            log=lambda n: shown.advance(log, n),
        )
