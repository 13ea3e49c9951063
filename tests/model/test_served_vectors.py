"""The vector that a model is given of a user is that of the table that was served, or of the newest before the request: never of a later one."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from benchmarks._examples import examples
from feature_repo.embedding_history import RUN, EmbeddingHistory
from feature_repo.embedding_table import open_table
from feature_repo.errors import DamagedEmbeddingError, NoEmbeddingError
from flows.errors import FingerprintError
from flows.examples.picked import Picked
from flows.examples.record import Kind
from flows.examples.rows import ExampleRows
from flows.positions import Positions, embedding_of, with_embedding
from flows.settings import DAY_MS, Settings
from online_model.learner.config import LearnerConfig
from online_model.learner.prepared import prepare
from online_model.model.columns import ExampleColumns
from online_model.model.ranker import Ranker
from online_model.model.served_vectors import ServedVectors
from online_model.registry.errors import DamagedModelError
from online_model.training.examples import TrainingExamples
from tests.model.batches import config
from tests.model.embedding_runs import D, Runs

USERS = 30


@pytest.fixture
def made(tmp_path: Path) -> Runs:
    """Six tables a day apart, of which two are kept; of users who come, change, go, and come again."""
    runs = Runs(Settings(data=tmp_path, partitions=2))
    rng = np.random.default_rng(4)
    begin = int(rows().request_time.min())
    for day in range(6):
        known = runs.said.get(day, {})
        leave = rng.choice(sorted(known), 4, replace=False).tolist() if known else []
        come = [user for user in rng.choice(USERS, 10, replace=False).tolist() if user not in leave]
        # The third and the fourth are of one time.
        runs.run(begin + (day - (day == 3)) * DAY_MS, come, tuple(leave))
    return runs


def rows(n: int = 240) -> ExampleRows:
    return examples(n, users=USERS, pins=20, per_request=3, actions=2, days=7, seed=2)


def served(given: ExampleRows, seed: int = 1) -> tuple[ExampleRows, list[int | None]]:
    """Examples of which some say which table they were served with, and which that is."""
    rng = np.random.default_rng(seed)
    plain = Positions(np.arange(2), np.zeros(2, np.int64), np.zeros((2, 2), np.int64)).to_bytes()
    texts = [plain, b"what is this", with_embedding(plain, 2, 1), *(with_embedding(plain, 1, table) for table in range(1, 7))]
    code = rng.integers(-1, len(texts), len(given)).astype(np.int32)
    base = rng.choice([-1, 3], len(given))
    at = given.request_time + rng.integers(-2, 1, len(given))
    # A model has ranked, and nothing was read: no vector either.
    tables = [one - 2 if one > 2 else 0 if one < 0 <= of else None for one, of in zip(code.tolist(), base.tolist(), strict=True)]
    return replace(given, position=code, positions=tuple(texts), request_time=at, base=base), tables


def check(runs: Runs, given: ExampleRows, tables: list[int | None], found: np.ndarray) -> None:
    assert found.dtype == np.float32
    for i in range(len(given)):
        assert found[i].tobytes() == runs.wanted(int(given.user_id[i]), int(given.request_time[i]), tables[i]), i


def test_each_example_has_the_vector_that_was_served(made: Runs) -> None:
    given, tables = served(rows())
    at = np.array(list(made.as_of.values()))
    given.request_time[:6] = at  # not before their tables: of the time itself is too late
    vectors = ServedVectors(made.settings.data, made.taken)
    parts = [given.take(np.arange(0, 100)), given.take(np.arange(100, 100)), given.take(np.arange(100, 240))]
    columns = ExampleColumns.of(parts, vectors)
    order = np.random.default_rng(3).permutation(240)
    check(made, given.take(order), [tables[i] for i in order.tolist()], columns.features(order, 2).user_embedding)
    check(made, given, tables, columns.all_features(2).user_embedding)
    # What users and tables share is held once.
    assert len(columns.embeddings) < 200
    assert 0.2 < columns.embeddings[:, -1].mean() < 0.9


def test_whoever_learns_online_finds_the_same(made: Runs) -> None:
    """In the order of time, table after table: from those that are kept as from those that are gone."""
    given, tables = served(replace(rows(), kind=np.full(240, Kind.NEGATIVE, np.int8)))
    ranker, vectors = Ranker(config(user_embedding=D)), ServedVectors(made.settings.data, made.taken)
    order = np.argsort(given.request_time, kind="stable")
    parts = [order[low : low + 8] for low in range(0, 240, 8)]
    for together in (1, 4):
        for first in range(0, len(parts), together):
            some = parts[first : first + together]
            batches = prepare([Picked.of(given).some(index) for index in some], ranker.config, LearnerConfig(), vectors)
            for index, batch in zip(some, batches, strict=True):
                check(made, given.take(index), [tables[i] for i in index.tolist()], batch.features.user_embedding)


def test_learning_online_reads_each_run_a_few_times_however_many_batches_there_are(made: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes of an impression late bears the table of its request: nearly every batch names a week of them."""
    read: Counter[str] = Counter()
    real = pq.ParquetFile.__init__

    def counted(self: pq.ParquetFile, source: object, **how: object) -> None:
        read.update([source.name] if isinstance(source, Path) else [])
        real(self, source, **how)

    monkeypatch.setattr(pq.ParquetFile, "__init__", counted)
    monkeypatch.setattr(pq, "read_table", lambda source, columns, **how: pq.ParquetFile(source, **how).read(columns))
    given, tables = served(rows())
    vectors = ServedVectors(made.settings.data, made.taken)
    for low in range(0, 240, 12):
        part = given.take(np.arange(low, low + 12))
        check(made, part, tables[low : low + 12], ExampleColumns.of([part], vectors).all_features(1).user_embedding)
    assert len(read) == 6
    # Its users, its vectors when they are asked for, and when they are again.
    assert max(read.values()) <= 3


