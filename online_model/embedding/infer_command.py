"""`tidemark embed infer`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from flows.run.display import moment
from flows.settings import Settings
from flows.time_option import Time

_ONE = re.compile(r"(\d{1,6}):(\d{1,18})")


class Positions(click.ParamType):
    """Next offsets of ACTIONS: one for each partition (`1200,1187,…`), or of those that are meant alone (`3:1200,5:0`)."""

    name = "positions"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...] | dict[int, int]:
        if isinstance(value, (tuple, dict)):
            return value
        parts = str(value).replace(" ", "").split(",")
        if all(part.isdecimal() and len(part) <= 18 for part in parts):
            return tuple(int(part) for part in parts)
        pairs = [_ONE.fullmatch(part) for part in parts]
        found = {int(pair[1]): int(pair[2]) for pair in pairs if pair is not None}
        if len(found) != len(parts):
            self.fail(
                f"'{value}' says no positions: give an offset for each partition (1200,1187), or PARTITION:OFFSET (3:1200,5:0)", param, ctx
            )
        return found


@click.command(
    "infer", epilog="Example: tidemark embed infer --daily, each night from cron; after a repair: tidemark embed infer --since 3:1200"
)
@click.option(
    "--daily/--full", default=True, show_default=True, help="Those whose actions have changed since the table before, or everyone anew."
)
@click.option(
    "--since",
    type=Positions(),
    help="Infer users with a record at these positions of the log 'actions' or behind, too, whether their actions look changed or not.",
)
@click.option("--as-of", type=Time(), help="Take no later action; by default all that there are.")
@click.option("--version", type=click.IntRange(1), metavar="N", help="By default the one that is served, else the newest.")
@click.option(
    "--vectors",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Parquet (pin_id, vector) with pins that came since; they stay the ones that are retrieved. By default those that it was trained with.",
)
@click.option(
    "--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Of torch. Vectors made with others differ in last bits."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def infer_command(
    settings: Settings,
    daily: bool,
    since: tuple[int, ...] | dict[int, int] | None,
    as_of: int | None,
    version: int | None,
    vectors: Path | None,
    threads: int,
    as_json: bool,
) -> None:
    """Users and pins of a version, as its newest table and index, from what the log holds now.

    A table says which positions it reflects; rows of users whose actions are what they were are kept, which gives the same bytes. Stop it anywhere
    and run it again with the same options: it goes on; with others, what was cut off is given up. The first version is served at once; a later one
    is inferred with --version N, and then switched to (`tidemark embed switch`, or `tidemark models publish` of a ranker that was trained on it).
    """
    # Not before it is needed: torch takes a second to load.
    import torch

    from feature_repo.embedding_table import served_version
    from online_model.embedding.daily import keep_current
    from online_model.embedding.version import version_path
    from online_model.retrain.progress import StageBars

    torch.set_num_threads(threads)
    path = version_path(settings, version if version is not None else served_version(settings.data))
    with StageBars(quiet=as_json) as bars:
        done = keep_current(settings, path, full=not daily, since=_whole(settings, since), as_of=as_of, vectors=vectors, stages=bars)
    said = done.told()
    click.echo(json.dumps(said) if as_json else _summary(said))


def _whole(settings: Settings, since: tuple[int, ...] | dict[int, int] | None) -> tuple[int, ...] | None:
    """A position of each partition: of those that are not meant, one that no record reaches."""
    if since is None:
        return None
    n = settings.partitions
    if isinstance(since, dict):
        if beyond := [partition for partition in since if partition >= n]:
            raise click.UsageError(f"--since: there is no partition {beyond[0]} of log 'actions'; it has {n}, from 0 on")
        return tuple(since.get(partition, 2**62) for partition in range(n))
    if len(since) != n:
        raise click.UsageError(f"--since: {len(since)} positions are given, and log 'actions' has {n} partitions")
    return since


def _summary(said: dict[str, Any]) -> str:
    table, index = said["table"], said["index"]
    rate = f" ({said['users_per_s']:,.0f}/s)" if said["users_per_s"] else ""
    resumed = "went on with what was cut off: " if said["resumed"] else ""
    given_up = f"gave up what was cut off, for {said['given_up']}\n" if said["given_up"] else ""
    if said["new_table"]:
        users = f"{said['inferred']:,} users inferred{rate}, {said['kept']:,} kept" + (f", {said['gone']:,} gone" if said["gone"] else "")
    else:
        users = f"nothing new: all {said['kept']:,} users reflect what the log holds"
    recall = "" if index["recall"]["share"] is None else f", finds {index['recall']['share']:.2%} of the {index['recall']['at']} nearest"
    pins = f"index {index['number']} of {index['pins']:,} pins{' built' if said['new_index'] else ' kept'}{recall}"
    if index["kind"] == "exact":
        pins += f" by exact search, for a graph of these vectors finds {index['graph_share']:.0%} (many pins with one vector?)"
    positions = ",".join(map(str, table["positions"]))
    served = "served" if said["served"] else f"not served: `tidemark embed switch {said['version']}` serves it"
    return (
        f"{given_up}{resumed}version {said['version']} ({served}), table {table['number']}: {users}; {pins}\n"
        f"reflects actions up to {moment(table['as_of'])} UTC, positions {positions}"
    )
