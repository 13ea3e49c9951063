"""`tidemark evaluate served`."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import click
from rich.console import Console

from flows.examples.store import open_examples
from flows.export import write_tables
from flows.replaceable import refuse_unwritable
from flows.settings import Settings
from flows.time_option import Time
from online_model.evaluation.report import report, report_json
from online_model.evaluation.served import served_rows
from online_model.evaluation.told import show_report

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog="Example: tidemark evaluate served --from 2026-11-01 --html served.html")
@click.option("--from", "since", type=Time(), help="First request, ISO 8601 or ms.")
@click.option("--to", "until", type=Time(), help="First request that is no longer wanted.")
@click.option("--out", type=_FILE, metavar="FILE", help="Write the scored rows as Parquet, too, for `tidemark evaluate scores` and others.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--html", type=_FILE, metavar="FILE", help="Write a page with plots, too.")
@click.pass_obj
def served(settings: Settings, since: int | None, until: int | None, out: Path | None, as_json: bool, html: Path | None) -> None:
    """Metrics of what /v1/rank has ranked, for each base that has: the current one's, a canary's, the holdout's.

    Pins count that were shown and whose outcomes are final. Requests are ranked by the score that was served, for all heads. Bases rank for
    users of their own, so figures of two are no scorings of the same rows; `tidemark evaluate scores` compares such.
    """
    if since is not None and until is not None and until <= since:
        raise click.UsageError("--to must be later than --from")
    refuse_unwritable(html)
    with Console(stderr=True).status("reading what was served, and measuring"):
        with closing(open_examples(settings)) as examples:
            found = served_rows(examples, since, until)
        reports = {base: report(rows, f"base {base}") for base, rows in found.by_base().items()}
    if out is not None:
        table = found.table()
        write_tables(out, table.schema, iter([table]), {})
    if html is not None:
        # Matplotlib takes most of a second to import, and only pages need it.
        from online_model.evaluation.page import write_page

        write_page(list(reports.values()), None, html)
    if as_json:
        counts = {"rows": len(found.records), "explored": found.explored, "unranked": found.unranked}
        click.echo(json.dumps({**counts, "bases": {base: report_json(one) for base, one in reports.items()}}, allow_nan=False))
        return
    for one in reports.values():
        show_report(one)
    click.echo(f"{len(found.records):,} pins, {found.explored:,} of them placed by chance; {found.unranked:,} more were ranked by no model")
    for written, what in ((out, "scored rows"), (html, "open it in a browser")):
        if written is not None:
            click.echo(f"{written}: {what}")