@pytest.fixture
def old(made: Runs) -> Runs:
    """As a Tidemark wrote them whose runs did not say of which embedding they are."""
    for path in (made.settings.offline / "user_embedding" / "1").iterdir():
        table = pq.read_table(path)
        said = orjson.loads(table.schema.metadata[RUN])
        kept = {name: said[name] for name in ("as_of", "number", "actions")}
        pq.write_table(table.replace_schema_metadata({RUN: orjson.dumps(kept)}), path)
    return made


def test_runs_of_a_version_before_are_read(old: Runs) -> None:
    given, tables = served(rows())
    check(old, given, tables, ExampleColumns.of([given], ServedVectors(old.settings.data, old.taken)).all_features(2).user_embedding)


@pytest.mark.parametrize("gone", [1, 3, 6])
def test_a_row_that_may_have_been_in_a_file_that_is_gone_is_refused(made: Runs, gone: int) -> None:
    """And none other: whoever was inferred since has the same vector."""
    first = int(rows().request_time.max())
    made.run(first + DAY_MS, list(range(0, USERS, 2)))
    made.run(first + 2 * DAY_MS, list(range(0, USERS, 3)), everyone=True)
    made.run(first + 3 * DAY_MS, [1])
    (made.settings.offline / "user_embedding" / "1" / f"{gone}.parquet").unlink()
    history = EmbeddingHistory(made.settings.offline, open_table(made.settings.data, 1).manifest)
    refused = set()
    for table in range(10):
        for user in range(USERS):
            since = [run for run in range(gone + 1, table + 1) if run == 8 or user in made.inferred[run]]
            if gone <= table and not since:
                refused.add(table)
                with pytest.raises(
                    DamagedEmbeddingError, match=rf"1/{gone}.parquet is gone, and a row that is asked for may have been there"
                ):
                    history.of_tables(np.array([user]), np.array([table]))
            else:
                vectors, found = history.of_tables(np.array([user]), np.array([table]))
                wanted = made.said.get(table, {}).get(user)
                assert (vectors[0].tobytes() if found[0] else None) == wanted
    assert {gone, gone + 1} <= refused <= set(range(gone, 8))
    # Between the runs on both sides nobody knows whether it was there.
    times = made.as_of
    for as_of in times.values():
        newest = max((one for one in times if one != gone and times[one] <= as_of), default=0)
        if newest == gone - 1:
            with pytest.raises(DamagedEmbeddingError, match=f"{gone}.parquet is gone"):
                history.tables_at(np.array([as_of + 1]))
        else:
            assert history.tables_at(np.array([as_of + 1])).tolist() == [newest]


