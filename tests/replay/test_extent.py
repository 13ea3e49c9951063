"""What `verify` and `diff` would read, said before they do; and a bar that ends where it said that it would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from replay.extent import Extent
from tests.processes import Simulated, front_door, tidemark
from tests.replay.site import SMALL


@pytest.fixture(scope="module")
def data(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("extent") / "data"
    tidemark("ingest", *simulated.files[:2], data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    for command in (("replay", "checkpoint"), ("archive", "run")):
        tidemark(*command, data=data, **SMALL)
    return data


def said(monkeypatch: pytest.MonkeyPatch, data: Path, *words: object) -> dict[str, Any]:
    answer = front_door("replay", *words, "--json", monkeypatch=monkeypatch, data=data, **SMALL).out
    return dict(json.loads(answer))


def test_a_verification_says_beforehand_what_it_reads(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = said(monkeypatch, data, "verify", "--dry-run")
    parts = plan["parts"]
    assert plan["bytes_to_read"] == sum(parts.values())
    assert {name.split("/")[0] for name in parts if parts[name]} >= {
        f"{what} {flow}" for what in ("log", "archive", "state", "checkpoints") for flow in ("actions", "revisits")
    }
    assert parts["checkpoints actions/0"] > 1_000
    one = said(monkeypatch, data, "verify", "--dry-run", "--task", "actions/0")["parts"]
    assert one == {name: size for name, size in parts.items() if name in ("state actions/0", "checkpoints actions/0")}
    # As people see it: sums, and nothing of what isn't there.
    text = front_door("replay", "verify", "--dry-run", monkeypatch=monkeypatch, data=data, **SMALL).out
    assert text.count("\n") < len(parts)
    assert text.splitlines()[-1].startswith("would read and check about ")


def test_the_bar_ends_where_it_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    original = Extent.__init__

    def init(self: Extent, sizes: dict[str, int], show: object) -> None:
        original(self, sizes, shown.append)

    total = said(monkeypatch, data, "verify", "--dry-run")["bytes_to_read"]
    with mock.patch.object(Extent, "__init__", init):
        read = said(monkeypatch, data, "verify")["bytes"]
    assert sum(shown) == total
    assert min(shown) >= 0
    # By parts as it goes, not all at its end.
    assert sum(size > 0 for size in shown) > 20
    assert read > total / 10


def test_a_part_never_shows_more_than_its_size() -> None:
    shown: list[int] = []
    extent = Extent({"a": 10}, shown.append)
    with extent.part("a") as advance:
        advance(7)
        advance(7)
    with extent.part("unheard of") as advance:
        advance(5)
    assert shown == [7, 3, 0, 0, 0]
    assert extent.read == 19


def test_a_comparison_says_beforehand_what_it_compares(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = said(monkeypatch, data, "diff", "--with", data, "--dry-run")
    assert [row["task"] for row in plan["tasks"]] == [f"{flow}/{p}" for flow in ("actions", "revisits") for p in range(4)]
    assert all(ours == theirs > 0 for ours, theirs in (row["positions"] for row in plan["tasks"]))
    text = front_door("replay", "diff", "--with", data, "--dry-run", monkeypatch=monkeypatch, data=data, **SMALL).out
    assert text.splitlines()[-1] == "would compare the states of 8 tasks; nothing was compared"
