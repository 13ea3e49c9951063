"""`tidemark embed infer` and `switch`: what they print, and what they refuse, in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo.embedding_reads import embeddings_at
from feature_repo.embedding_table import open_table, served_version
from flows.settings import Settings
from online_model.embedding.actions import LogPrefix
from tests.embedding.served_made import events_of, logged, version
from tests.processes import front_door


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    events = events_of(3, 400, users=40)
    made = logged(tmp_path / "data", events)
    for seed in (1, 2):
        version(made, events["pin_id"].unique(), seed)
    return made


def embed(settings: Settings, monkeypatch: pytest.MonkeyPatch, *options: object, code: int = 0) -> Any:
    return front_door("embed", *options, "--data", settings.data, monkeypatch=monkeypatch, code=code, partitions=2)


def test_what_is_printed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # The newest, where none is served.
    first = json.loads(embed(settings, monkeypatch, "infer", "--json").out)
    table = open_table(settings.data, 2)
    assert (first["version"], first["served"], first["new_table"], first["new_index"]) == (2, True, True, True)
    assert (first["inferred"], first["kept"], first["gone"]) == (len(table), 0, 0)
    assert first["table"]["positions"] == list(LogPrefix.now(settings).actions)
    assert first["index"]["recall"]["share"] > 0.9
    again = json.loads(embed(settings, monkeypatch, "infer", "--daily", "--json").out)
    assert (again["new_table"], again["new_index"], again["kept"]) == (False, False, len(table))
    told = embed(settings, monkeypatch, "infer", "--since", "1:0").out
    assert "version 2 (served), table 2:" in told
    assert "kept; index 1 of" in told
    other = embed(settings, monkeypatch, "infer", "--version", 1).out
    assert "version 1 (not served: `tidemark embed switch 1` serves it)" in other
    assert json.loads(embed(settings, monkeypatch, "switch", 1, "--json").out)["version"] == served_version(settings.data) == 1
    assert "embedding version 2 is served: table 2 of" in embed(settings, monkeypatch, "switch", 2).out


def test_it_is_said_that_what_was_cut_off_is_given_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from online_model.embedding import inference

    with monkeypatch.context() as patched:
        patched.setattr(inference, "write_history", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        embed(settings, patched, "infer", code=130)
    told = embed(settings, monkeypatch, "infer", "--full").out
    assert told.startswith("gave up what was cut off, for other options were given then\nversion 2 (served), table 1:")


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("infer", "--since", "x"), 2, "says no positions: give an offset for each partition"),
        (("infer", "--since", "1,2,3"), 2, "3 positions are given, and log 'actions' has 2 partitions"),
        (("infer", "--since", "7:1"), 2, "there is no partition 7 of log 'actions'; it has 2"),
        (("infer", "--version", "9"), 1, "there is no embedding version 9"),
        (("infer", "--vectors", "nowhere.parquet"), 1, "there is no such file"),
        (("switch", "1"), 1, "embedding version 1 can't be served: there is no table of user embeddings of version 1"),
        (("switch", "9"), 1, "there is no embedding version 9"),
    ],
)
def test_what_is_refused(options: tuple[str, ...], code: int, told: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = embed(settings, monkeypatch, *options, code=code)
    assert told in ended.err
    assert "Traceback" not in ended.err


def test_feast_reads_the_table_that_is_served_or_what_was_known(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = embeddings_at(settings, np.array([1, 2]), 0)
    assert nobody.found.tolist() == [False, False]
    as_of = int(json.loads(embed(settings, monkeypatch, "infer", "--json").out)["table"]["as_of"])
    table = open_table(settings.data, 2)
    users = np.append(table.user_ids, 1)
    now, was, before = (embeddings_at(settings, users, time) for time in (as_of + 5, as_of, as_of - 1))
    assert now.vectors.tobytes() == was.vectors.tobytes()
    assert now.vectors[:-1].tobytes() == table.vectors.tobytes()
    assert (now.found.sum(), now.found[-1], before.found.any()) == (len(table), False, False)
    assert set(now.version.tolist()) == {2, -1}
    # As a mixture of moments, it is point in time.
    mixed = embeddings_at(settings, users[:2], np.array([as_of, as_of - 1]))
    assert mixed.found.tolist() == [True, False]
    assert mixed.vectors[0].tobytes() == table.vectors[0].tobytes()
    assert mixed.position[0] == now.position[0]
