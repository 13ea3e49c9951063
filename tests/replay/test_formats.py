"""What another version of Tidemark has written: read, or refused with what to do, which then works. `fixtures/make.py` says how it was made."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from flows.errors import MAKE_ANEW
from flows.outputs import ACTIONS, REVISITS
from flows.settings import Settings
from flows.state import meta
from flows.state.actions_task import state_fingerprint
from flows.status_command import digest_of
from replay.checkpoints import choose, manifest
from replay.place import Place
from tests.processes import front_door

FIXTURES = Path(__file__).parent / "fixtures"
SETTINGS: dict[str, Any] = {"partitions": 1, "anchor_records": 20}


def unpacked(name: str, to: Path) -> Path:
    with tarfile.open(FIXTURES / f"{name}.tar.xz") as archive:
        archive.extractall(to, filter="data")
    return to / "data"


def called(data: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object, code: int = 0) -> Any:
    done = front_door(*arguments, monkeypatch=monkeypatch, code=code, data=data, **SETTINGS)
    return json.loads(done.out) if "--json" in arguments and done.out else done


def of_today(data: Path) -> bool:
    """Whether what `checkpoint-1` holds is still what would be written."""
    settings, place = Settings(data=data, **SETTINGS), Place(str(data / "checkpoints"))
    [named] = manifest.listed(place, ACTIONS, 0)
    made = json.loads(place.read(named.name) or b"")
    now = manifest.FORMAT, meta.FORMAT, state_fingerprint(settings, settings.load_vocabulary())
    assert made["state_format"] == 2
    return (made["format"], 3, made["fingerprint"]) == now


def another(monkeypatch: pytest.MonkeyPatch, module: Any, number: int) -> None:
    """From now on only a format of this number is read, and written."""
    monkeypatch.setattr(module, "FORMAT", number)
    if module is meta:
        monkeypatch.setattr(meta, "READABLE", (number,))
        # Named by its path it might be imported here for the first time, with the other number, and keep it after this test.
        monkeypatch.setattr(choose, "FORMAT", number)
        monkeypatch.setattr(choose, "READABLE", (number,))


def digests(data: Path) -> dict[str, str]:
    settings = Settings(data=data, **SETTINGS)
    return {flow: digest_of(settings, flow, 0) for flow in (ACTIONS, REVISITS)}


def clean(data: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of a run over the same log, with nothing else taken over."""
    (to / "logs").mkdir(parents=True)
    shutil.copy(data / "logs/actions.db", to / "logs")
    called(to, monkeypatch, "run")
    return digests(to)


def test_state_of_an_older_format_is_refused_and_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert meta.FORMAT > 1
    data = unpacked("state-1", tmp_path)
    said = f"has format 1; this Tidemark reads format {meta.FORMAT}"
    for arguments in (("run",), ("status",), ("features", "user", 1)):
        lines = called(data, monkeypatch, *arguments, code=1).err.splitlines()
        assert len(lines) == 1
        assert said in lines[0]
        assert "tidemark replay restore --all" in lines[0]
    told = called(data, monkeypatch, "replay", "status", "--json")
    assert [row["position"] for row in told["tasks"]] == [None, None]
    assert all(said in row["problem"] for row in told["tasks"])
    assert said in called(data, monkeypatch, "replay", "status").out
    problems = called(data, monkeypatch, "replay", "verify", "--json", code=1)["problems"]
    assert [(problem["kind"], said in problem["what"]) for problem in problems] == [("state", True)] * 2
    assert said in called(data, monkeypatch, "replay", "checkpoint", code=1).err
    assert said in called(data, monkeypatch, "replay", "audit", code=1).out
    assert [row["position"] for row in called(data, monkeypatch, "replay", "restore", "--all", "--dry-run", "--json")["restored"]] == [0, 0]
    # That version had other features too: what it has put out is not what would be put out now, so the log alone is taken over.
    assert MAKE_ANEW in called(data, monkeypatch, "replay", "restore", "--json", code=1).err
    assert MAKE_ANEW.startswith("delete state/, checkpoints/, every log (or topic) but 'actions'")
    shutil.rmtree(data / "state")
    for log in data.glob("logs/*"):
        if not log.name.startswith("actions."):
            log.unlink()
    called(data, monkeypatch, "run")
    assert digests(data) == clean(data, tmp_path / "clean", monkeypatch)
    assert called(data, monkeypatch, "replay", "verify", "--json")["problems"] == []
    assert called(data, monkeypatch, "replay", "audit", "--json")["mismatches"] == []


