"""Small models of a data directory, with rows of IDs that it knows, rankings by them, and what they say of a row of SERVED, ID by ID."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from flows.examples.record import HEADS
from flows.examples.rows import ExampleRows, user_features
from flows.features import SEQUENCE_FIELDS
from flows.open_log import log_exists, open_log
from flows.outputs import EMBEDDINGS
from flows.served_rows import ServedRows
from flows.settings import Settings
from online_model.deltas.record import Closing, Rows, batches_of, closing_of
from online_model.model.calibration import Calibrators
from online_model.model.columns import ExampleColumns
from online_model.model.config import ModelConfig
from online_model.model.dense import load_dense, save_dense
from online_model.model.inputs import inputs_of
from online_model.model.ranker import Ranker
from online_model.model.scoring import score_rows, utility_of
from online_model.model.served_vectors import ServedVectors
from online_model.registry import tensors
from online_model.registry.bases import Base, Expected
from online_model.registry.manifest import CALIBRATORS, DENSE, TABLES, Build, Described
from online_model.registry.registry import Registry
from online_model.registry.snapshots import Point, write_snapshot
from online_model.serving.options import Options
from tests.processes import PATIENCE_S, await_true
from tests.serving.conftest import Site
from tests.serving.http import Running, record_of, running, served

D = 6
PATIENT = Options(timeout_s=PATIENCE_S, model_timeout_s=PATIENCE_S)
SMALL: dict[str, Any] = {
    "dim": D,
    "action_dim": 3,
    "surface_dim": 2,
    "cross_rank": 3,
    "experts": 2,
    "expert_hidden": 5,
    "sequence_length": 20,
}
Vectors = dict[str, dict[int | None, np.ndarray]]
"""The row of each ID of a table; None: of all others."""


def state(ids: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = len(ids)
    return {
        "ids": rng.permutation(ids).astype(np.int64),
        "weights": rng.standard_normal((n, D)).astype(np.float32),
        "accumulators": np.ones(n, np.float32),
        "counts": rng.integers(1, 50, n).astype(np.int32),
        "last_seen": np.zeros(n, np.int64),
        "default": rng.standard_normal(D).astype(np.float32),
    }


def registry_of(settings: Settings, expected: Expected | None = None) -> Registry:
    own = Registry.of(settings)
    return own if expected is None else Registry(settings.data / "models", expected)


def publish(
    settings: Settings,
    seed: int,
    users: list[int],
    pins: list[int],
    expected: Expected | None = None,
    config: Any = None,
    metrics: Any = None,
    **changes: Any,
) -> Base:
    """A base of some users and pins; everything in it follows from the seed."""
    of = ModelConfig(**SMALL | {"seed": seed} | changes)
    registry = registry_of(settings, expected)
    with registry.draft() as draft:
        save_dense(Ranker(of), draft / DENSE)
        for i, (table, ids) in enumerate((("user", users), ("pin", pins))):
            (draft / TABLES[table]).write_bytes(tensors.to_bytes(state(np.unique(np.array(ids, np.int64)), 10 * seed + i)))
        rng = np.random.default_rng(seed)
        heads = len(of.heads)
        zeros = np.zeros(heads, np.int64)
        Calibrators(of.heads, 0.5 + rng.random(heads), rng.standard_normal(heads), zeros, zeros).save(draft / CALIBRATORS)
        about = Described(
            {"model": of.to_dict(), "training": {}} if config is None else config,
            registry.bases.expected.features,
            registry.bases.expected.vocabulary,
            {},
            None,
            Build("2", "AVX2", 1, "cpu", seed),
            metrics or {},
            1,
        )
        return registry.publish(draft, about)


def serve(settings: Settings, number: int, expected: Expected | None = None) -> None:
    """Make a base the one that is served."""
    registry = registry_of(settings, expected)
    registry.switch(registry.start_for(registry.base(number), end_of_deltas(settings)), 1_700_000_000_000 + number, "published")


def end_of_deltas(settings: Settings) -> int:
    if not log_exists(settings, EMBEDDINGS):
        return 0
    with open_log(settings, EMBEDDINGS, read_only=True) as log:
        return log.end_position(0)


def learn(settings: Settings, base: Base, number: int, follows: str, pins: dict[int, float], gone: tuple[int, ...] = ()) -> Closing:
    """Put out a delta that sets all numbers of some pins' rows, and deletes others."""
    ids = np.array(sorted(pins), np.int64)
    weights = np.repeat(np.array([pins[i] for i in ids.tolist()], np.float32)[:, None], D, 1)
    nobody = np.empty(0, np.int64)
    changed = {"user": (nobody, np.empty((0, D), np.float32)), "pin": (ids, weights)}
    rows = Rows.of(changed, {"user": nobody, "pin": np.array(sorted(gone), np.int64)}, D)
    closing = closing_of(base.number, number, rows, (1,) * settings.partitions, 5_000 + number, 6_000 + number, follows)
    with open_log(settings, EMBEDDINGS, create=True) as log:
        log.append([(0, batch) for batch in batches_of(rows, closing)])
    return closing


