"""Parts of the rows: by time, topic and age of the user."""

from __future__ import annotations

import numpy as np
import pytest

from flows.settings import DAY_MS, HOUR_MS
from online_model.evaluation.metrics import METRICS, OF_ROWS, measure
from online_model.evaluation.report import report, report_json
from online_model.evaluation.slices import MOST_TOPICS, slices
from tests.evaluation.making import columns, rows_of


def test_each_part_is_what_its_rows_are_worth_alone() -> None:
    table = columns(11)
    found = slices(rows_of(table), DAY_MS)
    for part in found.time:
        assert part.start_ms is not None
        of_day = (table["request_time"] >= part.start_ms) & (table["request_time"] < part.start_ms + DAY_MS)
        assert part.heads == measure(rows_of({name: values[of_day] for name, values in table.items()}))
        assert part.rows == of_day.sum()
        assert part.users == len(set(table["user_id"][of_day].tolist()))
    for part in found.topic:
        of_topic = table["topic"] == part.name
        assert part.heads == measure(rows_of({name: values[of_topic] for name, values in table.items()}), OF_ROWS)
    for parts in (found.time, found.topic, found.age):
        assert sum(part.rows for part in parts) == len(table["pin_id"])
    assert [part.start_ms for part in found.time] == sorted(set((table["request_time"] // DAY_MS * DAY_MS).tolist()))
    assert set(found.age[0].heads["save"].metrics) == set(METRICS)


def test_ages_are_whole_days_since_the_first_action() -> None:
    table = columns(11, users=6, requests=1)
    ages = [0, DAY_MS - 1, DAY_MS, 6 * DAY_MS + 5, 7 * DAY_MS, 200 * DAY_MS]
    seen = table["request_time"] - np.array(ages)[(table["user_id"] - 3) // 7]
    rows = rows_of(table)
    first = dict(zip(table["user_id"].tolist(), seen.tolist(), strict=True))
    rows.first_seen[:] = [first[user] for user in rows.user_id.tolist()]
    assert [(part.name, part.users) for part in slices(rows).age] == [
        ("first day", 2),
        ("1–6 days", 2),
        ("7–27 days", 1),
        ("90 days and more", 1),
    ]
    # Without a first action the first request stands for it.
    assert [(part.name, part.users) for part in slices(rows_of(table)).age] == [("first day", 6)]


@pytest.mark.parametrize(("days", "bucket"), [(1, HOUR_MS), (30, DAY_MS), (200, 7 * DAY_MS), (7 * 401, 14 * DAY_MS)])
def test_buckets_are_as_long_as_the_rows_ask_for(days: int, bucket: int) -> None:
    table = columns(11)
    times = np.unique(table["request_time"])
    spread = dict(zip(times.tolist(), np.linspace(0, days * DAY_MS, len(times)).astype(np.int64).tolist(), strict=True))
    table["request_time"] = np.array([spread[time] for time in table["request_time"].tolist()])
    assert slices(rows_of(table)).bucket_ms == bucket


def test_topics_are_those_with_most_rows() -> None:
    table = columns(11, shown=12)
    n = len(table["pin_id"])
    table["topic"] = np.array([f"t{min(i % 90, i % 70):03d}" for i in range(n)])
    found = slices(rows_of(table))
    counts = {name: int((table["topic"] == name).sum()) for name in set(table["topic"].tolist())}
    wanted = sorted(counts, key=lambda name: (-counts[name], name))[:MOST_TOPICS]
    assert [part.name for part in found.topic] == wanted
    assert found.topics == len(counts) > MOST_TOPICS


def test_json_says_what_the_report_says() -> None:
    rows = rows_of(columns(11))
    said = report_json(report(rows, "any"))
    assert said["heads"]["save"]["metrics"]["auc"]["value"] == measure(rows)["save"].metrics["auc"].value  # type: ignore[index]
    assert [one["start"] for one in said["by_time"]] == [part.start_ms for part in slices(rows).time]  # type: ignore[attr-defined]
    assert sum(one["rows"] for one in said["heads"]["save"]["reliability"]) == said["heads"]["save"]["rows"]  # type: ignore[index]
