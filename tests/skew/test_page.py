"""The pages of a check and of drift stand alone and can be read."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from flows.report.drawing import FULL, NARROW, names_beside
from flows.served import Status
from flows.skew.names import EVERY
from flows.skew.plots import brief
from tests.conftest import Chromium
from tests.skew.conftest import Drill, skew
from tests.skew.test_check import Change, changed
from tests.test_report import image


@pytest.fixture(scope="module")
def pages(mistaken: Path, sound: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("pages")
    skew("check", "--html", directory / "mistaken.html", data=mistaken, code=1)
    skew("check", "--html", directory / "sound.html", data=sound)
    skew("drift", "--reference", "..2024-01-18", "--current", "2024-01-18..", "--html", directory / "drift.html", data=sound)
    return {path.stem: path for path in directory.iterdir()}


def test_a_page_says_what_the_command_says(pages: dict[str, Path], drill: Drill) -> None:
    mistaken, sound, drift = (pages[name].read_text() for name in ("mistaken", "sound", "drift"))
    for name in ("late_event_ignored", "stale_tile", "other_fingerprint", "defaulted"):
        assert name in mistaken
        assert name not in sound
    assert "Every row is equal to the bit." in sound
    assert "No row differs, and none was left out." in sound
    for page in (mistaken, sound, drift):
        for heading in ("Actions over time", "What moved", "How values are spread"):
            assert heading in page
    seeded = {row["wanted"]: row["seeded"] for row in drill.said["rows"]}
    assert f"{seeded['stale_tile']:,}".replace(",", "\u202f") in mistaken


def test_a_page_needs_nothing_else(pages: dict[str, Path]) -> None:
    for path in pages.values():
        content = path.read_text()
        ElementTree.fromstring(content.removeprefix("<!DOCTYPE html>\n"))
        assert "<script" not in content
        assert not re.findall(r"(?:src|href)=\"(?!#|data:,)", content)
        ids = re.findall(r'\bid="([^"]+)"', content)
        assert len(ids) == len(set(ids))


def test_a_page_of_nothing(drill: Drill, tmp_path: Path) -> None:
    skew("check", "--html", tmp_path / "empty.html", data=drill.data(tmp_path / "data"))
    assert "nothing is proved" in (tmp_path / "empty.html").read_text()


def unknown(row: dict[str, Any]) -> dict[str, Any]:
    """Asked for a user, pins and a topic that no log knows."""
    nothing = {name: [] for name in row if name.startswith("sequence_")}
    users = {"user_id": 2**40, "user_counters": [0] * 24, "user_status": Status.NOT_FOUND}
    pins = {"pin_id": [2**40 + i for i in range(7)], "pin_counters": [0] * 24 * 7, "pin_status": [Status.NOT_FOUND] * 7}
    topics = {"topic": ["none"], "topic_stats": [0.0] * 15, "topic_status": [Status.NOT_FOUND]}
    return row | nothing | users | pins | topics


def without(row: dict[str, Any], nothing: list[Any] | None, *prefixes: str) -> dict[str, Any]:
    """The same answer, for which nothing of these was asked."""
    return row | {name: nothing for name in row if name.startswith(prefixes)}


@pytest.mark.parametrize("records", [1, 2, 20])
@pytest.mark.parametrize(
    "change",
    [
        unknown,
        lambda row: without(row, None, "user", "sequence_"),
        lambda row: without(row, [], "pin_"),
        lambda row: without(row, [], "topic"),
    ],
    ids=["unknown", "no user", "no pins", "no topic"],
)
def test_a_page_of_little(drill: Drill, tmp_path: Path, change: Change, records: int) -> None:
    times = count(1_706_657_700_000)
    data = changed(drill, tmp_path / "data", lambda row: change(row) | {"timestamp": next(times)}, records)
    skew("check", "--html", tmp_path / "skew.html", data=data)
    page = (tmp_path / "skew.html").read_text()
    ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert ("too few to say what moved" in page) == (records > 1)


def test_a_page_of_what_could_not_be_compared(drill: Drill, tmp_path: Path) -> None:
    data = changed(drill, tmp_path / "data", lambda row: row | {"fingerprint": "0123456789abcdef"})
    skew("check", "--html", tmp_path / "skew.html", data=data)
    assert "nothing is proved" in (page := (tmp_path / "skew.html").read_text())
    assert "100\u202f%" not in page


@pytest.mark.parametrize("width", [NARROW, FULL])
def test_no_two_features_have_one_label(width: int) -> None:
    labels, _ = names_beside([brief(feature.name, width) for feature in EVERY], width)
    assert len(set(labels)) == len(EVERY)
    assert not any("…" in label for label in labels)


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", ["mistaken", "drift"])
def test_a_page_in_a_browser(pages: dict[str, Path], chromium: Chromium, name: str, width: int) -> None:
    opened = chromium(pages[name], width=width, height=2400)
    assert opened.console == ()
    assert opened.dom.count('role="img"') == {"mistaken": 10, "drift": 6}[name]
    pixels = image(opened.screenshot)
    assert pixels.shape[1] == width
    # Text and plots all the way down, and nothing that runs over the right edge.
    background = pixels[2, 2]
    marked = (np.abs(pixels.astype(int) - background.astype(int)).sum(axis=2) > 30).reshape(8, 300, width)
    assert (marked.mean(axis=(1, 2)) > 0.005).all()
    assert not marked[:, :, width - 4 :].any()
    # Plots have their colours, of light or of dark.
    colours = [((0x1C, 0x72, 0x93), (0x57, 0xB3, 0xD1)), ((0xBF, 0x4F, 0x14), (0xF3, 0x9A, 0x62))][name == "drift"]
    assert sum(int((pixels == colour).all(axis=2).sum()) for colour in colours) > 2_000
