"""The same with the commands that people type: what `ingest` and `run` have said is there after a power failure, and they go on from there."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from flows.outputs import ACTIONS, REVISITS
from tests.power.cuts import DATA, Bench, cuts, entries_of
from tests.power.disk import Disk, mark
from tests.processes import PARTITIONS, Simulated, assert_same, front_door, outcome, settings_of, simulated_once, tidemark

pytestmark = pytest.mark.cc


def told(status: str) -> dict[str, int]:
    """Of what `status` prints: records of ACTIONS, and those that are applied."""
    tasks = json.loads(status)["tasks"]
    return {
        "ingested": sum(task["end"] for task in tasks if task["flow"] == ACTIONS),
        **{flow: sum(task["position"] for task in tasks if task["flow"] == flow) for flow in (ACTIONS, REVISITS)},
    }


def test_commands_go_on(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated: Simulated = simulated_once(tmp_path_factory)
    bench, said = Bench.make(tmp_path / "bench"), [0]
    settings = {"TIDEMARK_DATA": bench.root / DATA, "TIDEMARK_PARTITIONS": PARTITIONS}
    for command in (("ingest", *simulated.files[:3]), ("run", "--workers", 2)):
        code = bench.run("-m", "tidemark", *command, **settings)
        assert code == 0, command
        # With the library too: readers make files as well.
        mark(bench.journal, json.dumps({DATA: told(bench.ended("-m", "tidemark", "status", "--json", **settings).stdout)}))
        said.append(entries_of(bench.journal))
    for cut in cuts(Disk(bench.root, empty=True), bench.journal, [Random(1).randint(said[1], said[2])]):
        image = tmp_path / f"cut-{cut.at}"
        cut.disk.write(image, Random(cut.at), DATA)
        found = told(front_door("status", "--json", data=image, monkeypatch=monkeypatch).out)
        assert all(found[name] >= n for name, n in cut.promised[DATA].items()), (cut.at, found, cut.promised)
        front_door("ingest", *simulated.files, data=image, monkeypatch=monkeypatch)
        tidemark("run", data=image)
        assert_same(outcome(settings_of(image), tmp_path / f"exports-{cut.at}"), simulated.clean)
