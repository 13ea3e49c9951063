"""`tidemark embed evaluate`: the options, and how far it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from flows import stopping
from flows.errors import InputError
from flows.replaceable import refuse_unwritable
from flows.settings import Settings
from online_model.embedding.evaluation.leave_one_out import measure, read_yardstick
from online_model.embedding.evaluation.plan import YARDSTICK, read_plan
from online_model.embedding.evaluation.running import Progress, run
from online_model.embedding.evaluation.tables import TABLES, tables_of
from online_model.embedding.evaluation.told import show_leave_one_out
from online_model.embedding.evaluation.worlds import Worlds
from online_model.embedding.files import read_pairs
from online_model.studies.giving import give

_FILE = click.Path(path_type=Path, dir_okay=False)
_TABLES = "tables"


@click.command(
    "evaluate",
    epilog="Example: tidemark embed evaluate --quick; tidemark embed evaluate --plan mathoverflow --events mathoverflow.parquet --table table2; "
    "tidemark embed evaluate --protocol leave-one-out --sequences ml-1m.txt",
)
@click.option(
    "--protocol", type=click.Choice([_TABLES, YARDSTICK]), default=_TABLES, help="The paper's tables (default), or the public yardstick."
)
@click.option(
    "--plan",
    metavar="NAME|FILE",
    help="simulator (default), mathoverflow, or a TOML file like them: world, split, seeds, positives, what tables vary.",
)
@click.option("--events", type=_FILE, metavar="FILE", help="Of a plan whose world is 'events': Parquet with user, item, action, ts (ms).")
@click.option("--sequences", type=_FILE, metavar="FILE", help="Of leave-one-out: a text file of lines 'user item', a user's in order.")
@click.option("--table", "keys", type=click.Choice(TABLES), multiple=True, help="Only this table; may come several times. By default all.")
@click.option("--quick", is_flag=True, help="A small one, within minutes: shows that it runs, and is too small for claims.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--html", type=_FILE, metavar="FILE", help="Write a page with the tables, too.")
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where worlds and arms are kept, and found again. By default studies/embedding in the data directory.",
)
@click.pass_obj
def evaluate_command(
    settings: Settings,
    protocol: str,
    plan: str | None,
    events: Path | None,
    sequences: Path | None,
    keys: tuple[str, ...],
    quick: bool,
    as_json: bool,
    html: Path | None,
    work: Path | None,
) -> None:
    """Make the tables of PinnerFormer's paper on a world of a plan, or measure HR@10 and NDCG@10 of users' last items.

    Tables: users are split apart, and the last 14 days of all actions are evaluated. Each row stands beside the paper's figure; whether the paper's
    order shows is said with an interval over users and seeds. Which actions on which surfaces are positive is said in the plan ([embedding]
    positives). Nothing is served by this, and no version is made.

    Stopped and run again, it goes on with what is missing.
    """
    _refuse(protocol, events, sequences, keys, html)
    place = work or settings.data / "studies" / "embedding"
    stopping.listen()
    if protocol == YARDSTICK:
        assert sequences is not None
        yardstick = read_yardstick(Path(plan) if plan is not None else None, quick)
        with _bars(as_json) as bars:
            found = measure(read_pairs(sequences), yardstick, place / "checkpoints", lambda what, done, of: bars(what, done, of, 0, 0))
        if as_json:
            click.echo(json.dumps(found, allow_nan=False))
        else:
            show_leave_one_out(found)
        return
    read = read_plan(plan or "simulator", quick)
    tables = tables_of(read, keys or TABLES)
    with _bars(as_json) as bars:
        found = run(read, tables, Worlds(read, settings, events, place), place, quick, bars)
    give(found, "online_model.embedding.evaluation", as_json, html)


def _refuse(protocol: str, events: Path | None, sequences: Path | None, keys: tuple[str, ...], html: Path | None) -> None:
    """Options that make no sense beside each other, before anything takes time."""
    if protocol == YARDSTICK:
        if sequences is None:
            raise InputError(f"--protocol {YARDSTICK} is of a file that you bring; give it: --sequences FILE (lines: user item)")
        for name, given in (("--events", events), ("--table", keys), ("--html", html)):
            if given:
                raise InputError(f"{name} is of --protocol {_TABLES}; leave it out")
    elif sequences is not None:
        raise InputError(f"--sequences {sequences} is of --protocol {YARDSTICK}; name it, or leave --sequences out")
    refuse_unwritable(html)


@contextmanager
def _bars(quiet: bool) -> Iterator[Progress]:
    """A bar of all arms with the time to go, and one of what is at hand."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as shown:
        every = shown.add_task("arms", total=None, visible=False)
        at_hand = shown.add_task("", total=None)
        before = ""

        def progress(what: str, done: int, of: int, arms: int, of_arms: int) -> None:
            nonlocal before
            if of_arms:
                shown.update(every, completed=arms, total=of_arms, visible=True)
            if what != before:
                # A bar knows the pace of what it has shown: of something else it would tell a wrong time.
                shown.reset(at_hand, description=what, total=of or None)
                before = what
            shown.update(at_hand, completed=done, total=of or None)

        yield progress
