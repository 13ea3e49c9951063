"""Users, pins and index of one version, and never of two; which version is served, who decides it, and when it can't be."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from feature_repo.embedding_table import open_table, served_table, served_version
from feature_repo.errors import DamagedEmbeddingError, NoEmbeddingError
from flows.sealed import sealed
from flows.settings import Settings
from online_model.embedding.daily import keep_current
from online_model.embedding.errors import DamagedIndexError, NoVersionError, SwitchError
from online_model.embedding.retrieval import open_retriever
from online_model.embedding.sources import Source
from online_model.embedding.switch import serve_first, switch
from tests.embedding.served_made import events_of, logged, version


@pytest.fixture
def events() -> pd.DataFrame:
    return events_of(11, 600, users=60)


@pytest.fixture
def settings(tmp_path: Path, events: pd.DataFrame) -> Settings:
    """Two versions over one log; the first is inferred."""
    made = logged(tmp_path / "data", events)
    for seed in (1, 2):
        version(made, events["pin_id"].unique(), seed)
    keep_current(made, place(made, 1))
    return made


def place(settings: Settings, number: int) -> Path:
    return settings.data / "embeddings" / str(number)


def test_the_first_is_served_and_a_later_one_when_it_is_told(settings: Settings) -> None:
    assert served_version(settings.data) == 1
    with pytest.raises(SwitchError, match=r"version 2 can't be served: .*no table of user embeddings of version 2"):
        switch(settings, 2)
    assert served_version(settings.data) == 1
    done = keep_current(settings, place(settings, 2))
    assert not done.served
    # A new version infers everyone, and keeps nothing of another's.
    assert (done.users.kept, done.users.inferred) == (0, len(served_table(settings.data)))
    assert served_table(settings.data).manifest.version == 1
    switch(settings, 2)
    assert served_table(settings.data).manifest.version == 2
    assert not serve_first(settings, 1)
    with pytest.raises(NoVersionError):
        switch(settings, 9)


def test_a_ranker_that_takes_embeddings_decides(settings: Settings) -> None:
    keep_current(settings, place(settings, 2))
    bases = settings.data / "models" / "bases"

    def rank_with(base: int, taken: int | None) -> None:
        (bases / str(base)).mkdir(parents=True, exist_ok=True)
        config = {} if taken is None else {"embedding": {"version": taken}}
        (bases / str(base) / "manifest.json").write_bytes(sealed({"about": {"config": config}}))
        (settings.data / "models" / "current.json").write_bytes(sealed({"start": {"base": base}}))

    rank_with(1, None)
    assert served_version(settings.data) == 1
    rank_with(2, 2)
    # With one switch, of the file that names the ranker.
    assert served_version(settings.data) == 2
    assert served_table(settings.data).manifest.version == 2
    with pytest.raises(SwitchError, match="takes user embeddings of version 2; train one on version 1 and publish it"):
        switch(settings, 1)
    switch(settings, 2)
    rank_with(1, None)
    assert served_version(settings.data) == 2


def test_users_and_pins_of_two_embeddings_are_never_held_together(settings: Settings) -> None:
    keep_current(settings, place(settings, 2))
    for name, error, told in (
        ("users", DamagedIndexError, "not of the same embedding"),
        ("pins", DamagedIndexError, "not of the same embedding"),
    ):
        shutil.move(place(settings, 1) / name, place(settings, 1) / "aside")
        shutil.copytree(place(settings, 2) / name, place(settings, 1) / name)
        with pytest.raises(error, match=told):
            open_retriever(settings, 1)
        shutil.rmtree(place(settings, 1) / name)
        shutil.move(place(settings, 1) / "aside", place(settings, 1) / name)
    # A version that was made anew under an old number isn't the one whose users lie there.
    shutil.copyfile(place(settings, 2) / "manifest.json", place(settings, 1) / "manifest.json")
    with pytest.raises(SwitchError, match="were inferred by another version of that number"):
        switch(settings, 1)


def test_what_has_not_changed_is_not_read_again(settings: Settings) -> None:
    first = open_retriever(settings, 1)
    assert open_retriever(settings, 1, first) is first
    keep_current(settings, place(settings, 1), full=True)
    second = open_retriever(settings, 1, first)
    assert second is not first
    assert second.pins is first.pins
    assert second.table.manifest.number == first.table.manifest.number + 1


def test_pins_for_a_user_are_the_nearest_less_what_they_know(settings: Settings) -> None:
    found = open_retriever(settings, 1)
    vectors = np.array([found.pins.graph.reconstruct(i) for i in range(len(found.pins.pin_ids))])
    for row in range(0, len(found.table), 5):
        user = int(found.table.user_ids[row])
        order = np.argsort(-(vectors @ found.table.vectors[row]), kind="stable")
        known = found.pins.pin_ids[order[[0, 2, 3]]]
        wanted = [pin for pin in found.pins.pin_ids[order].tolist() if pin not in known.tolist()]
        got = found.retrieve(user, 10, known)
        assert got.source is Source.EMBEDDING
        assert got.pins.tolist() == wanted[:10]
        assert np.allclose(got.score, np.sort(got.score)[::-1])
        assert len(found.retrieve(user, 10_000, known).pins) == len(wanted)


def test_somebody_new_gets_what_is_popular(settings: Settings, events: pd.DataFrame) -> None:
    from online_model.embedding.actions import read_actions

    found = open_retriever(settings, 1)
    sequences = read_actions(settings)
    late = sequences.time_ms > sequences.time_ms.max() - 28 * 86_400_000
    counts = pd.Series(sequences.pin_ids[sequences.pin][late & (sequences.action != sequences.actions["hide"])]).value_counts()
    wanted = sorted(counts.index.tolist(), key=lambda pin: (-counts[pin], pin))
    got = found.retrieve(1, 10, np.array(wanted[:2]))
    assert got.source is Source.POPULAR
    assert got.pins.tolist() == wanted[2:12]
    assert got.score.tolist() == [0.0] * 10


@pytest.mark.parametrize("how", ["flip", "cut", "gone", "manifest", "format"])
def test_a_damaged_table_is_said(how: str, settings: Settings) -> None:
    path = place(settings, 1) / "users" / "1"
    data = bytearray((path / "users.arrow").read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 1
        (path / "users.arrow").write_bytes(bytes(data))
    elif how == "cut":
        (path / "users.arrow").write_bytes(bytes(data[:-1]))
    elif how == "gone":
        (path / "users.arrow").unlink()
    else:
        content = {key: value for key, value in __import__("json").loads((path / "manifest.json").read_bytes()).items() if key != "digest"}
        (path / "manifest.json").write_bytes(b"{}" if how == "manifest" else sealed(content | {"format": 2}))
    # Another copy, as this process has read the first.
    moved = settings.data.with_name("moved")
    settings.data.rename(moved)
    with pytest.raises(DamagedEmbeddingError, match=r"`tidemark embed infer --full` makes it anew"):
        open_table(moved, 1)
    with pytest.raises(NoEmbeddingError, match="no user embeddings are served"):
        served_table(moved.with_name("nowhere"))
