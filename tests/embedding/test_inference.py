"""A table of users is a function of the version and of the prefix that it reflects: however it came to be, the same to the byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from feature_repo import embedding_table
from feature_repo.embedding_history import EmbeddingHistory
from feature_repo.embedding_table import ROWS, EmbeddingTable, open_table, table_numbers
from feature_repo.errors import DamagedEmbeddingError
from flows.errors import LockedError
from flows.partition import partition_of
from flows.settings import Settings
from online_model.embedding.actions import LogPrefix, read_actions
from online_model.embedding.errors import NoActionsError, OtherTimeError
from online_model.embedding.inference import alone, inputs_of
from online_model.embedding.sequences import UserSequences
from online_model.embedding.table import Rows, merged
from online_model.embedding.version import load
from replay.rebuild.request import Request
from replay.rebuild.scan import Scope
from tests.embedding.inferring import copied, events, ran, rows_bytes, settings
from tests.embedding.served_made import D, append, before, events_of, logged, version
from tests.replay.correcting import Site

__all__ = ["events", "settings"]


def test_each_vector_is_the_models_own_of_the_users_actions(settings: Settings) -> None:
    """One user at a time, without batches, parts or tables."""
    done = ran(settings)
    model, sequences = load(settings.data / "embeddings" / "1"), read_actions(settings)
    table = done.users.table
    assert table.user_ids.tolist() == sequences.user_ids.tolist()
    for place in range(0, len(table), 9):
        alone_ = model.users(sequences.take(np.array([place])))
        assert alone_[0].tobytes() == table.vectors[place].tobytes()
        assert table.event_time[place] == sequences.time_ms[sequences.offsets[place + 1] - 1]
    assert table.manifest.as_of == sequences.time_ms.max()
    assert np.allclose(np.linalg.norm(table.vectors, axis=1), 1, atol=1e-5)
    assert (done.users.inferred, done.users.kept, done.users.gone) == (len(table), 0, 0)


def test_from_day_to_day_is_what_everyone_anew_is(settings: Settings, events: pd.DataFrame, tmp_path: Path) -> None:
    first = ran(settings).users.table
    rest = before(events, 0.6)[1]
    for share in (0.2, 0.5, 1.0):
        part, rest = before(rest, share) if share < 1 else (rest, rest[:0])
        append(settings, part)
        full = copied(settings, tmp_path / f"full-{share}")
        done, anew = ran(settings).users, ran(full, full=True).users
        assert 0 < done.inferred < anew.inferred
        assert done.inferred + done.kept == anew.inferred
        assert rows_bytes(settings) == rows_bytes(full)
        # Who was inferred is who has done something else than look at pins since.
        touched = read_actions(settings, since=first.manifest.actions).user_ids
        history = EmbeddingHistory(settings.offline, open_table(settings.data, 1).manifest)
        run = history.at(done.table.user_ids, np.full(len(done.table), 2**62)).run
        assert set(done.table.user_ids[run == done.table.manifest.number]) <= set(touched.tolist())
        assert (done.table.manifest.actions, done.table.manifest.corrected_to) == (
            LogPrefix.now(settings).actions,
            LogPrefix.now(settings).corrected_to,
        )
        first = done.table
    again = ran(settings).users
    assert (again.new, again.inferred, again.table.manifest) == (False, 0, first.manifest)
    assert len(table_numbers(settings.data, 1)) == 2


def test_users_touched_since_a_position_are_inferred_and_no_others(settings: Settings) -> None:
    ran(settings)
    ends = LogPrefix.now(settings).actions
    since = (ends[0] - 30, ends[1])
    touched = read_actions(settings, since=since).user_ids
    whole = rows_bytes(settings)
    done = ran(settings, since=since).users
    assert 0 < done.inferred == len(touched) < len(done.table)
    assert rows_bytes(settings) == whole
    history = EmbeddingHistory(settings.offline, open_table(settings.data, 1).manifest)
    run = history.at(done.table.user_ids, np.full(len(done.table), 2**62)).run
    assert sorted(done.table.user_ids[run == done.table.manifest.number].tolist()) == sorted(touched.tolist())


def test_what_a_damaged_table_says_of_those_touched_is_put_right(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a fault upstream had made vectors wrong without changing anybody's actions."""
    ends = LogPrefix.now(settings).actions
    since = (ends[0] - 30, ends[1] - 30)
    wrong = read_actions(settings, since=since).user_ids
    right = ran(settings).users.table
    kept = bytes(rows_bytes(settings))
    from online_model.embedding.embedding_model import EmbeddingModel

    real = EmbeddingModel.users
    monkeypatch.setattr(EmbeddingModel, "users", lambda self, some: np.roll(real(self, some), 1, axis=1))
    assert ran(settings, since=since).users.inferred == len(wrong)
    assert rows_bytes(settings) != kept
    monkeypatch.undo()
    assert not ran(settings).users.new
    assert ran(settings, since=since).users.inferred == len(wrong)
    assert rows_bytes(settings) == kept
    assert len(right) > len(wrong)


