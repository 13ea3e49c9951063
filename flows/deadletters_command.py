"""`tidemark deadletters list|show|redrive`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click
import orjson
from rich.table import Table
from rich.text import Text

from flows import deadletters as letters
from flows.deadletters import DeadLetter
from flows.errors import InputError, SettingsError, one_line
from flows.events import EVENT_SCHEMA
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.run.display import console_for_tables
from flows.settings import Settings
from flows.vocabulary import suggestion


@click.group(epilog="Example: tidemark deadletters list")
def deadletters() -> None:
    """Records that the actions flow couldn't take: look at them, and put them back after a fix."""


@deadletters.command("list", epilog="Example: tidemark deadletters list --reason unknown_action")
@click.option("--reason", help="Only those with this reason.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(0), help="How many of the newest to show.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def list_(settings: Settings, reason: str | None, limit: int, as_json: bool) -> None:
    """Number of dead letters by reason, and the newest."""
    by_reason = letters.counts(settings)
    shown = letters.newest(settings, limit, reason)
    with open_log(settings, ACTIONS, read_only=True) as actions:
        done = [letters.is_redriven(actions, letter) for letter in shown]
    if as_json:
        entries = [_as_dict(letter) | {"redriven": flag} for letter, flag in zip(shown, done, strict=True)]
        click.echo(json.dumps({"reasons": by_reason, "total": sum(by_reason.values()), "newest": entries}))
        return
    if not by_reason:
        click.echo("no dead letters")
        return
    counted = Table("reason", "records", title=f"{sum(by_reason.values()):,} dead letters", title_justify="left")
    for name, count in by_reason.items():
        counted.add_row(name, f"{count:,}")
    console = console_for_tables()
    console.print(counted)
    if reason is not None and reason not in by_reason:
        click.echo(f"no dead letter has the reason '{reason}'{suggestion(reason, by_reason)}")
    if shown:
        click.echo(f"The newest {len(shown)} (`tidemark deadletters show ID` has all of one):")
        width = max(len(letter.id) for letter in shown)
        for letter, flag in zip(shown, done, strict=True):
            detail = f"{'(re-driven) ' * flag}{one_line(letter.detail)}"
            line = Text(f"{letter.id:<{width}}  {_moment(letter.timestamp)[:19]}  {letter.reason}: {detail}")
            # One line of a terminal each; whoever reads them from elsewhere has all of it.
            console.print(line, no_wrap=True, overflow="ellipsis" if console.is_terminal else "ignore", crop=console.is_terminal)


@deadletters.command(epilog="Example: tidemark deadletters show 3:1041")
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def show(settings: Settings, id: str, as_json: bool) -> None:
    """The dead letter ID (partition:offset), with the record as it came."""
    [letter] = letters.find(settings, [id])
    with open_log(settings, ACTIONS, read_only=True) as actions:
        done = letters.is_redriven(actions, letter)
    if as_json:
        click.echo(json.dumps(_as_dict(letter) | {"redriven": done}))
        return
    click.echo(f"id         {letter.id} of log '{letter.log}'")
    click.echo(f"arrival    {letter.timestamp} ({_moment(letter.timestamp)})")
    click.echo(f"reason     {letter.reason}: {letter.detail}")
    click.echo(f"re-driven  {'yes' if done else 'no'}")
    click.echo(
        f"record     {letter.size} bytes" + (f", of which the first {len(letter.raw)} are kept; {_place(letter)}" if letter.cut else "")
    )
    try:
        click.echo(orjson.dumps(orjson.loads(letter.raw), option=orjson.OPT_INDENT_2).decode())
    except orjson.JSONDecodeError:
        click.echo(letter.raw.decode("utf-8", "backslashreplace"))


@deadletters.command(epilog="Example: tidemark deadletters redrive --reason unknown_action --dry-run")
@click.option("--id", "ids", multiple=True, metavar="ID", help="This one (may be given several times).")
@click.option("--reason", help="All with this reason.")
@click.option("--all", "everything", is_flag=True, help="All.")
@click.option("--set", "changes", multiple=True, metavar="FIELD=JSON", help="""Set a field of each, e.g. --set 'action="save"'.""")
@click.option("--arrival", type=click.Choice(["now", "original"]), default="now", show_default=True, help="Their new arrival time.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def redrive(
    settings: Settings,
    ids: tuple[str, ...],
    reason: str | None,
    everything: bool,
    changes: tuple[str, ...],
    arrival: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Append dead letters to the ACTIONS log again, for the flow to judge anew. Each goes back at most once."""
    if (bool(ids) + (reason is not None) + everything) != 1:
        raise SettingsError("say which dead letters: one of --id ID..., --reason REASON, --all")
    fields = _fields(changes)
    chosen = letters.select(settings, ids, reason)
    for letter in chosen if ids else ():
        if letter.cut:
            raise InputError(
                f"dead letter {letter.id} can't be re-driven: of its {letter.size} bytes the first {len(letter.raw)} are kept, and it would be "
                f"too large again; {_place(letter)}: append a smaller record in its stead"
            )
    with open_log(settings, ACTIONS, read_only=dry_run) as actions:
        result = letters.redrive(actions, chosen, fields, arrival == "original", dry_run)
    if as_json:
        click.echo(json.dumps({"redriven": result.redriven, "before": result.before, "cut": result.cut, "dry_run": dry_run}))
        return
    what = "would be re-driven" if dry_run else "re-driven"
    before = f"; {result.before:,} had been before" if result.before else ""
    cut = f"; {result.cut:,} left out, of which only the start is kept" if result.cut else ""
    click.echo(f"{result.redriven:,} {what}{before}{cut}")


def _place(letter: DeadLetter) -> str:
    return f"the whole lies in log '{letter.log}', partition {letter.partition}, offset {letter.offset}"


def _fields(changes: tuple[str, ...]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    known = [name for name in EVENT_SCHEMA.names if name != "timestamp"]
    for text in changes:
        name, sign, value = text.partition("=")
        if not sign:
            raise SettingsError(f"--set: '{text}' is not FIELD=JSON")
        if name not in known:
            raise SettingsError(f"--set: there is no field '{name}'{suggestion(name, known)}; fields: {', '.join(known)}")
        try:
            fields[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise SettingsError(
                f"--set {name}: {value} is not JSON; a text needs double quotes within: --set '{name}=\"{value}\"'"
            ) from None
    return fields


def _moment(timestamp: int) -> str:
    try:
        return datetime.fromtimestamp(timestamp / 1000, UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")
    except (ValueError, OverflowError, OSError):
        return str(timestamp)


def _as_dict(letter: DeadLetter) -> dict[str, Any]:
    out: dict[str, Any] = {"id": letter.id} | {name: getattr(letter, name) for name in DeadLetter.__dataclass_fields__}
    try:
        out["raw"] = letter.raw.decode("utf-8")
    except UnicodeDecodeError:
        del out["raw"]
        out["raw_hex"] = letter.raw.hex()
    return out
