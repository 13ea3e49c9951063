"""The report: its numbers equal what the simulator knows and what the oracles say; its page stands alone and can be read."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from rich.table import Table

from flows.errors import CorruptionError, InputError
from flows.events import EVENT_SCHEMA, RAW_SCHEMA
from flows.log import LocalLog
from flows.outputs import ACTIONS
from flows.partition import partition_of
from flows.reading import FeatureReader
from flows.report import Report, Throughput, console_label_table, gather, write_html
from flows.report.values import LABELS, TopicClicks, margin
from flows.settings import DAY_MS, Settings
from flows.simulate import simulate
from tests import driving
from tests.conftest import Chromium
from tests.oracles import features as oracle
from tests.oracles.decide import decide
from tests.strategies import adversarial, interesting_times

VOID = {"meta", "link", "br", "hr", "img", "input"}


def ingest(simulation: Path, settings: Settings) -> None:
    """Append a simulation to the ACTIONS log, the malformed lines last."""
    settings.logs.mkdir(parents=True)
    arrived = 0
    with driving.open_log(settings, ACTIONS) as log:
        for path in sorted(simulation.glob("events-*.parquet")):
            events = pq.read_table(path).rename_columns(EVENT_SCHEMA.names).cast(EVENT_SCHEMA)
            home = partition_of(events.column("user_id").fill_null(0).to_numpy(), settings.partitions)
            for partition in range(settings.partitions):
                part = events.filter(pa.array(home == partition)).combine_chunks()
                log.append([(partition, batch) for batch in part.to_batches()])
            arrived = max(arrived, int(events.column("timestamp").to_numpy().max()))
        lines = (simulation / "events-bad.jsonl").read_bytes().splitlines()
        log.append([(0, pa.record_batch([pa.array(lines, pa.binary()), pa.array([arrived] * len(lines))], schema=RAW_SCHEMA))])


def read(settings: Settings, as_of: int | None = None, throughput: Throughput | None = None) -> Report:
    with FeatureReader(settings) as reader:
        return gather(reader, as_of, throughput=throughput)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, dict[str, Any]]:
    """The report of a small simulation, and its truth."""
    directory = tmp_path_factory.mktemp("report")
    truth = simulate(directory / "simulation", users=400, pins=1000, days=15, events=40_000, partitions=4, bad_rate=0.01, late_rate=0.01)
    settings = Settings(data=directory / "data", partitions=4)
    ingest(directory / "simulation", settings)
    driving.apply(settings, np.random.default_rng(1), most=20_000)
    return read(settings, throughput=Throughput(40_000, 2.0, 2)), truth


@pytest.fixture
def page(simulated: tuple[Report, dict[str, Any]], tmp_path: Path) -> Path:
    write_html(simulated[0], tmp_path / "report.html")
    return tmp_path / "report.html"


def nothing() -> Report:
    none = np.zeros(7, np.int64)
    return Report(
        as_of=None, allowed_lateness_ms=3_600_000, partitions=2, counts={}, deadletters={}, lateness=(), saves=0, matured=0,
        labels=dict.fromkeys(LABELS, 0), clicked_by_day=none, first_clicked_by_day=none, topics=(), actions=(),
        days=np.empty(0, np.int64), events=np.empty((0, 0), np.int64),
    )  # fmt: skip


# Numbers ---------------------------------------------------------------------------------------------------------------------------


def test_the_numbers_equal_the_simulators_truth(simulated: tuple[Report, dict[str, Any]]) -> None:
    report, truth = simulated
    records = truth["records"]
    counts = {name: report.counts[name] for name in ("records", "accepted", "late", "duplicate")}
    assert counts == dict(zip(counts, (records["total"], records["accepted"], records["late"], records["duplicates"]), strict=True))
    assert {reason: int(by.sum()) for reason, by in report.deadletters.items()} == {r: n for r, n in truth["bad"].items() if n}
    assert report.dead == records["bad"]
    assert (report.saves, report.matured) == (truth["saves"], truth["matured"])
    assert report.labels == {name: rate["count"] for name, rate in truth["labels_matured"].items()}
    assert report.clicked_by_day.tolist() == [truth["click_revisits_by_day"][str(d)]["count"] for d in range(7)]
    assert dict(zip(report.actions, report.events.sum(axis=0).tolist(), strict=True)) == {
        a: n for a, n in truth["events_by_action"].items() if n
    }
    assert {t.topic: (t.saves, t.clicked, t.clicked_days_3_6) for t in report.topics} == {
        name: (t["matured_saves"], t["matured_clicked"], t["matured_clicked_days_3_6"])
        for name, t in truth["topics"].items()
        if t["matured_saves"]
    }
    assert report.matured > 500, "too small a simulation to show anything"


def test_the_numbers_agree_with_each_other(simulated: tuple[Report, dict[str, Any]]) -> None:
    report, _ = simulated
    assert report.first_clicked_by_day.sum() == report.labels["label_7dRevGrid"]
    assert report.first_clicked_by_day[0] == report.clicked_by_day[0] == report.labels["label_1dRevGrid"]
    assert (report.first_clicked_by_day <= report.clicked_by_day).all()
    assert sum(bucket.records for bucket in report.lateness) == report.counts["late"] > 0
    assert report.lateness[0].above_ms == report.allowed_lateness_ms
    assert report.events.sum() == report.counts["accepted"]
    assert (np.diff(report.days) > 0).all()
    assert (np.diff(report.events.sum(axis=0)) <= 0).all(), "the most frequent action comes first"


@pytest.mark.parametrize("seed", range(4))
def test_the_numbers_equal_the_oracles_at_any_time(seed: int, tmp_path: Path) -> None:
    events = adversarial(seed, 500, partitions=2)
    settings = Settings(data=tmp_path / "data", partitions=2, batch_records=64)
    rng = np.random.default_rng(seed)
    driving.write(settings, events, rng)
    driving.apply(settings, rng, most=100)
    decided = decide(events)
    times = interesting_times(events)
    for as_of in (None, 0, times[-1] + 400 * DAY_MS, *rng.choice(times, 6).tolist()):
        until = as_of if as_of is not None else oracle.default_as_of(decided)
        assert until is not None
        check_against_oracle(read(settings, as_of), decided, until)


def check_against_oracle(report: Report, decided: pd.DataFrame, as_of: int) -> None:
    saves = oracle.saves(decided, as_of)
    matured = saves[saves["matured"]]
    assert (report.saves, report.matured) == (len(saves), len(matured))
    assert report.labels == {name: int(matured[name].sum()) for name in LABELS}
    keys = set(zip(matured["partition"], matured["offset"], strict=True))
    clicks = oracle.credited(decided)
    clicks = clicks[(clicks["type"] == "click") & clicks["save_time"].notna() & (clicks["event_time"] <= as_of)]
    places = zip(clicks["partition"], clicks["save_offset"], (clicks["event_time"] - clicks["save_time"]) // DAY_MS, strict=True)
    by_day = Counter(day for partition, offset, day in set(places) if (partition, offset) in keys)
    assert report.clicked_by_day.tolist() == [by_day[d] for d in range(7)]
    ages = (matured["first_click_time"] - matured["save_time"]).dropna() // DAY_MS
    assert report.first_clicked_by_day.tolist() == [int((ages == d).sum()) for d in range(7)]
    accepted = decided[(decided["status"] == "accepted") & (decided["event_time"] <= as_of)]
    want = Counter(zip(accepted["event_time"] // DAY_MS, accepted["action"], strict=True))
    got = {(d, a): int(report.events[i, j]) for i, d in enumerate(report.days.tolist()) for j, a in enumerate(report.actions)}
    assert {key: n for key, n in got.items() if n} == want
    assert sum(bucket.records for bucket in report.lateness) == int(decided["late"].sum())


def test_before_the_main_job_has_run_there_is_nothing(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", partitions=2)
    settings.logs.mkdir(parents=True)
    LocalLog.open(settings.logs, ACTIONS, 2, create=True).close()
    report = read(settings)
    assert (report.as_of, report.saves, len(report.days), report.counts) == (None, 0, 0, {})
    assert read(settings, as_of=10**12).as_of is None
    write_html(report, tmp_path / "report.html")
    assert "There is no accepted record." in (tmp_path / "report.html").read_text("utf-8")


def test_a_log_that_has_lost_records_is_an_error(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", partitions=2)
    rng = np.random.default_rng(0)
    driving.write(settings, adversarial(0, 200, partitions=2), rng)
    driving.apply(settings, rng)
    (settings.logs / f"{ACTIONS}.db").unlink()
    for rest in settings.logs.glob(f"{ACTIONS}.db-*"):
        rest.unlink()
    LocalLog.open(settings.logs, ACTIONS, 2, create=True).close()
    with pytest.raises(CorruptionError, match="lost records"):
        read(settings)


@pytest.mark.parametrize(("count", "total", "points"), [(0, 0, 0.0), (2127, 45278, 0.195), (0, 10, 13.9), (10, 10, 13.9)])
def test_margin(count: int, total: int, points: float) -> None:
    assert margin(count, total) == pytest.approx(points, abs=0.05)


# Page ------------------------------------------------------------------------------------------------------------------------------


class Outline(HTMLParser):
    """What a page consists of; fails at the first tag that is closed out of turn."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, n, value in self.attributes if n == name]


