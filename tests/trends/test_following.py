"""Rounds over logs that go on say what a count of the same hours says, and metrics say what rounds say."""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from flows.corrections.history import History
from flows.corrections.record import Correction, Made
from flows.errors import DataDirectoryError, LogError
from flows.examples.record import EXAMPLES, HEADS
from flows.outputs import ACTIONS, SERVED
from flows.settings import HOUR_MS, Settings
from flows.skew.names import VIEWS
from flows.trends import labels as labels_module
from flows.trends.actions import CODES
from flows.trends.following import Following, Round, Window
from flows.trends.labels import OTHER
from flows.trends.metrics import TOPICS, Metrics, bounded
from tests import driving
from tests.examples.playing import DAY, HOUR, START
from tests.oracles import trends as oracle
from tests.trends.sites import EVEN, SHIFTED, Site, events_between, write_events, write_examples, write_served

NOW = START + 400 * DAY


@pytest.fixture(scope="session")
def ten_days(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(Settings(data=tmp_path_factory.mktemp("following") / "data", partitions=2, batch_records=64))
    grow(site, 1, START, START + 10 * DAY, 1_500)
    return site


@pytest.fixture
def growing(ten_days: Site, tmp_path: Path) -> Site:
    """Ten days of every log, in hand; what comes later is appended by the test."""
    shutil.copytree(ten_days.settings.data, tmp_path / "data")
    return replace(copy.deepcopy(ten_days), settings=replace(ten_days.settings, data=tmp_path / "data"))


def grow(site: Site, seed: int, first: int, until: int, n: int, shares: tuple[float, ...] = EVEN, nothing: float = 0.3) -> None:
    rng = np.random.default_rng(seed)
    write_events(site, events_between(seed, n, first, until, shares, site.offsets), rng)
    write_served(site, seed, max(1, n // 8), first, until, nothing)
    write_examples(site, seed, max(1, n // 6), first, until)


def check(found: Round, site: Site, at: int = NOW) -> None:
    """What a round found is what loops over all that was written find."""
    labels = oracle.labels(site.examples, HEADS)
    covered = [
        (request["time"], (VIEWS[kind], what))
        for request in site.served
        for kind, there, _, _ in oracle.served_rows(request)
        for what in ["rows", *["found"] * there]
    ]
    told = told_by(found)
    window = sides([(time, action) for time, action in site.records if action != "malformed"], [time for time, _ in site.records], at)
    assert told.get(("tidemark_report_actions_psi",)) == pytest.approx(oracle.psi(*window))
    for infix, counts in zip(("_reference", ""), window, strict=True):
        got = {labels[0]: value for (name, *labels), value in told.items() if name == f"tidemark_report_action{infix}_ratio"}
        names = {*window[0], *window[1]}
        assert got == ({name: counts[name] / sum(counts.values()) for name in names} if sum(counts.values()) >= 100 else {})
    for infix, counts in zip(("_reference", ""), sides(covered, [time for time, _ in covered], at), strict=True):
        for view in VIEWS.values():
            rows = counts[view, "rows"]
            assert told.get((f"tidemark_report_found{infix}_ratio", view)) == (counts[view, "found"] / rows if rows >= 100 else None)
    times = [*(one["timestamp"] for one in site.examples), *site.beats]
    by_head = sides([(time, (head, what)) for time, _, head, what in labels], times, at)
    for infix, counts in zip(("_reference", ""), by_head, strict=True):
        for head in HEADS:
            n = counts[head, "label"]
            assert told.get((f"tidemark_report_label{infix}_ratio", head)) == (counts[head, "positive"] / n if n >= 100 else None)
    _, by_topic = sides([(time, (topic, head, what)) for time, topic, head, what in labels], times, at)
    got = {
        (topic, head, what): int(row[i + 5 * j])
        for topic, row in found.topics.items()
        for i, head in enumerate(HEADS)
        for j, what in enumerate(("label", "positive"))
    }
    assert {key: n for key, n in got.items() if n} == dict(by_topic)


def sides(rows: list[tuple[int, Any]], times: list[int], at: int) -> list[Counter[Any]]:
    """Keys of the week before the last day of a log, and of that day; hours that begin after `at` have not come."""
    until = max(time - time % HOUR for time in times if time - time % HOUR <= at) + HOUR
    found: list[Counter[Any]] = [Counter(), Counter()]
    for time, key in rows:
        if until - DAY <= time < until:
            found[1][key] += 1
        elif until - 8 * DAY <= time < until - DAY:
            found[0][key] += 1
    return found


def told_by(found: Round) -> dict[tuple[str, ...], float]:
    metrics = Metrics()
    metrics.observe(found)
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_rounds_add_up_to_what_is_there(growing: Site) -> None:
    with closing(Following(growing.settings)) as following:
        check(following.round(NOW), growing)
        for number, shares in enumerate((EVEN, SHIFTED, SHIFTED), 2):
            day = START + (8 + number) * DAY
            grow(growing, number, day, day + DAY, 400, shares, 0.8)
            check(found := following.round(NOW), growing)
        assert found.psi > 0.2
        # Nothing has come: nothing changes.
        again = following.round(NOW)
        assert told_by(again).keys() == told_by(found).keys()
        check(again, growing)
    with closing(Following(growing.settings)) as fresh:
        anew = fresh.round(NOW)
    check(anew, growing)
    for log in (ACTIONS, SERVED, EXAMPLES):
        for side in ("now", "reference"):
            assert np.array_equal(getattr(anew.windows[log], side), getattr(found.windows[log], side)), "wherever it began"


def test_an_action_that_has_fallen_silent_has_a_share_of_nothing() -> None:
    now, reference = np.zeros(CODES + 1, np.int64), np.zeros(CODES + 1, np.int64)
    now[[1, 40]] = 150, 50
    reference[[1, 2]] = 300, 100
    told = told_by(Round({ACTIONS: Window(HOUR, now, reference)}, {}, {1: "click", 2: "save"}))
    shares = {key[1:]: value for key, value in told.items() if key[0] == "tidemark_report_action_ratio"}
    assert shares == {("click",): 0.75, ("save",): 0.0, ("code 40",): 0.25}
    shares = {key[1:]: value for key, value in told.items() if key[0] == "tidemark_report_action_reference_ratio"}
    assert shares == {("click",): 0.75, ("save",): 0.25, ("code 40",): 0.0}


def test_memory_holds_eight_days(growing: Site) -> None:
    with closing(Following(growing.settings)) as following:
        following.round(NOW)
        grow(growing, 2, START + 10 * DAY, START + 22 * DAY, 900)
        following.round(NOW)
        for source in following._sources.values():
            assert len(source.sums.starts) <= 8 * 24
        assert sum(map(len, following._sources[EXAMPLES]._topics.values())) <= 24 * 4  # type: ignore[union-attr]


def test_a_clock_that_is_ahead_does_not_end_the_day_of_all(growing: Site) -> None:
    with closing(Following(growing.settings)) as following:
        write_served(growing, 9, 1, START + 300 * DAY, START + 300 * DAY + 1, 0.3)
        at = START + 10 * DAY
        check(following.round(at), growing, at)
        grow(growing, 2, START + 10 * DAY, START + 11 * DAY, 300)
        at = START + 11 * DAY
        check(following.round(at), growing, at)
        check(following.round(START + 301 * DAY), growing, START + 301 * DAY)


def test_a_correction_counts_from_the_beginning(growing: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Following(growing.settings)) as following:
        before = following.round(NOW).windows[ACTIONS].now
        everything = np.arange(1 << 16) << 16
        gone = Correction(
            Made(1, "all of it", first=0), excluded=everything, excluded_clock=np.full(len(everything), np.iinfo(np.int64).min)
        )
        monkeypatch.setattr(History, "every", lambda settings: [gone_of, gone_of])
        gone_of = History([gone])
        after = following.round(NOW).windows[ACTIONS].now
    assert (before[:CODES].sum() > 0, after[:CODES].sum()) == (True, 0)
    assert after[CODES] == before.sum(), "they have come all the same"


def test_a_log_that_comes_later_is_taken_in(growing: Site, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with closing(Following(replace(growing.settings, data=other))) as following:
        with pytest.raises(DataDirectoryError, match="there is no log 'actions'"):
            following.round(NOW)
        shutil.copytree(growing.settings.data, other)
        for path in (other / "logs").glob("served.db*"):
            path.rename(tmp_path / path.name)
        assert set(following.round(NOW).windows) == {ACTIONS, EXAMPLES}
        for path in tmp_path.glob("served.db*"):
            path.rename(other / "logs" / path.name)
        check(following.round(NOW), growing)


def test_a_round_that_fails_counts_nothing_twice(growing: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Following(growing.settings)) as following:
        with monkeypatch.context() as broken:

            def fail(*_: object) -> None:
                raise LogError("log 'examples': the disk is away")

            # After ACTIONS and SERVED were read.
            broken.setattr(labels_module.Labels, "read", fail)
            with pytest.raises(LogError):
                following.round(NOW)
        check(following.round(NOW), growing)


def test_series_are_bounded_whatever_topics_there_are() -> None:
    counts = {f"topic {i}" + "x" * 100: np.full(10, i) for i in range(500)} | {OTHER: np.full(10, 7)}
    found = bounded(counts)
    assert len(found) == TOPICS + 1
    assert set(found) == {f"topic {i}" + "x" * (64 - len(f"topic {i}")) for i in range(500 - TOPICS, 500)} | {OTHER}
    assert np.array_equal(sum(found.values()), sum(counts.values()))
    series = [key for key in told_by(Round({}, counts, {})) if key[0] == "tidemark_report_topic_label_ratio"]
    assert len(series) <= (TOPICS + 1) * len(HEADS)
    # Bytes that no exposition may hold are replaced.
    assert list(bounded({"a\x00b": np.ones(10, np.int64)})) == ["a�b"]


def test_too_few_rows_say_nothing(tmp_path: Path) -> None:
    site = Site(Settings(data=tmp_path / "data", partitions=2))
    write_events(site, events_between(1, 60, START, START + DAY, EVEN, site.offsets), np.random.default_rng(1))
    with closing(Following(site.settings)) as following:
        told = told_by(following.round(NOW))
    names = {name for name, *_ in told if name.startswith("tidemark_report_")}
    assert names == {
        "tidemark_report_until_timestamp_seconds", "tidemark_report_failures_total", "tidemark_report_last_completed_timestamp_seconds",
    }  # fmt: skip
    with driving.open_log(site.settings, ACTIONS) as log:
        assert sum(log.end_positions()) == 60
    assert HOUR_MS == HOUR
