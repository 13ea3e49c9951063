"""What a report counts of the logs is what loops over what was written to them count."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.corrections.history import History
from flows.corrections.record import Correction, Made, places_of
from flows.deadletters import counts as letters_by_reason
from flows.errors import DataDirectoryError
from flows.events import EVENT_SCHEMA, heartbeat
from flows.examples.record import EXAMPLES, HEADS
from flows.outputs import ACTIONS, SERVED
from flows.settings import HOUR_MS
from flows.skew.names import VIEWS
from flows.trends import labels as labels_module
from flows.trends import told
from flows.trends.gathering import Progress, gather
from flows.trends.labels import OTHER
from flows.trends.sums import Counting, Period
from tests import driving
from tests.examples.playing import DAY, HOUR, START
from tests.oracles import trends as oracle
from tests.trends.sites import Site

MIDDLE, END = START + 3 * DAY, START + 6 * DAY
PERIODS = [
    Counting(),
    Counting(size_ms=HOUR_MS),
    Counting(Period(START + DAY + 1, END - DAY - 7)),
    Counting(Period(MIDDLE), Period(START, MIDDLE)),
    Counting(Period(None, MIDDLE + HOUR), Period(MIDDLE - HOUR + 1, None), 10 * 60_000),
]


def said_of(site: Site, counting: Counting) -> dict[str, Any]:
    return told.as_json(gather(site.settings, counting))


def wanted(site: Site, counting: Counting) -> dict[str, Any]:
    """The same by the oracle."""
    first, until = counting.period.first, counting.period.until
    labels = oracle.labels(site.examples, HEADS)
    rows = [(request["time"], row) for request in site.served for row in oracle.served_rows(request)]
    logs = [[time for time, *_ in log] for log in (site.records, [(t,) for t in site.late], [(t,) for t in site.dead], rows, labels)]
    size = counting.size_ms or oracle.size_of([[t for t in times if oracle.within(t, first, until)] for times in logs])
    starts = sorted({t - t % size for times in logs for t in times if oracle.within(t, first, until)})
    middle = starts[0] + ((starts[-1] - starts[0]) // size + 1) // 2 * size

    def before(time: int) -> bool:
        if counting.reference is not None:
            return oracle.within(time, counting.reference.first, counting.reference.until)
        return oracle.within(time, first, until) and time - time % size < middle

    def now(time: int) -> bool:
        return oracle.within(time, first, until) and (counting.reference is not None or time - time % size >= middle)

    def sides(rows: list[tuple[int, Any]]) -> list[Counter[Any]]:
        return [Counter(key for time, key in rows if side(time)) for side in (before, now)]

    def stretches(rows: list[tuple[int, Any]]) -> dict[int, Counter[Any]]:
        return oracle.by_stretch(rows, size, first, until)

    acted = [(time, action) for time, action in site.records if action != "malformed"]
    reference, present = sides(acted)
    covered = [
        (time, key)
        for time, (kind, found, defaulted, there) in rows
        for key in [
            (kind, "rows"),
            *[(kind, "found")] * found,
            *[(kind, "defaulted")] * defaulted,
            *((kind, i) for i, v in enumerate(there) if v),
        ]
    ]
    positives = [(time, (head, what)) for time, _, head, what in labels]
    by_topic = Counter((topic, head, what) for time, topic, head, what in labels if oracle.within(time, first, until))
    return {
        "size": size,
        "reference": (reference, sides(covered)[0], sides(positives)[0]),
        "now": (present, sides(covered)[1], sides(positives)[1]),
        "actions": stretches(acted),
        "records": stretches([(time, "records") for time, _ in site.records]),
        "late": stretches([(time, "late") for time in site.late]),
        "dead": stretches([(time, "dead") for time in site.dead]),
        "coverage": stretches(covered),
        "labels": stretches(positives),
        "topics": by_topic,
    }


@pytest.mark.parametrize("counting", PERIODS, ids=["all", "by hour", "within", "held against", "overlapping"])
def test_numbers_are_those_of_the_oracle(site: Site, counting: Counting) -> None:
    said, want = said_of(site, counting), wanted(site, counting)
    assert said["stretch_ms"] == want["size"]
    reference, present = want["reference"], want["now"]
    actions = said["actions"]
    assert (nonzero(actions["reference"]), nonzero(actions["now"])) == (reference[0], present[0])
    assert actions["psi"] == pytest.approx(oracle.psi(reference[0], present[0]), nan_ok=True)
    # A stretch that holds malformed records alone has no action.
    assert {row["from"]: c for row in actions["over_time"] if (c := nonzero(row["records"]))} == want["actions"]
    for row in actions["over_time"]:
        assert row["psi"] == pytest.approx(oracle.psi(reference[0], Counter(row["records"])))
    for name in ("records", "late", "dead"):
        found = {row["from"]: row[name] for row in said["volume"]["over_time"] if row[name]}
        assert found == {start: counts[name] for start, counts in want[name].items()}
        assert said["volume"][name] == sum(found.values())
    assert sum(said["volume"]["deadletters"].values()) == said["volume"]["dead"]
    check_coverage(said["coverage"], want)
    check_labels(said["labels"], want)


def check_coverage(said: dict[str, Any], want: dict[str, Any]) -> None:
    before, now = want["reference"][1], want["now"][1]
    place: Counter[str] = Counter()
    for one in said["features"]:
        view = one["feature"].partition(":")[0]
        kind = next(kind for kind, name in VIEWS.items() if name == view)
        key = (kind, place[kind])
        place[kind] += 1
        assert (one["rows"], one["with_value"]) == (now[kind, "rows"], now[key]), one
        assert one["coverage"] == share(now[key], now[kind, "rows"])
        assert one["reference"] == share(before[key], before[kind, "rows"])
        got = {row["from"]: n for row in said["over_time"] if (n := row["with_value"][one["feature"]])}
        assert got == {start: counts[key] for start, counts in want["coverage"].items() if counts[key]}
    assert place == {"sequence": 1, "user": 24, "pin": 24, "topic": 15}
    for kind, view in VIEWS.items():
        shown = said["views"][view]
        assert (shown["rows"], shown["found"], shown["defaulted"]) == tuple(now[kind, what] for what in ("rows", "found", "defaulted"))
        for row in said["over_time"]:
            counts = want["coverage"][row["from"]]
            assert (row["views"][view]["rows"], row["views"][view]["found"]) == (counts[kind, "rows"], counts[kind, "found"])
    assert {row["from"] for row in said["over_time"]} == set(want["coverage"])


def check_labels(said: dict[str, Any], want: dict[str, Any]) -> None:
    for name, counts in (("reference", want["reference"][2]), ("now", want["now"][2])):
        check_heads(said[name], counts)
    for row in said["over_time"]:
        check_heads(row["heads"], want["labels"].get(row["from"], Counter()))
    assert {row["from"] for row in said["over_time"]} >= set(want["labels"])
    for one in said["topics"]:
        check_heads(one["heads"], Counter({(head, what): n for (topic, head, what), n in want["topics"].items() if topic == one["topic"]}))
    assert {one["topic"] for one in said["topics"]} == {topic for topic, _, _ in want["topics"]}


def check_heads(said: dict[str, Any], counts: Counter[Any]) -> None:
    for head in HEADS:
        labels, positives = counts[head, "label"], counts[head, "positive"]
        assert said[head] == {"labels": labels, "positives": positives, "rate": share(positives, labels)}


def share(count: int, total: int) -> float | None:
    return count / total if total else None


def nonzero(counts: dict[str, int]) -> Counter[str]:
    return Counter({name: n for name, n in counts.items() if n})


def test_the_site_holds_what_makes_a_difference(site: Site) -> None:
    """Or the tests above would show little."""
    want = wanted(site, Counting())
    assert len(site.late) > 20
    assert len(site.dead) > 20
    assert {action for _, action in site.records} > {"malformed", "save", "impression"}
    assert oracle.psi(want["reference"][0], want["now"][0]) > 0.2
    before, now = (side[1]["user", "found"] / side[1]["user", "rows"] for side in (want["reference"], want["now"]))
    assert now < before - 0.2


def test_reasons_are_those_that_flows_gave(site: Site) -> None:
    found = said_of(site, Counting())["volume"]["deadletters"]
    assert found == letters_by_reason(site.settings)
    assert found["future_time"] == site.future
    assert len(found) > 3


def test_a_task_that_was_killed_counts_nothing_twice(site: Site) -> None:
    with driving.open_log(site.settings, EXAMPLES) as log:
        put_out = sum(batch.records.num_rows for p in range(log.partitions) for batch in log.read(p, 0, 1 << 20))
    assert put_out > len(site.examples) + 50


def test_corrected_records_count_as_they_are_corrected(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before = said_of(site, Counting(size_ms=DAY))["actions"]
    with driving.open_log(site.settings, ACTIONS) as log:
        batches = log.read(0, 0, 400)
    offset, found = 0, None
    for batch in batches:
        if batch.records.schema.names == EVENT_SCHEMA.names and batch.records.num_rows > 3:
            found = batch.records.slice(0, 4).to_pylist()
            offset = batch.first_offset
            break
    assert found is not None
    none, places = np.full(2, np.iinfo(np.int64).min), places_of(np.arange(offset, offset + 4))
    patch = driving.typed([row | {"action": "hide", "bad": False} for row in found[2:]])
    patched = Correction(
        Made(1, "a test", first=offset), excluded=places[:2], excluded_clock=none,
        patched=places[2:], patched_clock=none, events=patch,
    )  # fmt: skip
    monkeypatch.setattr(History, "every", lambda settings: [History([patched]), History()])
    after = said_of(site, Counting(size_ms=DAY))["actions"]
    change = Counter({name: total(after, name) - total(before, name) for name in total_names(before)})
    want = Counter({"hide": 2})
    want.subtract(Counter(row["action"] for row in found))
    assert {name: n for name, n in change.items() if n} == {name: n for name, n in want.items() if n}
    assert said_of(site, Counting(size_ms=DAY))["volume"]["records"] == len(site.records), "what is excluded has come all the same"


def total(actions: dict[str, Any], name: str) -> int:
    return sum(row["records"].get(name, 0) for row in actions["over_time"])


def total_names(actions: dict[str, Any]) -> set[str]:
    return {name for row in actions["over_time"] for name in row["records"]}


def test_heartbeats_are_no_records(site: Site, tmp_path: Path) -> None:
    copy = copied(site, tmp_path)
    with driving.open_log(copy.settings, ACTIONS) as log:
        log.append([(0, heartbeat(END + DAY))])
    assert said_of(copy, Counting())["volume"]["records"] == len(site.records)


def copied(site: Site, directory: Path) -> Site:
    shutil.copytree(site.settings.data, directory / "data")
    return replace(site, settings=replace(site.settings, data=directory / "data"))


def test_topics_without_end_are_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = said_of(site, Counting())["labels"]["topics"]
    monkeypatch.setattr(labels_module, "MOST_TOPICS", 2)
    few = said_of(site, Counting())["labels"]["topics"]
    assert len(few) == 3
    assert OTHER in {one["topic"] for one in few}
    for head in HEADS:
        for what in ("labels", "positives"):
            assert sum(one["heads"][head][what] for one in few) == sum(one["heads"][head][what] for one in whole)


def test_what_is_not_there_is_told_apart_from_what_is_empty(site: Site, tmp_path: Path) -> None:
    copy = copied(site, tmp_path)
    for name in (SERVED, EXAMPLES):
        for path in copy.settings.logs.glob(f"{name}.db*"):
            path.unlink()
    said = said_of(copy, Counting())
    assert (said["coverage"], said["labels"]) == (None, None)
    later = said_of(site, Counting(Period(END + 30 * DAY)))
    assert (later["reference"], later["actions"]["psi"], later["volume"]["records"]) == (None, None, 0)
    assert later["coverage"]["over_time"] == later["labels"]["over_time"] == []
    with pytest.raises(DataDirectoryError, match=r"nothing to report .* no log 'actions' .* `tidemark ingest` makes one"):
        gather(replace(site.settings, data=tmp_path / "none"))


def test_reading_tells_how_far_it_is(site: Site) -> None:
    totals: dict[str, int] = {}
    read: Counter[str] = Counter()
    gather(site.settings, Counting(), Progress(totals.__setitem__, lambda name, n: read.update({name: n})))
    assert totals == read
    assert totals[ACTIONS] == len(site.records)
