"""`tidemark models publish | rollback | canary`: change what is served. Each is one atomic replacement of `current.json`, or nothing."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from flows.directories import translated
from flows.errors import InputError
from flows.settings import Settings
from online_model.registry import durable
from online_model.registry.bases import Base
from online_model.registry.commands.options import BASE, DRY, JSON, Share, deltas, now, working
from online_model.registry.current import Current, Start
from online_model.registry.errors import RegistryError, RoleError
from online_model.registry.manifest import MANIFEST, Manifest
from online_model.registry.registry import Registry


@click.command(
    epilog="Example: tidemark models publish 12 --dry-run; from another installation: tidemark models publish /mnt/models/bases/12"
)
@click.argument("model", metavar="BASE|DIRECTORY")
@click.option("--candidate", is_flag=True, help="Of a directory: take it in as a base, and serve it to nobody yet.")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Then delete all but the newest N bases, and what is in use.")
@click.option("--keep-snapshots", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="With --keep: of each base.")
@click.option("--anew", is_flag=True, help="Where current.json is damaged: forget history, canary and holdout, and write it anew.")
@DRY
@JSON
@click.pass_obj
def publish(
    settings: Settings, model: str, candidate: bool, keep: int | None, keep_snapshots: int, anew: bool, dry_run: bool, as_json: bool
) -> None:
    """Serve a base from now on, to all who get no canary or holdout.

    BASE is a number; a DIRECTORY with a base's files and its manifest, from a copy or another installation, becomes the base with the next number
    first. All of it is read and checked before, and consumers begin at its newest sound snapshot, or with its own rows. Nothing changes if
    anything is wrong. A learner of the base that was served is refused its next delta, and goes on with this one. This asks no gate: `tidemark
    retrain` does.
    """
    registry = Registry.of(settings)
    with working(as_json, "reading models"):
        if model.isdecimal() and not candidate:
            base = registry.base(int(model))
        else:
            taken = _take_in(registry, Path(model), dry_run)
            if taken is None or candidate:
                _tell(as_json, {"dry_run": dry_run, "base": taken.number if taken else None, "served": None}, _taken_in(model, taken))
                return
            base = taken
        with deltas(settings, _left(registry, dry_run)) as (end, fits):
            start = registry.start_for(base, end, fits)
            after = registry.switched(start, now(), "published", anew)
            if not dry_run:
                registry.switch(start, now(), "published", anew)
        swept = None
        if keep is not None:
            swept = registry.unneeded(after, keep, keep_snapshots) if dry_run else registry.sweep(keep, keep_snapshots)
    told = {"dry_run": dry_run, "base": base.number, "start": asdict(start), "swept": asdict(swept) if swept else None}
    _tell(as_json, told, _served(start, dry_run))
    if swept and not as_json and (swept.bases or swept.snapshots):
        click.echo(f"{'would delete' if dry_run else 'deleted'} {len(swept.bases)} bases and {len(swept.snapshots)} snapshots")


def _take_in(registry: Registry, directory: Path, dry_run: bool) -> Base | None:
    """A copy of a directory as a new base; None in a dry run."""
    if not directory.is_dir():
        raise InputError(f"{directory} is neither the number of a base nor a directory; `tidemark models list` shows which bases there are")
    manifest = Manifest.from_bytes(durable.read(directory / MANIFEST), str(directory / MANIFEST))
    Base(directory, manifest).verify()
    registry.bases.expected.check(manifest.about, f"model {directory}")
    if dry_run:
        return None
    with registry.draft() as draft:
        with translated(f"can't copy {directory}"):
            for name in manifest.files:
                shutil.copyfile(directory / name, draft / name, follow_symlinks=False)
        # What was copied is what was checked.
        Base(draft, manifest).verify()
        return registry.publish(draft, manifest.about)


def _left(registry: Registry, dry_run: bool) -> int | None:
    """The base whose learner must stop before another is served."""
    if not dry_run:
        with suppress(RegistryError):
            return registry.current().base
    return None


def _taken_in(model: str, base: Base | None) -> str:
    if base is None:
        return f"{model} is sound, and would become a base; nothing was changed"
    return f"{model} is base {base.number} now; nobody is served it yet: `tidemark models publish {base.number}`"


@click.command(epilog="Example: tidemark models rollback")
@click.option("--to", type=BASE, metavar="BASE", help="This base, instead of the one that was served before.")
@DRY
@JSON
@click.pass_obj
def rollback(settings: Settings, to: int | None, dry_run: bool, as_json: bool) -> None:
    """Serve what was served before: the latest base before this one that is sound, with its newest sound snapshot. Twice goes back twice.

    Its deltas since the snapshot are read again, and those of the base that is left are passed over.
    """
    registry = Registry.of(settings)
    before = registry.current()
    with working(as_json, "reading models"), deltas(settings, _left(registry, dry_run)) as (end, fits):
        start = registry.rolled_back(before, end, fits, to)
        if not dry_run:
            registry.switch(start, now(), f"rolled back from base {before.base}", back=True)
    told = {"dry_run": dry_run, "from": before.base, "base": start.base, "start": asdict(start)}
    _tell(as_json, told, _served(start, dry_run))


@click.command(epilog="Example: tidemark models canary 13 --share 5%; to end it: tidemark models canary --off")
@click.argument("base", type=BASE, required=False)
@click.option("--share", type=Share(), help="Of the users: 0.05, 5%.")
@click.option("--holdout", is_flag=True, help="A holdout for long, beside any canary: a user of both gets the holdout.")
@click.option("--salt", default="", metavar="TEXT", help="Decides which users; the same TEXT and share pick the same users.")
@click.option("--off", is_flag=True, help="End it.")
@DRY
@JSON
@click.pass_obj
def canary(
    settings: Settings, base: int | None, share: float | None, holdout: bool, salt: str, off: bool, dry_run: bool, as_json: bool
) -> None:
    """Give a share of the users another base than the one that is served.

    Which users is a function of their IDs alone, so that a user keeps a base for as long as nothing is changed here. Each canary draws other users,
    unless --salt says which; the holdout keeps its own.
    """
    if off == (base is not None) or (base is None) != (share is None):
        raise click.UsageError("say which base and what share (tidemark models canary 13 --share 5%), or --off")
    registry, role = Registry.of(settings), "holdout" if holdout else "canary"
    with deltas(settings) as (end, fits), working(as_json, "reading models"):
        start = registry.start_for(registry.base(base), end, fits) if base is not None else None
        if dry_run:
            current = registry.given(registry.current(), role, start, share or 0.0, salt)
        else:
            current = registry.give(role, start, share or 0.0, salt)
    told = {"dry_run": dry_run, "role": role, "base": base, "current": asdict(current)}
    verb = "would get" if dry_run else "get"
    _tell(
        as_json,
        told,
        f"no {role} {'would be left' if dry_run else 'any more'}"
        if base is None
        else f"{_users(current, role)} {verb} base {base} ({role})",
    )


def _users(current: Current, role: str) -> str:
    given = current.holdout if role == "holdout" else current.canary
    if given is None:
        raise RoleError(f"there is no {role}")
    return f"{given.buckets / 100:g} % of the users"


def _served(start: Start, dry_run: bool) -> str:
    verb = "would be" if dry_run else "is"
    rows = f"its snapshot of delta {start.delta}" if start.delta else "its own rows"
    return f"base {start.base} {verb} served from now on; consumers begin with {rows}, at offset {start.position} of embeddings"


def _tell(as_json: bool, told: dict[str, Any], text: str) -> None:
    click.echo(json.dumps(told) if as_json else text)
