"""What a report says, as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flows.report.values import Report


def as_json(report: Report) -> dict[str, Any]:
    """Everything that a page says of the history, as numbers."""
    return {
        "as_of": report.as_of,
        "counts": dict(report.counts),
        "deadletters": {reason: by.tolist() for reason, by in report.deadletters.items()},
        "lateness": [asdict(one) for one in report.lateness],
        "saves": report.saves,
        "matured": report.matured,
        "labels": dict(report.labels),
        "clicked_by_day": report.clicked_by_day.tolist(),
        "first_clicked_by_day": report.first_clicked_by_day.tolist(),
        "topics": [asdict(one) for one in report.topics],
        "events": {
            "actions": list(report.actions),
            "days": [{"day": int(day), "records": row.tolist()} for day, row in zip(report.days, report.events, strict=True)],
        },
    }
