"""`tidemark examples export`."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import click

from flows.examples.export import write_examples
from flows.examples.files import ExampleDirectory
from flows.examples.store import final_rows, open_examples, positions_at
from flows.settings import Settings
from flows.state.actions_task import state_fingerprint
from flows.time_option import Time

# A sequence of 100 actions takes 4 kB in columns, and each row has its own.
_CHUNK_ROWS = 16_384


@click.command(epilog="Example: tidemark examples export examples.parquet --from 2026-11-01")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--from", "first", type=Time(), help="First time at which a row became known, ISO 8601 or ms.")
@click.option("--to", "until", type=Time(), help="Time that is no longer wanted.")
@click.option(
    "--examples",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="What `tidemark backfill --out` made, instead of the log.",
)
@click.option(
    "--any-fingerprint", is_flag=True, help="Take rows too that were made under other features or settings, if all are of the same."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def export(
    settings: Settings, out: Path, first: int | None, until: int | None, directory: Path | None, any_fingerprint: bool, as_json: bool
) -> None:
    """Write final examples to the Parquet file OUT: a row for each, a column for each label and feature, for DuckDB, pandas or anything else.

    A label is null where a row says nothing of it. A pin that was saved has two rows: what came of it at once, and after a week whether it was
    come back to.
    """
    if first is not None and until is not None and until <= first:
        raise click.UsageError("--to must be later than --from")
    vocabulary = settings.load_vocabulary()
    with closing(ExampleDirectory(directory) if directory is not None else open_examples(settings)) as examples:
        begin = positions_at(examples, first) if first is not None else None
        end = positions_at(examples, until) if until is not None else None
        wanted = None if any_fingerprint else state_fingerprint(settings, vocabulary)
        rows = write_examples(out, final_rows(examples, begin, end, wanted, _CHUNK_ROWS), vocabulary)
    click.echo(json.dumps({"rows": rows, "out": str(out)}) if as_json else f"{out}: {rows:,} rows")