def test_at_a_time_no_later_action_counts(settings: Settings, events: pd.DataFrame, tmp_path: Path) -> None:
    times = np.sort(read_actions(settings).time_ms)
    early, later = int(times[len(times) // 3]), int(times[len(times) // 2])
    other = copied(settings, tmp_path / "other")
    first = ran(settings, as_of=early).users.table
    assert first.manifest.as_of == early
    assert first.event_time.max() <= early
    second = ran(settings, as_of=later).users
    assert 0 < second.inferred < len(second.table)
    ran(other, as_of=later)
    assert rows_bytes(settings) == rows_bytes(other)
    for full in (False, True):
        with pytest.raises(OtherTimeError, match="what was known at a time must not change"):
            ran(settings, as_of=early, full=full)


def test_what_was_known_at_a_moment_is_that_of_the_run_before(settings: Settings, events: pd.DataFrame) -> None:
    """Of each user, by a walk over all runs; and a user who is no more has nothing from then on."""
    tables, rest = [ran(settings).users.table], before(events, 0.6)[1]
    for share in (0.5, 1.0):
        part, rest = before(rest, share) if share < 1 else (rest, rest[:0])
        append(settings, part)
        tables.append(ran(settings).users.table)
    held = [(table.manifest, dict(zip(table.user_ids.tolist(), table.vectors.copy(), strict=True))) for table in tables]
    history = EmbeddingHistory(settings.offline, open_table(settings.data, 1).manifest)
    users = np.array([*tables[-1].user_ids.tolist(), 1, 2**63 - 1])
    for as_of in [table.manifest.as_of for table in tables]:
        for moment in (as_of - 1, as_of, as_of + 1):
            for inclusive in (False, True):
                known = [one for one in held if one[0].as_of < moment or (inclusive and one[0].as_of == moment)]
                found = history.at(users, np.full(len(users), moment), inclusive)
                wanted = known[-1][1] if known else {}
                assert found.found.tolist() == [user in wanted for user in users.tolist()]
                for place, user in enumerate(users.tolist()):
                    assert found.vectors[place].tobytes() == wanted.get(user, np.zeros(D, np.float32)).tobytes()
                if known:
                    positions = np.array(known[-1][0].actions)[partition_of(users, settings.partitions)]
                    assert found.position.tolist() == np.where(found.found, positions, -1).tolist()
    # One query for each user, of times all over.
    times = np.random.default_rng(3).integers(tables[0].manifest.as_of - 10, tables[-1].manifest.as_of + 10, len(users))
    mixed, single = history.at(users, times), [history.at(users[i : i + 1], times[i : i + 1]) for i in range(len(users))]
    assert mixed.vectors.tobytes() == b"".join(one.vectors.tobytes() for one in single)
    assert mixed.run.tolist() == [int(one.run[0]) for one in single]


def test_a_correction_changes_whom_it_touches_and_takes_out_who_is_no_more(tmp_path: Path) -> None:
    site = Site.of(tmp_path, events_of(4, 400, users=40), 4, 2, 200)
    site.write(1.0)
    settings = site.settings
    version(settings, site.events["pin_id"].unique())
    before_ = ran(settings).users.table
    victim, other = int(before_.user_ids[len(before_) // 2]), int(before_.user_ids[0])
    site.rebuild(Request(site.tasks(), exclude="event_time > 0", scope=Scope(users=np.array([victim]))))
    full = copied(settings, tmp_path / "full")
    done = ran(settings).users
    ran(full, full=True)
    assert rows_bytes(settings) == rows_bytes(full)
    assert (done.gone, done.inferred) == (1, 0)
    assert done.table.user_ids.tolist() == [user for user in before_.user_ids.tolist() if user != victim]
    found = EmbeddingHistory(settings.offline, done.table.manifest).at(np.array([victim, other]), np.full(2, 2**62), True)
    assert found.found.tolist() == [False, True]
    site.rebuild(Request(site.tasks(), exclude="action == 'save'"))
    full = copied(settings, tmp_path / "again")
    assert 0 < ran(settings).users.inferred < ran(full, full=True).users.inferred
    assert rows_bytes(settings) == rows_bytes(full)


def test_where_corrections_take_out_everything_nobody_is_left(tmp_path: Path) -> None:
    site = Site.of(tmp_path, events_of(4, 400, users=40), 4, 2, 200)
    site.write(1.0)
    settings = site.settings
    version(settings, site.events["pin_id"].unique())
    known = ran(settings).users.table
    site.rebuild(Request(site.tasks(), exclude="event_time > 0"))
    done = ran(settings).users
    assert (done.new, len(done.table), done.gone) == (True, 0, len(known))
    assert (done.table.manifest.number, done.table.manifest.as_of, done.table.manifest.popular) == (2, known.manifest.as_of, ())
    found = EmbeddingHistory(settings.offline, done.table.manifest).at(known.user_ids, np.full(len(known), 2**62), True)
    assert not found.found.any()
    assert not ran(settings).users.new
    assert len(ran(settings, full=True).users.table) == 0


@pytest.mark.parametrize("lost", ["newest", "all"])
def test_a_number_never_comes_to_mean_another_table(settings: Settings, events: pd.DataFrame, tmp_path: Path, lost: str) -> None:
    """Examples name the table that they were served with: what it said stays, though somebody has deleted it."""
    ran(settings)
    append(settings, before(events, 0.6)[1])
    table = ran(settings).users.table
    said = dict(zip(table.user_ids.tolist(), table.vectors.copy(), strict=True))
    tables = settings.data / "embeddings" / "1" / "users"
    shutil.rmtree(tables / "2" if lost == "newest" else tables)
    append(settings, events_of(8)[:200])
    clean = copied(settings, tmp_path / "clean")
    done = ran(settings).users
    assert (done.table.manifest.number, done.inferred) == (3, len(done.table))
    shutil.rmtree(clean.data / "embeddings" / "1" / "users", ignore_errors=True)
    shutil.rmtree(clean.offline)
    ran(clean)
    assert rows_bytes(settings) == rows_bytes(clean)
    users = np.array([*said, 1])
    history = EmbeddingHistory(settings.offline, done.table.manifest)
    for number, wanted in ((2, said), (3, dict(zip(done.table.user_ids.tolist(), done.table.vectors, strict=True)))):
        vectors, found = history.of_tables(users, np.full(len(users), number))
        assert found.tolist() == [user in wanted for user in users.tolist()]
        assert vectors[found].tobytes() == b"".join(wanted[user].tobytes() for user in users[found].tolist())
    with pytest.raises(OtherTimeError, match="what was known at a time must not change"):
        ran(settings, as_of=done.table.manifest.as_of - 1)


@pytest.mark.parametrize("name", [ROWS, "manifest.json"])
def test_a_damaged_table_is_made_anew(settings: Settings, events: pd.DataFrame, tmp_path: Path, name: str) -> None:
    """As its error says: by --full, and nobody meets it again."""
    ran(settings)
    append(settings, before(events, 0.6)[1])
    clean = copied(settings, tmp_path / "clean")
    ran(clean)
    table = ran(settings).users.table
    path = table.path / name
    path.write_bytes(path.read_bytes()[:-1] + b"#")
    # As another process finds it.
    embedding_table._opened.cache_clear()
    with pytest.raises(DamagedEmbeddingError, match="`tidemark embed infer --full` makes it anew"):
        ran(settings)
    done = ran(settings, full=True).users
    assert done.table.manifest.number == 3
    assert rows_bytes(settings) == rows_bytes(clean)
    assert table_numbers(settings.data, 1) == [3]
    vectors, found = EmbeddingHistory(settings.offline, done.table.manifest).of_tables(done.table.user_ids, np.full(len(done.table), 2))
    assert found.all()
    assert vectors.tobytes() == done.table.vectors.tobytes()


def test_runs_of_another_embedding_of_that_number_are_passed_over(settings: Settings, events: pd.DataFrame) -> None:
    """Somebody has deleted version 1, and trained another one: what the offline store has of the first is not of its space."""
    other = ran(settings).users.table
    shutil.rmtree(settings.data / "embeddings" / "1")
    version(settings, events["pin_id"].unique()[::2], seed=5)
    made = ran(settings).users.table
    assert made.manifest.number == 2
    history = EmbeddingHistory(settings.offline, made.manifest)
    assert history.runs.tolist() == [2]
    assert not history.of_tables(other.user_ids, np.ones(len(other), np.int64))[1].any()
    vectors, found = history.of_tables(made.user_ids, np.full(len(made), 2))
    assert found.all()
    assert vectors.tobytes() == made.vectors.tobytes()


def test_two_at_once_are_one_too_many(settings: Settings) -> None:
    with alone(settings.data / "embeddings" / "1"), pytest.raises(LockedError, match="is being inferred by another command"):
        ran(settings)


def test_nothing_is_made_of_nothing(tmp_path: Path, events: pd.DataFrame) -> None:
    settings = logged(tmp_path / "data", events[:0])
    version(settings, events["pin_id"].unique())
    with pytest.raises(NoActionsError, match="no action that an embedding could be made of"):
        ran(settings)
    assert table_numbers(settings.data, 1) == []


def test_inputs_differ_wherever_an_action_does(settings: Settings) -> None:
    sequences = read_actions(settings)
    plain = inputs_of(sequences)
    assert len(np.unique(plain, axis=0)) == len(sequences)
    import dataclasses

    last = sequences.offsets[5] - 1
    for name in ("action", "surface", "duration_ms", "time_ms", "pin"):
        column = getattr(sequences, name).copy()
        column[last] = column[last] + 1 if name != "pin" else (column[last] + 1) % len(sequences.pin_ids)
        changed: UserSequences = dataclasses.replace(sequences, **{name: column})
        assert np.flatnonzero((inputs_of(changed) != plain).any(axis=1)).tolist() == [4], name
    # Alone, with other codes of pins, they are the same.
    assert inputs_of(sequences.take(np.array([4]))).tobytes() == plain[4:5].tobytes()


def test_the_old_row_stays_where_there_is_no_new_one() -> None:
    """Against a plain dictionary."""
    rng = np.random.default_rng(5)
    for _ in range(50):
        ids = np.sort(rng.choice(40, 20, replace=False)).astype(np.int64) - 20
        now = np.sort(rng.choice(40, rng.integers(0, 20), replace=False)).astype(np.int64) - 20
        gone = rng.choice(ids, rng.integers(0, 4), replace=False)
        gone = gone[~np.isin(gone, now)]

        def rows(users: np.ndarray, mark: int) -> dict[str, np.ndarray]:
            vectors = np.repeat(users[:, None], 3, axis=1).astype(np.float32) + mark
            return {
                "user_ids": users,
                "vectors": vectors,
                "inputs": np.full((len(users), 16), mark, np.uint8),
                "event_time": users * 10 + mark,
            }

        old = EmbeddingTable(Path(), None, **rows(ids, 1))  # type: ignore[arg-type]
        found = merged(old, Rows(**rows(now, 2)), gone)
        wanted = {user: 1 for user in ids.tolist() if user not in gone.tolist()} | dict.fromkeys(now.tolist(), 2)
        assert found.user_ids.tolist() == sorted(wanted)
        for user, vector, inputs, time in zip(found.user_ids.tolist(), found.vectors, found.inputs, found.event_time, strict=True):
            mark = wanted[user]
            assert (vector == user + mark).all()
            assert (inputs == mark).all()
            assert time == user * 10 + mark
