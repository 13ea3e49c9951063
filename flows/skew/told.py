"""What a check found, as one JSON object and in the terminal. The same numbers in both, and nothing that the check did not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from flows.features import SEQUENCE_FIELDS
from flows.run.display import console_for_tables, moment
from flows.skew.check import Checked, Found
from flows.skew.explaining import Difference
from flows.skew.names import COLUMNS, ENTITY, ROW, SEQUENCE, VIEWS, Feature
from flows.skew.recomputing import Apart
from flows.skew.tallies import Figures

_WORST = 15
_FEW = 8
"""Columns of an example that are shown; all are named."""


def as_json(checked: Checked) -> dict[str, Any]:
    """Everything."""
    question = checked.question
    return {
        "from": question.first,
        "to": question.until,
        "sample": question.sample,
        "seed": question.seed,
        "fingerprint": checked.fingerprint,
        "records": checked.records,
        "first_request": checked.first,
        "last_request": checked.last,
        "rows": {VIEWS[kind]: n for kind, n in checked.rows.items()},
        "compared": checked.compared,
        "proved": not checked.unproved,
        "apart": checked.apart,
        "differing": checked.differing,
        "findings": checked.findings,
        "features": [_figures(one) for one in checked.figures],
        "sequence_entries": {"inserted": checked.entries[0], "deleted": checked.entries[1]},
        "causes": [_found(one) for one in checked.causes],
        "log_records_read": checked.log_records,
        "seconds": round(checked.seconds, 3),
    }


def in_short(checked: Checked) -> dict[str, Any]:
    """What a page says of a check."""
    wrong = sorted((one for one in checked.figures if one.equal < one.rows), key=lambda one: one.match_rate)
    return {
        "records": checked.records,
        "compared": checked.compared,
        "differing": checked.differing,
        "apart": checked.apart,
        "findings": checked.findings,
        "unproved": checked.unproved,
        "first_request": checked.first,
        "last_request": checked.last,
        "causes": [
            {"cause": one.cause.name, "meaning": one.cause.meaning, "benign": one.cause.benign, "rows": one.total} for one in checked.causes
        ],
        "features": [{"feature": one.feature.name, "match_rate": one.match_rate} for one in wrong[:_FEW]],
        "seconds": checked.seconds,
    }


def _figures(one: Figures) -> dict[str, Any]:
    out: dict[str, Any] = {
        "feature": one.feature.name,
        "rows": one.rows,
        "equal": one.equal,
        "match_rate": one.match_rate if one.rows else None,
        "missing": one.missing,
        "extra": one.extra,
        "differing": one.differing,
        "max_difference": one.max_difference,
        "smape": one.smape,
    }
    if one.inserted is not None:
        out |= {"inserted": one.inserted, "deleted": one.deleted, "other_length": one.other_length}
    return out


def _found(one: Found) -> dict[str, Any]:
    return {
        "cause": one.cause.name,
        "meaning": one.cause.meaning,
        "benign": one.cause.benign,
        "rows": one.total,
        "by_view": {VIEWS[kind]: n for kind, n in sorted(one.rows.items())},
        "details": dict(one.details.most_common()),
        "features": {Feature(kind, column).name: n for (kind, column), n in sorted(one.columns.items())},
        "examples": [example(row) for row in one.examples],
    }


def example(row: Difference | Apart) -> dict[str, Any]:
    """A row to look at."""
    out: dict[str, Any] = {
        "request_id": row.request_id,
        "timestamp": row.timestamp,
        "view": VIEWS[row.kind],
        ENTITY[row.kind]: row.entity,
    }
    if isinstance(row, Apart):
        return out
    out["as_of"] = row.as_of
    out["found"] = {"served": row.found[0], "recomputed": row.found[1]}
    out["features"] = [
        {"feature": COLUMNS[row.kind][column], "served": _value(row, row.served, column), "recomputed": _value(row, row.recomputed, column)}
        for column in row.wrong[:_FEW]
    ]
    out["more_features"] = max(0, len(row.wrong) - _FEW)
    if row.kind == SEQUENCE:
        out["first_entry_that_differs"] = _first(row.served, row.recomputed)
        out["entries"] = {"served": len(row.served), "recomputed": len(row.recomputed)}
    return out


def _value(row: Difference, side: np.ndarray, column: int) -> Any:
    """A number; of a sequence the entry from which on the sides differ, None if there is none."""
    if row.kind != SEQUENCE:
        return side[column].item()
    at = _first(row.served[:, [column]], row.recomputed[:, [column]])
    return int(side[at, column]) if at < len(side) else None


def _first(served: np.ndarray, recomputed: np.ndarray) -> int:
    """The first entry that isn't the same on both sides."""
    shared = min(len(served), len(recomputed))
    apart = np.flatnonzero((served[:shared] != recomputed[:shared]).any(axis=1))
    return int(apart[0]) if len(apart) else shared


