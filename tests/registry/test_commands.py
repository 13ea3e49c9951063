"""`tidemark models` as an operator has it: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.log import LocalLog
from flows.outputs import ACTIONS, EMBEDDINGS
from online_model.deltas.errors import SecondLearnerError
from online_model.deltas.writer import DeltaWriter
from online_model.registry import tensors
from online_model.registry.manifest import DENSE, TABLES
from online_model.registry.registry import Registry
from tests.deltas.making import Learner
from tests.processes import PARTITIONS, ROOT, Ended, environment, front_door, settings_of
from tests.registry.making import about, fill, publish, serve, state


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def registry(data: Path) -> Registry:
    """Two bases, of which the second is served."""
    registry = Registry.of(settings_of(data))
    for seed in (1, 2):
        publish(registry, seed)
        serve(registry, seed)
    return registry


def models(data: Path, *arguments: object, code: int = 0) -> Ended:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return front_door("models", *arguments, data=data, code=code, monkeypatch=monkeypatch)


def said(data: Path, *arguments: object, code: int = 0) -> Any:
    return models(data, *arguments, "--json", code=code).json()


def refusal(data: Path, *arguments: object, code: int = 1) -> str:
    line = models(data, *arguments, code=code).err
    assert line.startswith("tidemark: ")
    assert len(line.splitlines()) == 1
    return line


def test_nothing_yet(data: Path) -> None:
    assert "there are no models in" in models(data, "list").out
    assert said(data, "list") == {"models": str(data / "models"), "served": None, "bases": []}
    assert "no model is served yet" in refusal(data, "show")
    assert "no model is served yet" in refusal(data, "rollback")
    assert "there is no base 3" in refusal(data, "show", 3)
    assert "there is no base 3" in refusal(data, "publish", 3)
    assert "neither the number of a base nor a directory" in refusal(data, "publish", "nowhere")
    assert not (data / "models" / "current.json").exists()


def test_list_and_show(data: Path, registry: Registry) -> None:
    rows = said(data, "list")["bases"]
    assert [(row["base"], row["roles"], row["problem"], row["metrics"]) for row in rows] == [
        (1, [], None, {"seed": 1}),
        (2, ["served"], None, {"seed": 2}),
    ]
    assert "served" in models(data, "list", "--verify").out
    shown = said(data, "show")
    assert (shown["base"], shown["problem"], shown["roles"], shown["current"]["start"]["delta"]) == (2, None, ["served"], 0)
    assert shown["about"]["build"]["instruction_set"] == "AVX2"
    text = models(data, "show").out
    assert "all files are what was written" in text
    assert "base 2, from delta 0 at offset 0" in text
    assert "about.build.torch" in text


def test_damage_is_an_exit_code(data: Path, registry: Registry) -> None:
    os.truncate(registry.bases.directory / "1" / DENSE, 9)
    assert models(data, "list", "--verify").code == 0  # nobody is served it
    assert "is not what was written" in said(data, "show", 1, code=1)["problem"]
    path = registry.bases.directory / "2" / TABLES["user"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)
    assert models(data, "list").code == 0  # sizes and manifests are right
    assert [bool(row["problem"]) for row in said(data, "list", "--verify", code=1)["bases"]] == [True, True]
    assert "roll back" in models(data, "show", code=1).out
    assert "no base to roll back to" in refusal(data, "rollback")
    assert "base 1" in refusal(data, "publish", 1)
    assert registry.current().base == 2


def test_other_settings_are_refused(data: Path, registry: Registry) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        done = front_door("models", "publish", 1, data=data, allowed_lateness_ms=7, code=1, monkeypatch=monkeypatch)
    assert "under other features or settings" in done.err
    vocabulary = data / "vocabulary.toml"
    vocabulary.write_text("[actions]\nshare = 40\n")
    with pytest.MonkeyPatch.context() as monkeypatch:
        done = front_door("models", "show", data=data, vocabulary=vocabulary, code=1, monkeypatch=monkeypatch)
    assert "with another vocabulary" in done.out
    assert registry.current().base == 2


def test_publish_and_back(data: Path, registry: Registry) -> None:
    before = registry.current()
    assert said(data, "publish", 1, "--dry-run")["start"]["base"] == 1
    assert registry.current() == before
    assert "base 1 is served from now on; consumers begin with its own rows" in models(data, "publish", 1).out
    assert registry.current().base == 1
    assert said(data, "rollback", "--dry-run")["base"] == 2
    assert said(data, "rollback") | {"start": None} == {"dry_run": False, "from": 1, "base": 2, "start": None}
    assert [past.reason for past in registry.current().history][-2:] == ["published", "rolled back from base 1"]
    assert said(data, "rollback", "--to", 1)["base"] == 1


def test_a_directory_becomes_a_base(data: Path, registry: Registry, tmp_path: Path) -> None:
    other = Registry.of(settings_of(tmp_path / "other"))
    made = publish(other, 7)
    copy = Path(shutil.copytree(made.path, tmp_path / "copy"))
    assert "would become a base" in models(data, "publish", copy, "--dry-run").out
    assert registry.bases.numbers() == [1, 2]
    assert said(data, "publish", copy, "--candidate") == {"dry_run": False, "base": 3, "served": None}
    assert registry.current().base == 2
    assert said(data, "publish", copy)["base"] == 4
    taken = registry.base(4)
    assert taken.manifest.files == made.manifest.files
    assert taken.manifest.about == made.manifest.about
    os.truncate(copy / DENSE, 9)
    assert "is not what was written" in refusal(data, "publish", copy)
    assert registry.bases.numbers() == [1, 2, 3, 4]
    assert registry.current().base == 4


def test_keep(data: Path, registry: Registry) -> None:
    for seed in (3, 4, 5):
        publish(registry, seed)
    assert said(data, "publish", 5, "--keep", 1, "--dry-run")["swept"] == {"bases": [1, 3, 4], "snapshots": []}
    assert registry.bases.numbers() == [1, 2, 3, 4, 5]
    assert "deleted 3 bases" in models(data, "publish", 5, "--keep", 1).out
    # 2 was served before.
    assert registry.bases.numbers() == [2, 5]


def test_canary(data: Path, registry: Registry) -> None:
    publish(registry, 3)
    planned = said(data, "canary", 1, "--share", "5%", "--dry-run")
    assert planned["current"]["canary"]["buckets"] == 500
    assert registry.current().canary is None
    assert "5 % of the users get base 1 (canary)" in models(data, "canary", 1, "--share", "5%").out
    assert "2.5 % of the users get base 3 (holdout)" in models(data, "canary", 3, "--share", 0.025, "--holdout").out
    assert {row["base"]: row["roles"] for row in said(data, "list")["bases"]} == {1: ["canary"], 2: ["served"], 3: ["holdout"]}
    assert set(registry.current().bases_of(np.arange(10_000)).tolist()) == {1, 2, 3}
    assert "no canary any more" in models(data, "canary", "--off").out
    assert registry.current().canary is None
    assert registry.current().holdout is not None
    assert "is the one that is served" in refusal(data, "canary", 2, "--share", 0.1)
    for wrong in ((), (1,), ("--share", 0.1), (1, "--off"), (1, "--share", "none"), (1, "--share", "100%"), (1, "--share", "nan")):
        assert models(data, "canary", *wrong, code=2).err


def test_diff(data: Path, registry: Registry) -> None:
    with registry.draft() as draft:
        fill(draft, 1)
        table = {name: column.copy() for name, column in state(2).items()}
        table["weights"][1, 2] += np.float32(0.5)
        table["ids"][0] = 5_000
        (draft / TABLES["user"]).write_bytes(tensors.to_bytes(table))
        changed = about(registry.bases.expected, metrics={"seed": 9}, config={"dimension": 4, "mmoe": {"experts": 8}}, parent=1)
        registry.publish(draft, changed)
    found = said(data, "diff", 1, 3, code=1)
    assert found["about"] == {"parent": [None, 1]}
    assert found["config"] == {"encoder": ["mean", None], "mmoe.experts": [4, 8]}
    assert found["metrics"] == {"seed": [1, 9]}
    assert {**found["tables"]["user"], "max_change": round(found["tables"]["user"]["max_change"], 6)} == {
        "rows": [5, 5],
        "added": 1,
        "removed": 1,
        "changed": 1,
        "max_change": 0.5,
        "default_change": 0.0,
    }
    assert found["tables"]["pin"]["changed"] == 0
    assert found["dense"] == {}
    text = models(data, "diff", 1, 3, code=1).out
    assert "user table: 5 rows and 5; 1 have come, 1 have gone, 1 have changed, by 0.5 at most" in text
    # With the one that is served, and with itself.
    assert said(data, "diff", 1, code=1)["b"] == 2
    assert "say the same" in models(data, "diff", 2).out
    assert said(data, "diff", 2)["differs"] is False


def test_what_has_no_measure_is_null(data: Path, registry: Registry) -> None:
    """Tables of other dimensions; and names that look like markup are shown as they are."""
    with registry.draft() as draft:
        fill(draft, 1)
        (draft / TABLES["user"]).write_bytes(tensors.to_bytes(state(1, d=6)))
        (draft / DENSE).write_bytes(tensors.to_bytes({"other": np.ones(2, np.float32)}))
        registry.publish(draft, about(registry.bases.expected, config={"encoder": "[red]"}))
    found = said(data, "diff", 1, 3, code=1)
    assert found["tables"]["user"]["max_change"] is None
    assert found["dense"] == {"head.weight": None, "other": None}
    assert "[red]" in models(data, "diff", 1, 3, code=1).out
    assert "[red]" in models(data, "show", 3).out


def test_people_are_not_shown_hundreds_of_figures(data: Path, registry: Registry) -> None:
    """What the gate decided is there, and names are whole; what it decided by is in the JSON."""
    judged = {"auc_of_a_head_with_a_name_that_is_long": 0.512349, "hit@3": 0.25}
    gate = {"passed": True, "reason": "not worse", "candidate": {"save": judged}, "comparison": {"differences": {"save": judged}}}
    with registry.draft() as draft:
        fill(draft, 1)
        registry.publish(draft, about(registry.bases.expected, metrics={"gate": gate}, cut={"as_of": 1_705_773_600_000}))
    text = models(data, "show", 3).out
    assert "about.metrics.gate.reason" in text
    assert "2024-01-20 18:00" in text
    assert "0.512349" not in text
    assert "4 figures by which the gate judged are left out here" in text
    assert said(data, "show", 3)["about"]["metrics"]["gate"] == gate
    text = models(data, "diff", 1, 3, code=1).out
    assert "not worse" in text
    assert "0.512349" not in text
    assert "4 figures" in text


def test_a_damaged_current_is_written_anew(data: Path, registry: Registry) -> None:
    (registry.directory / "current.json").write_text("{}")
    assert "--anew" in refusal(data, "show")
    assert "--anew" in refusal(data, "publish", 1)
    assert said(data, "publish", 1, "--anew")["base"] == 1
    assert said(data, "show")["base"] == 1


def test_with_a_log_consumers_begin_at_the_newest_snapshot(data: Path, registry: Registry) -> None:
    learner = Learner(registry.base(2))
    with LocalLog.open(data / "logs", EMBEDDINGS, PARTITIONS, create=True) as log:
        writer = DeltaWriter.open(log, 2, learner.base.digest)
        for _ in range(2):
            made = learner.learn()
            closing = writer.append(made.rows, made.closing.positions, made.closing.newest_event_time, made.closing.ready_time)
        learner.snapshot(2, closing.position)
        assert said(data, "publish", 2)["start"]["delta"] == 2
        # Its learner was told, and begins again.
        with pytest.raises(SecondLearnerError):
            writer.append(learner.learn().rows, (9, 9), 1, 1)
        assert said(data, "publish", 1)["start"] == {
            "base": 1,
            "base_digest": registry.base(1).digest,
            "delta": 0,
            "digest": registry.base(1).digest,
            "position": 0,
            "settled": closing.position,
        }
        assert said(data, "rollback")["start"]["delta"] == 2
        assert said(data, "show")["snapshots"] == [2]


def verified(data: Path, code: int) -> list[tuple[str, str]]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        found = front_door("replay", "verify", "--json", data=data, code=code, monkeypatch=monkeypatch).json()["problems"]
    return [(problem["kind"], problem["where"]) for problem in found]


def test_verify_reads_models_too(data: Path, registry: Registry) -> None:
    LocalLog.open(data / "logs", ACTIONS, PARTITIONS, create=True).close()
    learner = Learner(registry.base(1))
    learner.learn()
    learner.snapshot(1, 5)
    assert verified(data, 0) == []
    os.truncate(learner.base.path / "snapshots" / "1" / TABLES["pin"], 7)
    assert verified(data, 1) == [("model", "model base 1, snapshot 1")]
    shutil.rmtree(learner.base.path / "snapshots")
    os.truncate(registry.bases.directory / "2" / DENSE, 7)
    assert verified(data, 1) == [("model", "model base 2"), ("model", "model served")]
    models(data, "rollback")
    assert verified(data, 1) == [("model", "model base 2")]
    (registry.directory / "current.json").write_text("{")
    assert verified(data, 1) == [("model", "model base 2"), ("model", "models/current.json")]


def test_without_the_package_it_is_said(data: Path) -> None:
    code = "import sys; sys.modules['safetensors'] = None; sys.argv = ['tidemark', 'models', 'list']; import tidemark; tidemark.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(data=data), capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "pip install 'tidemark[model]'" in done.stderr