def keep(settings: Settings, base: Base, closing: Closing, pins: dict[int, float]) -> None:
    """A snapshot behind the last delta, at which all numbers of some pins' rows are these."""
    point = Point(base.number, closing.delta, closing.digest, end_of_deltas(settings), closing.positions, closing.newest_event_time)
    states = {table: {name: values.copy() for name, values in base.table(table).items()} for table in TABLES}
    of = states["pin"]
    for pin, value in pins.items():
        of["weights"][of["ids"] == pin] = value
    write_snapshot(base, point, states)


def vectors_of(base: Base) -> Vectors:
    """The rows of a base."""
    out: Vectors = {}
    for table in TABLES:
        of = base.table(table)
        out[table] = {**dict(zip(of["ids"].tolist(), of["weights"], strict=True)), None: of["default"]}
    return out


def of_record(rows: ServedRows, i: int, surfaces: dict[str, int]) -> ExampleRows:
    """The pins of a row of SERVED as examples, of which nothing is known yet."""
    pins = slice(rows.pin_offsets[i], rows.pin_offsets[i + 1])
    entries = slice(rows.sequence_offsets[i], rows.sequence_offsets[i + 1])
    n = pins.stop - pins.start
    sequence = {name: rows.sequence[name][entries] for name in SEQUENCE_FIELDS}
    columns: dict[str, Any] = {
        "ready_time": np.zeros(n, np.int64),
        "kind": np.zeros(n, np.int8),
        "request_id": pa.array([rows.request_id[i]] * n),
        "user_id": np.full(n, rows.user_id[i]),
        "pin_id": rows.pin_id[pins],
        "surface": np.full(n, surfaces[rows.surfaces[rows.surface[i]]], np.int16),
        "topic": np.full(n, -1, np.int32),
        "topics": (),
        "request_time": np.full(n, rows.timestamp[i]),
        "impression_time": np.full(n, rows.timestamp[i]),
        "slot": rows.slot[pins],
        "propensity": rows.propensity[pins],
        "explored": rows.explored[pins],
        "score": rows.score[pins],
        "base": np.full(n, rows.base[i]),
        "delta": np.full(n, rows.delta[i]),
        "labels": np.zeros((n, len(HEADS)), np.int8),
        "fingerprint": np.zeros(n, np.int32),
        "fingerprints": ("f",),
        "position": np.full(n, 0 if rows.prefix[i] >= 0 else -1, np.int32),
        "positions": (rows.prefixes[rows.prefix[i]],) if rows.prefix[i] >= 0 else (),
        "as_of": np.full(n, rows.as_of[i]),
        "pin_counters": rows.pin_counters[pins],
        "request": np.zeros(n, np.int32),
        "users": user_features(rows.user_counters[i][None], np.array([0, entries.stop - entries.start]), sequence),
    }
    assert set(columns) == {field.name for field in dataclasses.fields(ExampleRows)}
    return ExampleRows(**columns)