def test_the_page_needs_nothing_else(page: Path) -> None:
    source = page.read_text("utf-8")
    outline = Outline(source)
    for name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster"):
        assert all(value.startswith(("#", "data:,")) for value in outline.values(name)), name
    assert all("//" not in value for _, name, value in outline.attributes if not name.startswith("xmlns"))
    assert not {"script", "iframe", "object", "embed", "img"} & set(outline.tags)
    assert not any(name.startswith("on") for _, name, _ in outline.attributes)
    style = source[source.index("<style>") : source.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_the_page_is_well_formed(page: Path) -> None:
    source = page.read_text("utf-8")
    outline = Outline(source)
    ElementTree.fromstring(source)  # as XML too
    assert outline.tags["title"] == outline.tags["h1"] == outline.tags["main"] == 1
    assert re.findall(r"<h([1-6])", source) == ["1", *"2" * 7]
    ids = outline.values("id")
    assert len(ids) == len(set(ids))
    referred = [
        *re.findall(r"url\(#([^)]*)\)", source),
        *(v[1:] for n in ("href", "xlink:href") for v in outline.values(n) if v[:1] == "#"),
    ]
    assert set(referred) | set(outline.values("aria-labelledby")) <= set(ids)
    plots = list(ElementTree.fromstring(source).iter("{http://www.w3.org/2000/svg}svg"))
    assert len(plots) == outline.tags["svg"] == 12
    assert all(e.get("role") == "img" and e.get("aria-label") for e in plots)
    assert not re.search(r"#0[0-9]0[0-9]0[0-9]\b", source), "a stand-in colour is left"


def test_the_page_holds_the_numbers(simulated: tuple[Report, dict[str, Any]], page: Path) -> None:
    report, truth = simulated
    words = "\n".join(Outline(page.read_text("utf-8")).words).replace("\u202f", " ")
    for name, rate in truth["labels_matured"].items():
        assert f"{rate['count']:,}".replace(",", " ") in words
        assert f"{rate['percent']:.2f} %" in words
        assert f"{truth['published'][name]:.2f} %" in words
    for day in truth["click_revisits_by_day"].values():
        assert f"{day['percent']:.2f} %" in words
    for topic in report.topics:
        if topic.clicked:
            assert f"{100 * topic.clicked_days_3_6 / topic.clicked:.2f} %" in words
    for share in truth["published"]["topic_days_3_6_share"].values():
        assert f"{share:.2f} %" in words
    assert {*report.actions, *report.deadletters, "20 000", "with 2 workers"} <= {w.strip() for w in words.split("\n")}


def test_the_same_report_gives_the_same_bytes(simulated: tuple[Report, dict[str, Any]], page: Path, tmp_path: Path) -> None:
    write_html(simulated[0], tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_other_data_are_not_compared(simulated: tuple[Report, dict[str, Any]], tmp_path: Path) -> None:
    write_html(simulated[0], tmp_path / "own.html", compare=False)
    outline = Outline((tmp_path / "own.html").read_text("utf-8"))
    assert not re.search("paper|Pinterest|diff", "".join(w for w in outline.words if "prefers-color-scheme" not in w), re.IGNORECASE)


def test_a_users_text_can_do_no_harm(simulated: tuple[Report, dict[str, Any]], tmp_path: Path) -> None:
    names = [
        "a$b$ <script>alert(1)</script>&\"'",
        "\x00\x1b[31m\ufffe",
        "日本語" * 20,
        "🎉",
        "x" * 4000,
        *(f"topic {i}" for i in range(300)),
    ]
    report = dataclasses.replace(
        simulated[0],
        topics=tuple(TopicClicks(name, 9, 5, 2) for name in names),
        partitions=64,
        deadletters={"not_json": np.arange(64)},
        days=np.array([0, 19_723, 2_900_000]),
        events=np.array([[1], [5_000], [1]]),
        actions=("impression",),
        throughput=None,
    )
    write_html(report, tmp_path / "report.html")
    source = (tmp_path / "report.html").read_text("utf-8")
    ElementTree.fromstring(source)
    assert Outline(source).tags["script"] == 0
    assert "281 more are left out" in source
    assert "records of days far off are not drawn: the data reach from 1970-01-01 to 9909-" in source.replace("\u202f", " ")


def test_an_empty_report_is_a_page(tmp_path: Path) -> None:
    for compare in (True, False):
        write_html(nothing(), tmp_path / "report.html", compare=compare)
        source = (tmp_path / "report.html").read_text("utf-8")
        ElementTree.fromstring(source)
        assert source.count("No save has matured yet") == 3


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError, match=r"can't write .*report\.html"):
        write_html(nothing(), tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(InputError, match="can't write"):
        write_html(nothing(), tmp_path / "absent" / "report.html")


def test_matplotlib_is_imported_for_pages_alone() -> None:
    program = "import sys, flows, flows.report; assert not [m for m in sys.modules if m.split('.')[0] == 'matplotlib']"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent)


# Terminal --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compare", [True, False])
def test_the_label_table(simulated: tuple[Report, dict[str, Any]], compare: bool) -> None:
    report, truth = simulated
    shown = printed(console_label_table(report, compare=compare))
    for name, rate in truth["labels_matured"].items():
        (line,) = [line for line in shown.splitlines() if name in line]
        assert f"{rate['percent']:.2f}" in line
        assert (f"{truth['published'][name]:.1f}\u202f%" in line) == compare
    assert "–" in printed(console_label_table(nothing(), compare=compare))


def printed(table: Table) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


# Browser ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_in_a_browser(page: Path, chromium: Chromium, width: int) -> None:
    opened = chromium(page, width=width, height=3000)
    assert opened.console == ()
    assert "<title>Tidemark report</title>" in opened.dom
    assert opened.dom.count('role="img"') == 12
    pixels = image(opened.screenshot)
    assert pixels.shape[1] == width
    # Text and plots all the way down, and nothing that runs over the right edge.
    background = pixels[2, 2]
    marked = (np.abs(pixels.astype(int) - background.astype(int)).sum(axis=2) > 30).reshape(10, 300, width)
    assert (marked.mean(axis=(1, 2)) > 0.005).all()
    assert not marked[:, :, width - 6 :].any()
    # Plots have their colours, of light or of dark.
    ours = (pixels == (0x1C, 0x72, 0x93)).all(axis=2) | (pixels == (0x57, 0xB3, 0xD1)).all(axis=2)
    assert ours.sum() > 2_000


def image(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return (imread(path)[:, :, :3] * 255).round().astype(np.uint8)
