"""Runs that infer users and are killed, or find what another left: run again, the table is the same to the byte, or made anew, and why is said."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from feature_repo import embedding_table
from feature_repo.embedding_table import ROWS, open_table
from feature_repo.errors import DamagedEmbeddingError
from flows.errors import CorruptionError, TidemarkError
from flows.settings import Settings
from online_model.embedding import inference
from online_model.embedding.actions import read_actions
from tests.embedding.inferring import copied, events, ran, rows_bytes, settings
from tests.embedding.served_made import append, before, events_of, files_of, logged, version
from tests.registry.test_crashes import CHANGES

__all__ = ["events", "settings"]


class Killed(BaseException):
    """Like a SIGKILL: nothing that follows reaches the disk, and nobody catches it."""


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """From the n-th change of the disk on, none is made."""
    real = {name: getattr(os, name) for name in CHANGES}
    before = dict(real)
    # What is durable is another test's matter, and syncs are most of the time.
    real["fsync"] = lambda descriptor: None

    def arm(number: int) -> list[str]:
        made: list[str] = []

        def wrapped(name: str) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                # Of the lock, the kernel makes an end when a process has one.
                if Path(str(arguments[0])).name != "INFER" and (name != "open" or arguments[1] & os.O_CREAT):
                    made.append(name)
                    if len(made) == number:
                        raise Killed
                    if len(made) > number:
                        raise OSError(errno.EIO, "it is dead")
                return real[name](*arguments, **named)

            return call

        for name in CHANGES:
            monkeypatch.setattr(os, name, wrapped(name))
        return made

    yield arm
    for name, function in before.items():
        monkeypatch.setattr(os, name, function)


def test_killed_anywhere_and_run_again_it_is_the_same(
    settings: Settings, events: pd.DataFrame, tmp_path: Path, killed_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And at every moment the newest table is whole: the one before, or the one that was to be."""
    monkeypatch.setattr(inference, "PART_USERS", 60)
    ran(settings)
    old = rows_bytes(settings)
    append(settings, before(events, 0.6)[1])
    clean = copied(settings, tmp_path / "clean")
    ran(clean)
    new, history = rows_bytes(clean), files_of(clean.offline)
    dry = copied(settings, tmp_path / "dry")
    changes = killed_at(10**9)
    ran(dry)
    # Each name that appears or goes, what follows it, and every fourth of the others.
    names = [name in ("rename", "unlink", "rmdir") for name in changes]
    at = [number for number in range(1, len(names) + 1) if any(names[max(0, number - 2) : number]) or number % 4 == 0]
    assert len(at) > 15
    for number in at:
        cut = copied(settings, tmp_path / "cut")
        killed_at(number)
        with suppress(Killed, TidemarkError):
            ran(cut)
        killed_at(10**9)
        found = open_table(cut.data, 1)
        assert rows_bytes(cut) in (old, new)
        assert found.manifest.number in (1, 2)
        again = ran(cut).users
        assert rows_bytes(cut) == new
        assert files_of(cut.offline) == history
        assert again.table.manifest == open_table(clean.data, 1).manifest
        assert not (cut.data / "embeddings" / "1" / "work").exists()
        shutil.rmtree(cut.data)


def test_a_run_that_was_cut_off_goes_on_with_what_it_was_to_reflect(
    settings: Settings, events: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "PART_USERS", 10)
    clean = copied(settings, tmp_path / "clean")
    ran(clean)
    seen = []

    def stages(stage: str, done: int, total: int) -> None:
        if stage == "users" and done >= 40:
            raise Killed

    with suppress(Killed):
        ran(settings, stages=stages)
    append(settings, before(events, 0.6)[1])
    from online_model.embedding.embedding_model import EmbeddingModel

    real = EmbeddingModel.users
    monkeypatch.setattr(EmbeddingModel, "users", lambda self, some: (seen.append(len(some)), real(self, some))[1])
    done = ran(settings).users
    assert done.resumed
    assert rows_bytes(settings) == rows_bytes(clean)
    assert sum(seen) == done.inferred - 40
    assert ran(settings).users.inferred > 0


def cut_off(settings: Settings, monkeypatch: pytest.MonkeyPatch, **how: Any) -> None:
    """A run that was killed after its first part."""
    monkeypatch.setattr(inference, "PART_USERS", 10)

    def stages(stage: str, done: int, total: int) -> None:
        if stage == "users":
            raise Killed

    with pytest.raises(Killed):
        ran(settings, **how, stages=stages)
    assert (settings.data / "embeddings" / "1" / "work" / "plan.json").exists()