def said_by(base: Base, vectors: Vectors, rows: ExampleRows, embedded: ServedVectors | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and scores of rows, by a base and the rows of its IDs, and by its users' embeddings as whoever trains finds them."""
    ranker = load_dense(ModelConfig.from_dict(dict(base.manifest.about.config["model"])), base.path / DENSE)
    features = ExampleColumns.of([rows], embedded).all_features(ranker.config.sequence_length)

    def look_up(table: str, ids: np.ndarray) -> np.ndarray:
        of = vectors[table]
        return np.array([of.get(i, of[None]) for i in ids.reshape(-1).tolist()], np.float32).reshape(*ids.shape, ranker.config.dim)

    inputs = inputs_of(
        features, look_up("user", features.user_id), look_up("pin", features.pin_id), look_up("pin", features.sequence_pin_id)
    )
    probabilities = Calibrators.load(base.path / CALIBRATORS).probabilities(score_rows(ranker, inputs))
    return probabilities, utility_of(probabilities, ranker.config.heads).astype(np.float32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rank(made: Running, status: int = 200, **said: Any) -> Any:
    """The answer to a request, that must have this status."""
    reply = made.client.ask("POST", "/v1/rank", {"surface": "homefeed"} | said)
    assert reply.status == status, reply
    return reply.json()


def published(settings: Settings, site: Site, seed: int = 1, **changes: Any) -> Base:
    """A base that knows half of the site's users and pins, and is served."""
    base = publish(settings, seed, site.users[::2], site.pins[::2], **changes)
    serve(settings, base.number)
    return base


def ready(made: Running, base: int, delta: int = 0, arm: str = "served") -> None:
    """Wait until an arm is at a delta of a base."""

    def there() -> bool:
        told = made.client.ask("GET", "/readyz").json()["model"].get("arms", {}).get(arm, {})
        return (told.get("base"), told.get("delta")) == (base, delta)

    await_true(there, f"base {base} is served at delta {delta}")


def recomputed(settings: Settings, answer: Any, base: Base, vectors: Vectors) -> tuple[ServedRows, int]:
    """Check an answer against its row of SERVED, and both against the base; returns the row."""
    rows, [i] = record_of(served(settings), answer["request_id"])
    pins, span = answer["pins"], slice(rows.pin_offsets[i], rows.pin_offsets[i + 1])
    assert (rows.base[i], rows.delta[i]) == (answer["base"], answer["delta"])
    assert rows.pin_id[span].tolist() == pins["pin_id"]
    assert rows.slot[span].tolist() == pins["slot"] == list(range(len(pins["slot"])))
    for name in ("score", "propensity"):
        assert np.array(pins[name], np.float32).tobytes() == getattr(rows, name)[span].tobytes()
    assert rows.explored[span].tolist() == pins["explored"]
    probabilities, score = said_by(base, vectors, of_record(rows, i, dict(settings.load_vocabulary().surfaces)))
    assert score.tobytes() == rows.score[span].tobytes()
    for head, column in zip(pins["probabilities"], probabilities.T, strict=True):
        assert np.array(pins["probabilities"][head]).tobytes() == column.tobytes()
    return rows, i


def follows_deltas(settings: Settings, site: Site) -> None:
    """A server that is told of two deltas while it runs ranks by them, before and after, those whom it knows and those whom it doesn't."""
    base = published(settings, site)
    mine, vectors = site.pins[::2][:4], vectors_of(base)
    asked = {"user": site.users[0], "candidates": site.pins, "k": len(site.pins)}
    with running(settings, PATIENT) as made:
        ready(made, base.number)
        before = rank(made, **asked)
        first = learn(settings, base, 1, base.digest, {mine[0]: 0.5, site.pins[1]: -0.25})
        learn(settings, base, 2, first.digest, {mine[1]: 1.5}, gone=(mine[2],))
        ready(made, base.number, 2)
        after = rank(made, **asked)
        nobody = rank(made, user=2**40 + 7, candidates=[2**40 + 9, mine[0]])
        assert made.client.metric('tidemark_serving_model_delta{arm="served"}') == 2
        assert made.client.metric('tidemark_serving_model_newest_event_timestamp_seconds{arm="served"}') > 0
    recomputed(settings, before, base, vectors)
    for pin, value in ((mine[0], 0.5), (site.pins[1], -0.25), (mine[1], 1.5)):
        vectors["pin"][pin] = np.full(D, value, np.float32)
    del vectors["pin"][mine[2]]
    recomputed(settings, after, base, vectors)
    recomputed(settings, nobody, base, vectors)
    assert before["pins"]["score"] != after["pins"]["score"]