def shown(examples: Sequence[Difference | Apart], most: int) -> Sequence[Difference | Apart]:
    """The first few of them, one of each kind of row at least."""
    return examples[: max(most, len({row.kind for row in examples}))]


def show(checked: Checked) -> None:
    """For people."""
    console = console_for_tables()
    console.print(_by_feature(checked))
    if checked.causes:
        table = Table("cause", "rows", "a finding", "what exactly", "means", title="Causes", title_justify="left", box=box.SIMPLE)
        for one in checked.causes:
            details = ", ".join(f"{name} ({n:,})" for name, n in one.details.most_common(3))
            table.add_row(one.cause.name, f"{one.total:,}", "no" if one.cause.benign else "yes", details, one.cause.meaning)
        console.print(table)
        for one in (one for one in checked.causes if not one.cause.benign):
            for row in shown(one.examples, 2):
                console.print(f"{one.cause.name}: {_line(row)}", markup=False, highlight=False, soft_wrap=True)
    console.print(summary(checked), markup=False, highlight=False, soft_wrap=True)


def summary(checked: Checked) -> str:
    """One line."""
    reach = f", requests of {moment(checked.first)} to {moment(checked.last)}" if checked.first is not None else ""
    rate = checked.compared / max(checked.seconds, 1e-9)
    proved = "; nothing is proved" if checked.unproved else ""
    return (
        f"{checked.compared:,} rows of {checked.records:,} records compared{reach}: {checked.differing:,} differ, {checked.apart:,} could not be "
        f"compared; {checked.findings:,} findings{proved}; {checked.seconds:.1f} s, {rate:,.0f} rows/s"
    )


def _by_feature(checked: Checked) -> Table:
    table = Table(title="Served and recomputed, by bits", title_justify="left", box=box.SIMPLE)
    table.add_column("feature", no_wrap=True)
    for heading in ("rows", "equal", "missing", "extra", "differ", "max difference", "SMAPE", "edits"):
        table.add_column(heading, justify="right")
    wrong = sorted((one for one in checked.figures if one.equal < one.rows), key=lambda one: one.match_rate)
    right: dict[tuple[str, int], int] = {}
    for one in checked.figures:
        if one.equal == one.rows:
            key = one.feature.kind, one.rows
            right[key] = right.get(key, 0) + 1
    for one in wrong[:_WORST]:
        edits = f"+{one.inserted:,} −{one.deleted:,}" if one.inserted is not None else ""
        name = f"{ENTITY[one.feature.kind]} {COLUMNS[one.feature.kind][one.feature.column]}"
        counts = (f"{n:,}" for n in (one.missing, one.extra, one.differing))
        far = f"{one.max_difference:g}" if one.max_difference is not None else ""
        smape = f"{one.smape:.2g}" if one.smape is not None else ""
        table.add_row(name, f"{one.rows:,}", _share(one.match_rate), *counts, far, smape, edits)
    if len(wrong) > _WORST:
        table.add_row(f"and {len(wrong) - _WORST} more that differ (--json has all)", *[""] * 8)
    for (kind, rows), features in right.items():
        other = "other " * any(one.feature.kind == kind for one in wrong)
        table.add_row(f"{ROW[kind]}: {features} {other}feature{'s' * (features != 1)}", f"{rows:,}", "100 %" if rows else "–", *[""] * 6)
    return table


def _share(rate: float) -> str:
    # Never rounded to a whole that it isn't.
    return f"{min(100 * rate, 99.999):.3f} %"


def _line(row: Difference | Apart) -> str:
    told = example(row)
    where = f"request {row.request_id} at {moment(row.timestamp)}, {ENTITY[row.kind]} {row.entity}"
    if isinstance(row, Apart):
        return where
    where += ", served → recomputed"
    values = "; ".join(f"{one['feature']} {one['served']} → {one['recomputed']}" for one in told["features"][:3])
    if row.kind == SEQUENCE:
        names = ", ".join(SEQUENCE_FIELDS[column] for column in row.wrong)
        return f"{where}: entry {told['first_entry_that_differs']} on ({names}): {values}"
    return f"{where}: {values}" + (f" and {len(row.wrong) - 3} more" if len(row.wrong) > 3 else "")