@pytest.mark.parametrize("name", ["full", "since", "as_of"])
def test_a_run_that_was_cut_off_is_given_up_for_other_options(
    settings: Settings, events: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ran(settings)
    append(settings, before(events, 0.6)[1])
    times = read_actions(settings).time_ms
    how = {"full": True, "since": (0, 0), "as_of": int(times.max()) - 1}[name]
    clean = copied(settings, tmp_path / "clean")
    wanted = ran(clean, **{name: how}).users
    cut_off(settings, monkeypatch)
    done = ran(settings, **{name: how}).users
    assert (done.resumed, done.given_up) == (False, "other options were given then")
    assert (done.inferred, done.table.manifest.number, done.table.manifest.as_of) == (wanted.inferred, 2, wanted.table.manifest.as_of)
    assert rows_bytes(settings) == rows_bytes(clean)
    # Asked for the same, it goes on; and a run without options doesn't take up one with some.
    append(settings, events_of(8)[:200])
    for again in ({name: how} if name != "as_of" else {name: 2**60}, {}):
        cut_off(settings, monkeypatch, **{name: how} if name != "as_of" else {name: 2**60})
        done = ran(settings, **again).users
        assert (done.resumed, done.given_up) == ((True, None) if again else (False, "other options were given then"))
        append(settings, events_of(9)[:200])


@pytest.mark.parametrize("lost", ["damaged", "gone"])
def test_a_run_that_was_cut_off_is_given_up_where_its_table_before_is_no_more(
    settings: Settings, events: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    table = ran(settings).users.table
    append(settings, before(events, 0.6)[1])
    clean = copied(settings, tmp_path / "clean")
    ran(clean)
    cut_off(settings, monkeypatch)
    if lost == "gone":
        shutil.rmtree(table.path)
    else:
        (table.path / ROWS).write_bytes(b"#")
        embedding_table._opened.cache_clear()
        with pytest.raises(DamagedEmbeddingError, match="`tidemark embed infer --full` makes it anew"):
            ran(settings)
    done = ran(settings, full=lost == "damaged").users
    assert not done.resumed
    assert done.given_up == (None if lost == "damaged" else "table 1, over which it was to be merged, can't be read")
    assert done.inferred == len(done.table)
    assert rows_bytes(settings) == rows_bytes(clean)


def test_full_makes_anew_what_was_cut_off_over_a_table_that_is_damaged(
    settings: Settings, events: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: the advice of the error leads out."""
    table = ran(settings).users.table
    append(settings, before(events, 0.6)[1])
    cut_off(settings, monkeypatch)
    (table.path / ROWS).write_bytes(b"#")
    embedding_table._opened.cache_clear()
    done = ran(settings, full=True).users
    assert (done.resumed, done.given_up, done.inferred) == (False, "other options were given then", len(done.table))


def test_a_run_that_was_cut_off_is_given_up_where_the_log_is_shorter(
    settings: Settings, events: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had been restored to what it was before the records that the run was to reflect."""
    short = copied(settings, tmp_path / "short")
    append(settings, before(events, 0.6)[1])
    cut_off(settings, monkeypatch)
    shutil.copytree(settings.data / "embeddings" / "1" / "work", short.data / "embeddings" / "1" / "work")
    clean = logged(tmp_path / "clean", before(events, 0.6)[0])
    version(clean, events["pin_id"].unique()[::2])
    ran(clean)
    done = ran(short).users
    assert (done.resumed, done.given_up) == (False, "the log has been restored to before what it was to reflect")
    assert rows_bytes(short) == rows_bytes(clean)


def test_a_plan_or_a_part_that_is_not_what_was_written_is_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "PART_USERS", 10)
    monkeypatch.setattr(inference, "write_history", lambda *_: (_ for _ in ()).throw(Killed))
    with suppress(Killed):
        ran(settings)
    work = settings.data / "embeddings" / "1" / "work"
    shutil.copyfile(work / "1.safetensors", work / "0.safetensors")
    with pytest.raises(CorruptionError, match="is of other users than it should be; delete"):
        ran(settings)
    (work / "plan.json").write_text("{}")
    with pytest.raises(CorruptionError, match="is not what was written"):
        ran(settings)
