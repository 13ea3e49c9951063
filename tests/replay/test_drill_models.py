"""The drill's model side: a publish that is killed, damage to a base, to snapshots and deltas, to examples; each found and put right."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from unittest import mock

import pytest

from flows.open_log import open_log
from flows.outputs import ACTIONS
from replay.drill import runner
from replay.drill.classes import CLASSES
from replay.drill.model_site import with_models
from replay.drill.operator import DrillError
from replay.drill.row import Row
from replay.drill.runner import Runner
from replay.drill.site import prepare
from tests.processes import Simulated, settings_of
from tests.replay.test_drill import SMALL, typing

MODELS = [name for name, one in CLASSES.items() if one.models]


@pytest.fixture(scope="module")
def drilled(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    directory = tmp_path_factory.mktemp("drill")
    settings = settings_of(directory / "source", **SMALL)
    with pytest.MonkeyPatch.context() as monkeypatch:
        type_it = typing(monkeypatch)
        assert type_it(settings, "ingest", simulated.files[0]).code == 0
        with open_log(settings, ACTIONS, read_only=True) as log:
            site = prepare(log, settings, directory / "sound", type_it)
        yield Runner(with_models(site, directory / "sound-models", type_it), type_it, directory)


def check(drilled: Runner, name: str, seed: int, tmp_path: Path) -> Row:
    row = drilled.drill(CLASSES[name], seed, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy")
    assert row.detected_by, row
    assert row.equal, row
    return row


@pytest.mark.parametrize("name", MODELS)
def test_every_class_is_found_and_put_right(drilled: Runner, name: str, tmp_path: Path) -> None:
    check(drilled, name, 0, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 25))
@pytest.mark.parametrize("name", MODELS)
def test_every_class_is_found_and_put_right_by_many_seeds(drilled: Runner, name: str, seed: int, tmp_path: Path) -> None:
    check(drilled, name, seed, tmp_path)


def test_what_is_not_put_right_is_not_equal(drilled: Runner, tmp_path: Path) -> None:
    with mock.patch.object(runner, "mend_models"):
        row = drilled.drill(CLASSES["base-damaged"], 0, tmp_path / "copy")
    assert row.detected_by == "replay verify: model"
    assert not row.equal


def test_what_is_not_looked_for_is_not_found(drilled: Runner, tmp_path: Path) -> None:
    with mock.patch("replay.commands.verify.verify_models", return_value=[]):
        row = drilled.drill(CLASSES["snapshot-damaged"], 0, tmp_path / "copy")
    assert not row.detected_by


@pytest.mark.parametrize("name", [name for name in MODELS if CLASSES[name].done_by is None])
def test_damage_follows_from_the_seed(drilled: Runner, name: str, tmp_path: Path) -> None:
    said = [CLASSES[name].damage(drilled._site.copied(tmp_path / f"copy-{i}"), Random(7)) for i in range(2)]
    assert said[0] == said[1]


def test_without_requests_there_is_nothing_to_learn_from(drilled: Runner, tmp_path: Path) -> None:
    with (
        mock.patch("replay.drill.model_site._impressions", return_value=[]),
        pytest.raises(DrillError, match="no impression names a request"),
    ):
        with_models(drilled._site, tmp_path / "models", lambda *words: pytest.fail("nothing is typed"))
