"""The page says what the numbers say, stands alone, and can be read."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from flows.report.panels import Panel, levels, panels, rate_bars
from flows.settings import DAY_MS, HOUR_MS
from flows.trends import sections
from flows.trends.gathering import gather
from flows.trends.page import write
from flows.trends.sums import Counting, Period
from flows.trends.values import Series, Trends
from tests.conftest import Chromium
from tests.examples.playing import DAY, START
from tests.test_report import Outline, image
from tests.trends.sites import Site

HEADINGS = (
    "Share of each action",
    "Drift of actions",
    "Records, late ones and dead letters",
    "Coverage of features",
    "Rates of labels",
    "Rates by topic",
)


@pytest.fixture(scope="module")
def trends(site: Site) -> Trends:
    return gather(site.settings, Counting(size_ms=DAY_MS))


@pytest.fixture(scope="module")
def page(trends: Trends, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write(trends, path)
    return path


def words_of(path: Path) -> str:
    return "\n".join(Outline(path.read_text("utf-8")).words).replace("\u202f", " ")


def test_the_page_holds_the_numbers(trends: Trends, page: Path, site: Site) -> None:
    words = words_of(page)
    assert all(heading in words for heading in HEADINGS)
    assert f"{len(site.records):,}".replace(",", " ") in words
    names, series = trends.by_action
    for i, name in enumerate(names):
        assert name in words
        for side in (series.reference, series.now):
            assert f"{100 * side[i] / side.sum():.2f} %" in words
    assert f"{trends.psi_now:.3f}" in words
    assert "now against before: moved" in words
    assert trends.labels is not None
    for topic, counts in trends.topics.items():
        assert topic in words
        for head in range(5):
            assert f"{100 * counts[5 + head] / counts[head]:.2f} %" in words
    for reason in trends.letters:
        assert reason in words


def test_the_page_needs_nothing_else(page: Path) -> None:
    source = page.read_text("utf-8")
    outline = Outline(source)
    ElementTree.fromstring(source)
    assert not {"script", "iframe", "object", "embed", "img"} & set(outline.tags)
    for name in ("src", "href", "xlink:href"):
        assert all(value.startswith(("#", "data:,")) for value in outline.values(name)), name
    ids = outline.values("id")
    assert len(ids) == len(set(ids))
    plots = list(ElementTree.fromstring(source).iter("{http://www.w3.org/2000/svg}svg"))
    assert len(plots) == 2 * 8
    assert all(plot.get("role") == "img" and plot.get("aria-label") for plot in plots)
    assert not re.search(r"#0[0-9]0[0-9]0[0-9]\b", source), "a stand-in colour is left"


def test_a_page_of_nothing(trends: Trends, site: Site, tmp_path: Path) -> None:
    write(gather(site.settings, Counting(Period(START + 900 * DAY))), tmp_path / "later.html")
    words = words_of(tmp_path / "later.html")
    for said in ("There is no record in the period.", "Nothing was served in the period.", "No label became final in the period."):
        assert said in words
    write(replace(trends, coverage=None, labels=None, topics={}), tmp_path / "little.html")
    words = words_of(tmp_path / "little.html")
    assert "there is no log SERVED" in words
    assert "There is no log EXAMPLES" in words


def test_a_page_of_one_stretch(site: Site, tmp_path: Path) -> None:
    """There is nothing to hold it against, and lines have no length."""
    write(gather(site.settings, Counting(Period(START + DAY, START + DAY + HOUR_MS), size_ms=DAY_MS)), tmp_path / "one.html")
    words = words_of(tmp_path / "one.html")
    assert "There is nothing to hold it against." in words
    assert "nothing can be said" in words


def test_a_users_text_can_do_no_harm(trends: Trends, tmp_path: Path) -> None:
    names = ["a$b$ <script>alert(1)</script>&\"'", "\x00\x1b[31m\ufffe", "日本語" * 20, "x" * 4000, *(f"topic {i}" for i in range(300))]
    actions = {code: f"<b>{name}" for code, name in trends.names.items()}
    write(replace(trends, topics={name: np.full(10, 9) for name in names}, names=actions, coverage=None), tmp_path / "report.html")
    source = (tmp_path / "report.html").read_text("utf-8")
    ElementTree.fromstring(source)
    assert Outline(source).tags["script"] == Outline(source).tags["b"] == 0
    assert "of 304 topics with most labels" in source


def test_days_on_which_nothing_came_are_drawn_as_nothing(trends: Trends) -> None:
    starts = trends.actions.starts[[0, 1, 5]]
    filled, counts = sections._without_holes(starts, np.array([[1], [2], [6]]), trends.size_ms)
    assert filled.tolist() == [int(starts[0]) + i * trends.size_ms for i in range(6)]
    assert counts[:, 0].tolist() == [1, 2, 0, 0, 0, 6]
    far = np.array([0, 10**13])
    assert sections._without_holes(far, counts[:2], HOUR_MS)[0] is far, "where that would be too many"


def test_features_that_go_together_are_shown_once(trends: Trends) -> None:
    assert isinstance(trends.coverage, Series)
    alike = replace(trends.coverage, counts=trends.coverage.counts.copy())
    count, unique = (
        next(one for one in sections.FEATURES if one.name == f"pin_revisit_counters:revisits_click_all_7d_{of}")
        for of in ("count", "users")
    )
    apart = {one.name for one in sections._apart(alike)}
    assert {count.name, unique.name} <= apart
    alike.counts[:, unique.column] = alike.counts[:, count.column]
    alike.reference[unique.column] = alike.reference[count.column]
    assert apart - {one.name for one in sections._apart(alike)} == {unique.name}


@pytest.mark.parametrize("width", [350, 1080])
@pytest.mark.parametrize("values", [[1.0], [np.nan], [np.nan, 2.0, np.nan], [0.0, 0.0], [1.0, np.nan, np.nan, 3.0, 4.0]], ids=str)
def test_plots_of_little(values: list[float], width: int) -> None:
    line, at = np.array(values), np.arange(len(values)) * DAY_MS
    for drawn in (
        panels([Panel("name", "note", (line, line, line))], at, ("a", "b"), width, "k", "label"),
        levels(line, at, ("a", "b"), [(0.1, "mark")], width, "k", "label"),
        rate_bars(["n"] * len(values), ("one", "two"), np.column_stack([line, line]), width, "k", "label"),
    ):
        ElementTree.fromstring(drawn)
        assert "nan" not in drawn.lower().replace("label", "")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_in_a_browser(page: Path, chromium: Chromium, width: int) -> None:
    opened = chromium(page, width=width, height=3000)
    assert opened.console == ()
    assert "<title>Tidemark report</title>" in opened.dom
    pixels = image(opened.screenshot)
    assert pixels.shape[1] == width
    # Text and plots all the way down, and nothing that runs over the right edge.
    background = pixels[2, 2]
    marked = (np.abs(pixels.astype(int) - background.astype(int)).sum(axis=2) > 30).reshape(10, 300, width)
    assert (marked.mean(axis=(1, 2)) > 0.005).all()
    assert not marked[:, :, width - 4 :].any()
    # Plots have their colours, of light or of dark.
    ours = (pixels == (0x1C, 0x72, 0x93)).all(axis=2) | (pixels == (0x57, 0xB3, 0xD1)).all(axis=2)
    assert ours.sum() > 2_000