def test_state_of_the_format_before_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state directory of format 2, from before there were corrections, is read, run, and then corrected and restored."""
    data = unpacked("checkpoint-1", tmp_path)
    assert b'"format":2' in b"".join(file.read_bytes() for file in (data / "state/actions/0000").iterdir() if file.is_file())
    told = called(data, monkeypatch, "replay", "status", "--json")["tasks"]
    assert all(row["problem"] is None and row["position"] > 0 for row in told)
    called(data, monkeypatch, "run")
    want = clean(data, tmp_path / "clean", monkeypatch)
    assert digests(data) == want
    called(data, monkeypatch, "replay", "rebuild", "--exclude", "action == 'save'", "--yes")
    called(data, monkeypatch, "replay", "rebuild", "--undo", 1, "--yes")
    called(data, monkeypatch, "run")
    assert called(data, monkeypatch, "replay", "verify", "--json")["problems"] == []
    assert called(data, monkeypatch, "replay", "audit", "--json")["mismatches"] == []
    after = digests(data)
    called(data, monkeypatch, "replay", "restore", "--all")
    assert digests(data) == after


def test_state_of_which_the_format_alone_is_another_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the next version will say of today's; what it restores from the log is run by processes of today's."""
    data = unpacked("checkpoint-1", tmp_path)
    assert of_today(data), "formats or features have moved on: keep what today's version writes as a further fixture"
    with monkeypatch.context() as later:
        another(later, meta, 4)
        assert "tidemark replay restore --all" in called(data, monkeypatch, "status", code=1).err
        restored = called(data, monkeypatch, "replay", "restore", "--all", "--json")["restored"]
    assert [(row["position"], len(row["passed_over"])) for row in restored] == [(0, 1), (0, 1)]
    assert digests(data) == clean(data, tmp_path / "clean", monkeypatch)
    assert called(data, monkeypatch, "replay", "verify", "--json")["problems"] == []
    assert called(data, monkeypatch, "replay", "audit", "--json")["mismatches"] == []


def test_the_first_checkpoints_are_restored_or_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as nothing has changed they are read; once it has, they are passed over by name."""
    data = unpacked("checkpoint-1", tmp_path)
    shutil.rmtree(data / "state")
    if of_today(data):
        restored = called(data, monkeypatch, "replay", "restore", "--all", "--json")["restored"]
        assert [(row["position"], row["passed_over"]) for row in restored] == [(48, []), (19, [])]
        assert digests(data) == clean(data, tmp_path / "clean", monkeypatch)
    else:
        plan = called(data, monkeypatch, "replay", "restore", "--all", "--dry-run", "--json")["restored"]
        assert [(row["position"], len(row["passed_over"])) for row in plan] == [(0, 1), (0, 1)]
        assert all(re.search("this Tidemark reads format|other features", reason) for row in plan for reason in row["passed_over"])


@pytest.mark.parametrize(("module", "number"), [(manifest, 3), (meta, 4)], ids=["manifest", "state"])
def test_checkpoints_of_another_format_are_passed_over_before_they_are_read(
    module: Any, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the next version will say of today's."""
    data = unpacked("checkpoint-1", tmp_path)
    place = Place(str(data / "checkpoints"))
    # Each piece, if it were read, would be found to be gone.
    shutil.rmtree(data / "checkpoints/actions/0000/pieces")
    another(monkeypatch, module, number)
    [row] = called(data, monkeypatch, "replay", "restore", "--task", "actions/0", "--dry-run", "--json")["restored"]
    assert row["position"] == 0
    assert len(row["passed_over"]) == len(manifest.listed(place, ACTIONS, 0)) == 1
    assert f"this Tidemark reads format {number}" in row["passed_over"][0]
    if module is manifest:
        problems = called(data, monkeypatch, "replay", "verify", "--task", "actions/0", "--json", code=1)["problems"]
        assert [problem["kind"] for problem in problems] == ["checkpoint"]
        assert "tidemark replay checkpoint" in problems[0]["what"]
