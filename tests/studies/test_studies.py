"""Each study, tiny: it says what it promises, the same each time, and makes nothing twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from flows.settings import DAY_MS
from online_model.evaluation.command import evaluate
from online_model.studies import retrain, sync_interval
from online_model.studies.bases import Base, Window
from online_model.studies.plan import Plan
from online_model.studies.running import run
from online_model.studies.stream import Stream
from online_model.studies.study import Study
from tests.studies.conftest import TINY

SMALL = replace(TINY, seeds=(1,), worlds=("drifting",))
PLANS = {
    "sync_interval": replace(SMALL, days=replace(TINY.days, until=5.2)),
    "retrain": replace(SMALL, days=replace(TINY.days, until=4 + 7.5)),
    # An embedding is learned from the days before.
    "user_embedding": replace(SMALL, days=replace(TINY.days, train=2)),
}
STUDIES = ("sync_interval", "delayed_labels", "retrain", "revisit", "encoders", "user_embedding")


def study(module: str) -> tuple[Study, Plan]:
    return import_module(f"online_model.studies.{module}").STUDY, PLANS.get(module, SMALL)


@pytest.fixture(scope="module", params=STUDIES)
def found(request: pytest.FixtureRequest, work: Path) -> dict[str, Any]:
    return run(*study(request.param), work)


def test_every_arm_is_told_and_every_difference_follows_from_it(found: dict[str, Any]) -> None:
    one, _ = study(found["study"].replace("-", "_"))
    world = found["worlds"]["drifting"]
    assert list(world["arms"]) == list(one.arms)
    for arm in world["arms"].values():
        assert arm["click"]["rows"] == world["seeds"]["1"]["rows"] > 50
    said = [json.dumps(arm, sort_keys=True) for arm in world["arms"].values()]
    assert len(set(said)) == len(said), "two arms are the same to the last digit"
    for against in one.differences:
        told = world["differences"][against.name]["heads"]
        for head, metrics in told.items():
            for metric, value in metrics.items():
                sides = [world["arms"][arm][head][metric]["value"] for arm in (against.this, against.against)]
                assert value["value"] == (None if None in sides else sides[0] - sides[1])
    key, name, head, metric = one.main
    assert found["results"][key]["value"] == world["differences"][name]["heads"][head][metric]["value"]
    assert [one.difference for one in one.directions] == [each["difference"] for each in found["directions"]]
    json.dumps(found, allow_nan=False)


def test_the_true_chances_are_better_than_any_arm(found: dict[str, Any]) -> None:
    world = found["worlds"]["drifting"]
    for arm in world["arms"].values():
        assert arm["click"]["auc"]["value"] < world["best"]["click"]["auc"]["value"]


def test_a_study_that_is_run_again_makes_nothing_again(found: dict[str, Any], work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stream.simulate", "bases.train", "bases.score_rows", "serving.Step"):
        monkeypatch.setattr(f"online_model.studies.{name}", None)
    assert run(*study(found["study"].replace("-", "_")), work) == found


def test_the_same_plan_is_the_same_json_whatever_was_there(work: Path, tmp_path: Path) -> None:
    plan = replace(TINY, days=replace(TINY.days, until=4.25))
    first = run(sync_interval.STUDY, plan, work)
    # What is left of a run that was killed is taken; here the bases and one arm of one seed are gone.
    shutil.copytree(work / "histories", tmp_path / "histories")
    shutil.copytree(work / "sync-interval", tmp_path / "sync-interval")
    for path in sorted((tmp_path / "sync-interval").glob("1h-*.npz"))[::2]:
        path.unlink()
    assert json.dumps(run(sync_interval.STUDY, plan, tmp_path)) == json.dumps(first)
    assert set(first["results"]) == {"gain_1min_over_never", "gain_1min_over_never_still"}
    of_seeds = first["results"]["gain_1min_over_never"]["by_seed"]
    assert len(of_seeds) == 2
    assert of_seeds[0] != of_seeds[1]
    assert first["results"]["gain_1min_over_never"]["value"] == pytest.approx(np.mean(of_seeds))


def test_a_retrain_sees_only_what_had_matured_half_a_day_before_it_is_served(
    stream: Stream, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: list[Window] = []
    real = retrain.Bench.base

    def base(self: retrain.Bench, window: Window | None = None, *rest: Any, **named: Any) -> Base:
        if window is not None:
            windows.append(window)
        return real(self, window, *rest, **named)

    monkeypatch.setattr(retrain.Bench, "base", base)
    shutil.copytree(work / "histories", tmp_path / "histories")
    run(retrain.STUDY, PLANS["retrain"], tmp_path)
    begin = PLANS["retrain"].days.moment("evaluate")
    half = DAY_MS // 2
    # Of 7.5 days: one retrain weekly, after 7, and two of twice weekly, each from where the one before ended; with both sets of features.
    weekly = [Window(begin - DAY_MS, begin + 11 * half, begin + 13 * half)]
    twice = [Window(begin - DAY_MS, begin + 4 * half, begin + 6 * half), Window(begin + 4 * half, begin + 11 * half, begin + 13 * half)]
    assert windows == [*weekly, *twice] * 2


@pytest.mark.parametrize("found", ["sync_interval", "revisit"], indirect=True)
def test_the_command_prints_the_json_and_writes_a_page(
    found: dict[str, Any], work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = found["study"]
    one, plan = study(name.replace("-", "_"))
    monkeypatch.setattr(f"online_model.studies.{name.replace('-', '_')}.STUDY", replace(one, quick=plan))
    page = tmp_path / "page.html"
    options = [name, "--quick", "--work", str(work), "--html", str(page)]
    shown = CliRunner().invoke(evaluate, options, catch_exceptions=False)
    assert shown.exit_code == 0
    assert one.question in shown.output
    assert "too small for claims" in shown.output
    for arm in one.arms:
        assert arm in shown.output
        assert arm in page.read_text()
    printed = CliRunner().invoke(evaluate, [*options, "--json"], catch_exceptions=False)
    assert json.loads(printed.output) == {**found, "quick": True}


def test_a_page_that_can_not_be_written_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    refused = CliRunner().invoke(evaluate, ["revisit", "--html", str(tmp_path / "none" / "page.html")])
    assert refused.exit_code != 0
    assert "there is no directory" in str(refused.exception)


@pytest.mark.parametrize("module", STUDIES)
def test_a_plan_for_claims_has_three_seeds_and_a_control(module: str) -> None:
    one, _ = study(module)
    assert len(one.full.seeds) >= 3
    assert list(one.full.worlds) == ["drifting", "still"]
    assert one.full.sizes["events"] > one.quick.sizes["events"]
    assert f"tidemark evaluate {one.name} --quick" in CliRunner().invoke(evaluate, [one.name, "--help"]).output
