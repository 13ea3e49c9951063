"""Features of rows are what a reading row by row says, whatever batch and chunk they are in."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from datetime import UTC, datetime

import numpy as np
import pytest

from benchmarks._examples import examples
from flows.errors import InputError
from flows.examples.rows import ExampleRows
from online_model.model.columns import ExampleColumns, Features, logged
from online_model.model.inputs import features_of, inputs_of
from tests.model.batches import config

LENGTH = 5


def made(seed: int = 1, n: int = 60) -> ExampleRows:
    rows = examples(n, users=20, pins=30, per_request=4, actions=8, seed=seed)
    rng = np.random.default_rng(seed)
    # Requests at other times may share what was served of their users.
    time = rows.request_time + np.where(rng.random(n) < 0.3, 3_600_000, 0)
    return replace(rows, request_time=time, surface=rng.integers(-1, 5, n).astype(np.int16), slot=rng.integers(-1, 40, n).astype(np.int16))


def naive(rows: ExampleRows, i: int, length: int) -> dict[str, object]:
    users, r = rows.users, int(rows.request[i])
    actions = users.sequence[users.offsets[r] : users.offsets[r + 1]][:length].tolist()
    time = int(rows.request_time[i])
    at = datetime.fromtimestamp(time / 1000, UTC)
    pad = [0] * (length - len(actions))
    return {
        "user_id": int(rows.user_id[i]),
        "pin_id": int(rows.pin_id[i]),
        "sequence_pin_id": [one[0] for one in actions] + pad,
        "sequence_action": [one[3] + 1 for one in actions] + pad,
        "sequence_surface": [one[4] + 1 for one in actions] + pad,
        "sequence_age": [np.float32(max(time - one[1], 0) / 3_600_000) for one in actions] + pad,
        "sequence_mask": [True] * len(actions) + [False] * len(pad),
        "user_counters": [np.float32(min(math.log1p(one), 16)) for one in users.counters[r].tolist()],
        "pin_counters": [np.float32(min(math.log1p(one), 16)) for one in rows.pin_counters[i].tolist()],
        "surface": int(rows.surface[i]) + 1,
        "hour": at.hour,
        "weekday": at.weekday(),
        "slot": int(rows.slot[i]),
        "user_embedding": [],
    }


PER_REQUEST = {
    "sequence_pin_id",
    "sequence_action",
    "sequence_surface",
    "sequence_age",
    "sequence_mask",
    "user_counters",
    "hour",
    "weekday",
}


def row_of(features: Features, i: int) -> dict[str, object]:
    out = {}
    for field in fields(features):
        if field.name != "context":
            out[field.name] = getattr(features, field.name)[features.context[i] if field.name in PER_REQUEST else i].tolist()
    return out


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("length", [1, LENGTH, 12])
def test_features_are_those_of_each_row(seed: int, length: int) -> None:
    rows = made(seed)
    features = features_of(rows, config(sequence_length=length))
    assert len(features) == len(rows)
    assert len(features.hour) == len({(r, t) for r, t in zip(rows.request.tolist(), rows.request_time.tolist(), strict=True)})
    for i in range(len(rows)):
        assert row_of(features, i) == naive(rows, i, length), i


def test_any_cut_and_any_order_give_the_same() -> None:
    rows = made(7)
    parts = [rows.take(np.arange(0, 13)), rows.take(np.arange(13, 13)), rows.take(np.arange(13, 60))]
    columns, index = ExampleColumns.of(parts), np.random.default_rng(1).permutation(60)
    features = columns.features(index, LENGTH)
    for at, i in enumerate(index.tolist()):
        assert row_of(features, at) == naive(rows, i, LENGTH)
    assert columns.nbytes() > 60 * 100


def test_no_rows_and_no_actions() -> None:
    rows = made()
    assert len(ExampleColumns.of([])) == 0
    assert len(features_of(rows.take(np.arange(0)), config())) == 0
    without = examples(9, users=3, pins=8, per_request=3, actions=0)
    features = features_of(without, config())
    assert not features.sequence_mask.any()
    assert features.sequence_pin_id.shape == (3, 7)


def test_extremes() -> None:
    rows = made()
    counters = rows.pin_counters.copy()
    counters[0], counters[1] = 2**63 - 1, 0
    time = rows.request_time.copy()
    time[2] = -(2**40)
    features = features_of(replace(rows, pin_counters=counters, request_time=time), config())
    assert (features.pin_counters[0] == 16).all()
    assert (features.pin_counters[1] == 0).all()
    assert all(np.isfinite(getattr(features, name)).all() for name in ("pin_counters", "user_counters", "sequence_age"))
    assert (features.sequence_age >= 0).all()
    assert (features.hour >= 0).all()


def test_logarithms_that_are_looked_up_are_those_of_numpy() -> None:
    counters = np.concatenate([np.arange(9_000), 2 ** np.arange(63)])
    expected = np.minimum(np.log1p(counters.astype(np.float64)), 16).astype(np.float32)
    assert logged(counters).tobytes() == expected.tobytes()
    assert logged(counters[:4_095]).tobytes() == expected[:4_095].tobytes()


def test_what_no_vocabulary_says_is_refused() -> None:
    rows = made()
    sequence = rows.users.sequence.copy()
    sequence["action"][3] = 127
    with pytest.raises(InputError, match="action of a step in the sequence has code 127"):
        features_of(replace(rows, users=replace(rows.users, sequence=sequence)), config())
    with pytest.raises(InputError, match="surface has code -2"):
        features_of(replace(rows, surface=np.full(60, -2, np.int16)), config())
    with pytest.raises(InputError, match="pin counter of row 0 is -1"):
        features_of(replace(rows, pin_counters=rows.pin_counters * 0 - 1), config())


def vectors(features: Features, dim: int) -> list[np.ndarray]:
    shapes = [(len(features), dim), (len(features), dim), (*features.sequence_mask.shape, dim)]
    return [np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(("which", "what"), [(0, "vector of a user"), (1, "vector of a pin"), (2, "pin of a sequence")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_no_number_is_refused(which: int, what: str, value: float) -> None:
    features = features_of(made(), config())
    given = vectors(features, 4)
    given[which][..., 2][3] = value
    with pytest.raises(InputError, match=f"{what}.*not a finite number"):
        inputs_of(features, *given)


def test_a_huge_vector_is_cut_and_a_counter_that_is_no_number_refused() -> None:
    features = features_of(made(), config())
    given = vectors(features, 4)
    given[1][5] = 1e30
    given[1][6] = -1e30
    inputs = inputs_of(features, *given)
    assert inputs.pin[5].tolist() == [100.0] * 4
    assert inputs.pin[6].tolist() == [-100.0] * 4
    assert np.array_equal(inputs.user.numpy(), given[0])
    counters = features.user_counters.copy()
    counters[1, 1] = np.nan
    with pytest.raises(InputError, match="a user counter is not a finite number \\(row 1\\)"):
        inputs_of(replace(features, user_counters=counters), *given)
