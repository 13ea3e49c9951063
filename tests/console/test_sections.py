"""Models, checks, checkpoints and what should be looked at: each is what its own commands say, and in words where there is none."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows import last_told
from flows.errors import CorruptionError, TidemarkError
from flows.outputs import ACTIONS, REVISITS
from flows.state.handover import task_taken
from flows.state.lock import run_lock
from flows.state.task import task_path
from flows.state.task_lock import holding
from online_model.evaluation.metrics import METRICS as EVERY_METRIC
from online_model.learner.course import path_of
from online_model.registry.manifest import CALIBRATORS, MANIFEST, Manifest
from online_model.retrain.run import REFUSED as WHERE_REFUSED
from online_model.retrain.work import Work as RetrainWork
from replay.checkpoints.at_work import at_work
from replay.console import models
from replay.console.attention import BAD, WORTH_A_LOOK, Attention, attention
from replay.console.board import SILENT_S, Board, Told
from replay.console.checks import Checks, ChecksSection, Round
from replay.console.models import LEARNERS, METRICS, REFUSED, ModelsSection
from replay.console.replays import ReplaysSection, without_credentials
from replay.console.requests import Requests, quantile
from replay.console.stands import FlowStands, Stands
from replay.rebuild.plan import Part, Plan, Workplace
from replay.restore import RESTORING
from replay.tasks import TaskName
from tests.console.conftest import PARTITIONS, Site
from tests.processes import PATIENCE_S, ROOT, tidemark
from tests.serving.models import learn, publish, registry_of, serve

GATE = {
    "gate": {
        "passed": True,
        "reason": "save auc 0.71 against 0.70",
        "rows": 1_000,
        "candidate": {"save": {"auc": 0.71, "logloss": 0.2, "ece": 0.01}, "click": {"auc": None}},
        "incumbent": {"save": {"auc": 0.70, "logloss": 0.21, "ece": 0.02}},
    }
}

# Models ----------------------------------------------------------------------------------------------------------------------------


def test_names_are_those_of_whoever_writes() -> None:
    assert path_of(Path("models"), 7).with_suffix(".lock") == Path("models") / LEARNERS / "7.lock"
    assert REFUSED == WHERE_REFUSED
    assert set(METRICS) <= set(EVERY_METRIC)


def test_models_are_what_their_command_lists(site: Site) -> None:
    first = publish(site.settings, 1, [1, 2], [3, 4])
    second = publish(site.settings, 2, [1, 2], [3, 4], metrics=GATE)
    serve(site.settings, first.number)
    serve(site.settings, second.number)
    closing = learn(site.settings, second, 1, second.digest, {3: 0.5})
    section = ModelsSection(site.settings)
    said = section.look()
    listed = json.loads(tidemark("models", "list", "--json", data=site.settings.data, partitions=PARTITIONS).out)
    assert said.served == listed["served"] == second.number
    told = [(b.base, b.roles, b.made_as_of, b.parent, b.bytes, b.snapshots, b.problem) for b in reversed(said.bases)]
    assert told == [
        (b["base"], b["roles"], b["made_as_of"], b["parent"], b["bytes"], len(b["snapshots"]), b["problem"]) for b in listed["bases"]
    ]
    assert [(one.base, one.reason) for one in said.switches] == [(second.number, "published"), (first.number, "published")]
    newest, oldest = said.bases
    assert oldest.evaluation is None
    assert newest.evaluation is not None
    assert (newest.evaluation.passed, newest.evaluation.reason, newest.evaluation.rows) == (True, GATE["gate"]["reason"], 1_000)
    assert {one.head: (one.values, one.against) for one in newest.evaluation.heads} == {
        "save": ({"auc": 0.71, "logloss": 0.2}, {"auc": 0.70, "logloss": 0.21}),
        "click": ({"auc": None}, None),
    }
    assert said.learner is not None
    assert (said.learner.running, said.learner.delta) == (False, 1)
    assert (said.learner.newest_event_time, said.learner.ready_time) == (closing.newest_event_time, closing.ready_time)
    with holding(path_of(registry_of(site.settings).directory, second.number).with_suffix(".lock"), str):
        running = section.look().learner
        assert running is not None
        assert running.running
    assert (said.retrain, said.refused, said.note) == (None, None, "")


def test_a_retrain_that_was_begun_and_one_that_was_refused(site: Site) -> None:
    base = publish(site.settings, 1, [1], [3])
    registry = registry_of(site.settings)
    work = RetrainWork(registry)
    work.begin({"spans": {"as_of": 1_700_000_000_000}})
    section = ModelsSection(site.settings)
    stopped = section.look().retrain
    assert stopped is not None
    assert (stopped.running, stopped.as_of, stopped.stage) == (False, 1_700_000_000_000, "it is being trained")
    work.write("trained.json", {})
    with work.alone():
        going = section.look().retrain
        assert going is not None
        assert (going.running, going.stage) == (True, "the gate judges it")
    about = replace(base.manifest.about, made_as_of=5, metrics={"gate": {"passed": False, "reason": "worse"}})
    (registry.directory / REFUSED).mkdir()
    (registry.directory / REFUSED / MANIFEST).write_bytes(Manifest(2, base.manifest.files, about).sealed().to_bytes())
    refused = section.look().refused
    assert refused is not None
    assert refused.evaluation is not None
    assert (refused.made_as_of, refused.evaluation.passed, refused.evaluation.reason) == (5, False, "worse")
    note = section.look()
    assert note.served is None
    assert "tidemark models publish" in note.note


def test_a_damaged_base_is_told_with_the_others(site: Site) -> None:
    publish(site.settings, 1, [1], [3])
    damaged = publish(site.settings, 2, [1], [3])
    (damaged.path / MANIFEST).write_bytes(b"{}")
    [two, one] = ModelsSection(site.settings).look().bases
    assert one.problem is None
    assert two.problem
    assert two.bytes == 0
    assert (damaged.path / CALIBRATORS).exists()


@pytest.mark.parametrize("metrics", [{}, {"gate": None}, {"gate": {"passed": "yes"}}, {"gate": []}])
def test_metrics_of_somebody_elses_form_are_none(metrics: Mapping[str, Any]) -> None:
    assert models.evaluation(metrics) is None
    odd = {"gate": {"passed": False, "reason": 7, "candidate": {"save": 3, "hide": {"auc": "x", "gauc": True}}}}
    found = models.evaluation(odd)
    assert found is not None
    assert [(one.head, one.values) for one in found.heads] == [("hide", {"auc": None, "gauc": None})]


# Checks ----------------------------------------------------------------------------------------------------------------------------


def test_the_last_audit_is_what_the_command_said(site: Site) -> None:
    section = ChecksSection(site.settings)
    assert section.look() == Checks(None, None)
    told = json.loads(tidemark("replay", "audit", "--sample", 5, "--json", data=site.settings.data, partitions=PARTITIONS).out)
    audit = section.look().audit
    assert audit is not None
    assert audit.said["tasks"] == audit.said["complete"] == len(told["tasks"]) == 2 * PARTITIONS
    assert audit.said["entities"] == sum(task["entities"] for task in told["tasks"]) > 0
    assert (audit.said["mismatches"], audit.said["seed"], audit.said["problems"]) == (0, told["seed"], [])


def test_a_file_that_is_not_what_was_told_is_said(site: Site) -> None:
    last_told.tell(site.settings, last_told.SKEW, {"findings": 3})
    found = ChecksSection(site.settings).look().skew
    assert found is not None
    assert found.said == {"findings": 3}
    path = site.settings.data / "last" / "skew.json"
    path.write_bytes(path.read_bytes().replace(b"3", b"4"))
    with pytest.raises(CorruptionError, match="delete it"):
        ChecksSection(site.settings).look()
    # No check ends for want of a place to leave this.
    path.unlink()
    path.parent.rmdir()
    path.parent.write_bytes(b"")
    last_told.tell(site.settings, last_told.SKEW, {"findings": 3})


# Checkpoints and replays -----------------------------------------------------------------------------------------------------------


def test_checkpoints_are_what_their_command_lists(site: Site) -> None:
    section = ReplaysSection(site.settings)
    assert {(task.kept, task.newest, task.made_at) for task in section.look().tasks} == {(0, None, None)}
    tidemark("replay", "checkpoint", data=site.settings.data, partitions=PARTITIONS)
    site.append(*({"user_id": user} for user in range(10)))
    site.apply()
    listed = json.loads(tidemark("replay", "status", "--json", data=site.settings.data, partitions=PARTITIONS).out)
    said = section.look()
    told = [(t.task, t.kept, t.newest, t.made_at, t.to_replay) for t in said.tasks]
    assert told == [(t["task"], t["checkpoints"], t["newest"], t["made_at"], t["to_replay"]) for t in listed["tasks"]]
    assert sum(task.to_replay or 0 for task in said.tasks) >= 10
    assert (said.place, said.corrections) == (listed["place"], [])


def test_corrections_are_those_that_replay_status_lists(site: Site) -> None:
    section = ReplaysSection(site.settings)
    assert section.look().corrections == []
    command = ("replay", "rebuild", "--exclude", "user_id == 1", "--yes")
    site.append({"user_id": 1}, {"user_id": 2})
    site.apply()
    tidemark(*command, data=site.settings.data, partitions=PARTITIONS)
    listed = json.loads(tidemark("replay", "status", "--json", data=site.settings.data, partitions=PARTITIONS).out)["corrections"]
    told = [(c.number, c.made_at, c.author, c.reason, c.in_force, c.excluded, c.patched) for c in section.look().corrections]
    names = ("generation", "made_at", "author", "reason", "in_force", "excluded", "patched")
    assert told == [tuple(one[name] for name in names) for one in listed]
    assert len(told) == 1


def test_what_is_under_way(site: Site) -> None:
    section = ReplaysSection(site.settings)
    assert section.look().work == []
    workplace = Workplace.of(site.settings)
    workplace.begin(Plan(1, "exclude <b>", (), "somebody", 1_700_000_000_000, (Part(ACTIONS, 0, (0, 10)),)), {})
    [work] = section.look().work
    assert (work.kind, work.running, work.begun_at) == ("rebuild", False, 1_700_000_000_000)
    assert "exclude <b>, by somebody: 1 tasks" in work.what
    with run_lock(workplace.directory):
        assert section.look().work[0].running
    workplace.discard()
    with task_taken(site.settings, REVISITS, 1), at_work(site.settings, TaskName(ACTIONS, 0)):
        told = [(work.kind, work.running) for work in section.look().work]
    assert told == [("checkpoint", True), ("restore", True)]
    restoring = task_path(site.settings, ACTIONS, 1)
    restoring.with_name(restoring.name + RESTORING).mkdir()
    assert [(work.kind, work.running) for work in section.look().work] == [("restore", False)]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://key:secret@bucket/path@x", "s3://bucket/path@x"),
        ("memory://place", "memory://place"),
        ("/data/check@points", "/data/check@points"),
    ],
)
def test_a_place_is_told_without_credentials(url: str, told: str) -> None:
    assert without_credentials(url) == told


# What to look at -------------------------------------------------------------------------------------------------------------------

NOW = 1_700_000_000_000


def flow(**changes: Any) -> FlowStands:
    whole = {"flow": "actions", "running": True, "position": 5, "lag": 0, "rate": 1.0, "watermark_low": 1, "watermark": 1}
    return FlowStands(**{**whole, "waiting_since": None, "bytes": 1, "tasks": [], "history": [], **changes})


def of(name: str, said: Any, problem: str | None = None) -> list[Attention]:
    return attention({name: Told(said, NOW, problem)}, NOW)


def test_nothing_is_wrong_where_all_is_well() -> None:
    assert of("flows", Stands("task state", "embedded", [flow(), flow(lag=50, waiting_since=NOW - 2_000)], {}, [])) == []
    assert of("checks", Checks(None, Round(1, {"findings": 0, "problem": None}))) == []


@pytest.mark.parametrize(("dead", "told"), [(100, []), (101, ["101 of 1,000 records were refused: `tidemark deadletters list` says why"])])
def test_many_dead_letters_are_worth_a_look(dead: int, told: list[str]) -> None:
    counts = {"records": 1_000, "deadletter.not_json": 60, "deadletter.unknown_action": dead - 60}
    assert of("flows", Stands("task state", "embedded", [flow()], counts, [])) == [Attention("look", "flows", what) for what in told]


def test_what_is_wrong_is_told_and_the_gravest_first() -> None:
    flows = Stands(
        "task state", "embedded", [flow(running=False, lag=4), flow(flow="revisits", waiting_since=NOW - 61_000)], {}, ["a disk"]
    )
    found = of("flows", flows)
    assert [one.level for one in found] == [BAD] * 3
    assert [text in one.what for one, text in zip(found, ("a disk", "nobody runs it", "waits for longer"), strict=True)] == [True] * 3
    both = Checks(Round(1, {"mismatches": 1_234, "problems": ["x"]}), Round(1, {"problem": "no log"}))
    assert [one.what.partition(";")[0] for one in of("checks", both)] == [
        "the last audit left out tasks: x",
        "the last audit has 1,234 mismatches",
        "the last skew check could not be done: no log",
    ]
    [unread] = of("models", None, "a damaged file")
    assert (unread.level, unread.what) == (BAD, "can't be read: a damaged file")
    mixed = attention({"checks": Told(both, NOW, None), "flows": Told(Stands("nothing", "embedded", [], {}, []), NOW, None)}, NOW)
    assert [one.level for one in mixed] == [BAD, BAD, BAD, WORTH_A_LOOK]


def served(**changes: Any) -> Requests:
    whole = {"up_s": 1.0, "store": "task state", "fingerprint": "f", "trouble": None, "waiting": 0, "endpoints": [], "kept": 0, "lost": 0}
    return Requests(
        **{**whole, "log_trouble": None, "model": {"ok": False, "trouble": "there is none"}, "embedding": {"ok": False}, **changes}
    )


def test_what_is_wrong_with_embeddings_is_told_as_with_models() -> None:
    assert of("requests", served()) == []
    assert of("requests", served(embedding={"ok": True, "version": 2})) == []
    model = {"ok": False, "arms": {"served": {}}, "trouble": "a delta is missing"}
    old, older, none = (
        of("requests", served(**changes))
        for changes in (
            {"model": model},
            {"embedding": {"ok": False, "version": 2, "trouble": "a damaged table"}},
            {"embedding": {"ok": False, "trouble": "a damaged version"}},
        )
    )
    assert [(one.level, one.what) for [one] in (old, older, none)] == [
        (BAD, "rankings are by an old model: a delta is missing"),
        (BAD, "users' embeddings are old: a damaged table"),
        (BAD, "users' embeddings can't be served: a damaged version"),
    ]


def test_a_quantile_is_the_bound_of_its_bucket() -> None:
    buckets = [(0.1, 50.0), (0.5, 98.0), (float("inf"), 100.0)]
    assert [quantile(buckets, share) for share in (0.0, 0.5, 0.51, 0.98, 0.99)] == [0.1, 0.1, 0.5, 0.5, float("inf")]
    assert quantile([], 0.5) is None
    assert quantile([(0.1, 0.0)], 0.5) is None


# The board -------------------------------------------------------------------------------------------------------------------------


class Slow:
    """A section that says how often it was looked at, waits where it is told to, and fails where it is told to."""

    every_s = 0.0

    def __init__(self, fails: Exception | None = None, waits: bool = False) -> None:
        self.looks, self.fails, self.open = 0, fails, threading.Event()
        if not waits:
            self.open.set()

    def look(self) -> int:
        assert self.open.wait(60)
        self.looks += 1
        if self.fails is not None:
            raise self.fails
        return self.looks

    def close(self) -> None:
        self.open.set()


def packed(told: Mapping[str, Told[Any]]) -> bytes:
    return orjson.dumps({name: [one.said, one.problem] for name, one in told.items()})


async def _told(board: Board) -> Any:
    return orjson.loads(await board.told())


def test_sections_that_fail_or_hang_hold_up_nobody() -> None:
    slow, broken, odd, sound = Slow(waits=True), Slow(TidemarkError("a disk")), Slow(ZeroDivisionError()), Slow()
    board = Board({"slow": slow, "broken": broken, "odd": odd, "sound": sound}, packed)

    async def asked() -> list[Any]:
        return list(await asyncio.gather(*(_told(board) for _ in range(5))))

    first = asyncio.run(asked())
    assert first == [first[0]] * 5
    assert first[0]["slow"] == [None, None]
    assert first[0]["broken"] == [None, "a disk"]
    assert first[0]["odd"][1].startswith("it can't be read: ZeroDivisionError")
    assert first[0]["sound"] == [1, None]
    slow.open.set()
    board.close()


def test_what_hangs_is_not_told_as_it_is_now_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    section = Slow()
    board = Board({"one": section}, packed, lambda: now[0])

    async def asked() -> list[Any]:
        out = [await _told(board)]
        section.open.clear()
        monkeypatch.setattr("replay.console.board._PATIENCE_S", 0.01)
        for later in (1.5, SILENT_S - 0.5, 1.0, 3600.0):
            now[0] += later
            out.append(await _told(board))
        section.open.set()
        while (last := await _told(board))["one"][1] is not None:
            now[0] += 1.5
        return [*out, last]

    *told, last = [one["one"] for one in asyncio.run(asked())]
    assert told[:3] == [[1, None]] * 3
    assert [said for said, _ in told[3:]] == [1, 1]
    assert all(re.match(r"no answer since \d\d:\d\d:\d\d UTC; ", problem) for _, problem in told[3:])
    assert last[0] >= 2
    board.close()


HANGING = """
import asyncio, threading
from replay.console.board import Board

class Hanging:
    every_s = 0.0
    def look(self): threading.Event().wait()
    def close(self): pass

board = Board({"one": Hanging(), "two": Hanging()}, lambda told: b"told")
print(asyncio.run(board.told()).decode())
board.close()
print("closed")
"""


def test_what_hangs_does_not_keep_the_process_from_ending() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["told", "closed"], "")


def test_however_many_look_it_is_read_once_a_second_and_keeps_what_was_known() -> None:
    now = [100.0]
    section = Slow()
    board = Board({"one": section}, packed, lambda: now[0])

    async def asked() -> list[Any]:
        out = [await _told(board) for _ in range(3)]
        now[0] += 1.5
        out.append(await _told(board))
        section.fails = TidemarkError("gone")
        now[0] += 1.5
        out.append(await _told(board))
        return out

    told = [one["one"] for one in asyncio.run(asked())]
    assert told == [[1, None]] * 3 + [[2, None], [2, "gone"]]
    board.close()