def test_a_new_table_is_seen_and_changes_nothing_before_it(made: Runs) -> None:
    given, _ = served(rows())
    vectors = ServedVectors(made.settings.data, made.taken)
    before = ExampleColumns.of([given], vectors).all_features(1).user_embedding
    made.run(int(given.request_time.max()) + 1, list(range(USERS)))
    assert ExampleColumns.of([given], vectors).all_features(1).user_embedding.tobytes() == before.tobytes()
    nobody_said = given.position * 0 - 1
    later = replace(given, request_time=given.request_time + 8 * DAY_MS, position=nobody_said, base=nobody_said)
    check(made, later, [None] * 240, ExampleColumns.of([later], vectors).all_features(1).user_embedding)


def test_what_is_learned_from_is_named_with_its_vectors(made: Runs) -> None:
    final = replace(rows(), kind=np.full(240, Kind.FINAL, np.int8))
    given, _ = served(final)
    vectors = ServedVectors(made.settings.data, made.taken)
    plain, found = TrainingExamples.of([given]), TrainingExamples.of([given], vectors=vectors)
    assert plain.digest() != found.digest() == TrainingExamples.of([given], vectors=vectors).digest()
    assert TrainingExamples.of([replace(given, position=given.position * 0 - 1)], vectors=vectors).digest() != found.digest()
    assert found.columns.nbytes() > plain.columns.nbytes()


def test_what_is_not_there_or_is_another_is_refused(made: Runs, tmp_path: Path) -> None:
    given, _ = served(rows())
    plain = Positions(np.arange(2), np.zeros(2, np.int64), np.zeros((2, 2), np.int64)).to_bytes()
    late = replace(given, position=given.position * 0, positions=(with_embedding(plain, 1, 9),))
    with pytest.raises(NoEmbeddingError, match=r"served with table 9 of user embeddings of version 1, and .* has 6: put embeddings/"):
        ExampleColumns.of([late], ServedVectors(tmp_path, made.taken))
    with pytest.raises(FingerprintError, match="of another embedding than the one that the ranker was trained on"):
        ExampleColumns.of([given], ServedVectors(tmp_path, replace(made.taken, digest="e" * 32)))
    shutil.rmtree(tmp_path / "embeddings")
    with pytest.raises(
        NoEmbeddingError, match=r"takes user embeddings of version 1, .* has no table of them; `tidemark embed infer` makes one"
    ):
        ExampleColumns.of([given], ServedVectors(tmp_path, made.taken))


def test_only_a_model_that_takes_embeddings_is_given_them_and_of_its_width(made: Runs, tmp_path: Path) -> None:
    said = made.taken.to_config()
    for none in ({}, {"model": {}}, said, said | {"model": {"user_embedding": 0}}):
        assert ServedVectors.of(none, tmp_path) is None
    found = ServedVectors.of(said | {"model": {"user_embedding": D}}, tmp_path)
    assert found is not None
    assert found.taken == made.taken
    for named, names in ((said, f"one of {D}"), ({}, "no version of them")):
        with pytest.raises(
            DamagedModelError, match=f"base 3: its model takes user embeddings of 9 numbers, and its manifest names {names};"
        ):
            ServedVectors.of(named | {"model": {"user_embedding": 9}}, tmp_path, "base 3")


@pytest.mark.parametrize("embedding", [None, (3, 7)])
def test_positions_say_which_table_was_at_hand(embedding: tuple[int, int] | None) -> None:
    was = Positions(np.array([4, 5]), np.array([0, 1]), np.array([[1, 2], [3, 4]]), embedding)
    packed = was.to_bytes()
    found = Positions.from_bytes(packed)
    assert found is not None
    assert (found.embedding, found.to_bytes(), embedding_of(packed)) == (embedding, packed, embedding)
    assert [found.actions.tolist(), found.corrected_to.tolist(), found.applied.tolist()] == [[4, 5], [0, 1], [[1, 2], [3, 4]]]
    for broken in (packed[:-8], packed + bytes(8), packed[:-8] + b"\xff" * 8, b"\x03" + packed[1:]):
        assert Positions.from_bytes(broken) is None
    for broken in (packed[:-8], packed + bytes(8), b"\x03" + packed[1:], b"", with_embedding(packed[:16], 1, 1)):
        assert embedding_of(broken) is None
