"""`tidemark embed switch`."""

from __future__ import annotations

import json

import click

from flows.settings import Settings


@click.command("switch", epilog="Example: tidemark embed switch 2; before it: tidemark embed infer --version 2")
@click.argument("version", type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def switch_command(settings: Settings, version: int, as_json: bool) -> None:
    """Serve VERSION from now on: users, pins and index together, by one file that is replaced whole.

    All of it is read and checked before. Servers take it by themselves, within a second. Where the ranker that is served takes user embeddings, its
    version is the one that is served, and `tidemark models publish` of another ranker switches both.
    """
    from online_model.embedding.switch import switch

    found = switch(settings, version)
    table, pins = found.table.manifest, found.pins.manifest
    if as_json:
        click.echo(json.dumps({"version": version, "table": table.number, "users": table.users, "index": pins.number, "pins": pins.pins}))
    else:
        click.echo(
            f"embedding version {version} is served: table {table.number} of {table.users:,} users, index {pins.number} of {pins.pins:,} pins"
        )
