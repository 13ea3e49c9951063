"""Vectors of pins: the user's own are checked, those of the log are what the formulas say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from online_model.embedding.errors import VectorsError
from online_model.embedding.learned_vectors import learned_vectors, mutual_information, together
from online_model.embedding.model import scaled
from online_model.embedding.pin_vectors import read_vectors
from tests.embedding.worlds import of_one_user, random_sequences, tastes

GOOD: list[list[float | None]] = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


def write(path: Path, ids: list[int | None], vectors: object, kind: pa.DataType | None = None) -> Path:
    pq.write_table(pa.table({"pin_id": pa.array(ids, pa.int64()), "vector": pa.array(vectors, kind or pa.list_(pa.float32()))}), path)
    return path


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 2)])
def test_vectors_are_read_in_the_order_of_their_pins(kind: pa.DataType, tmp_path: Path) -> None:
    found = read_vectors(write(tmp_path / "v.parquet", [9, -3, 5], GOOD, kind))
    assert found.ids.tolist() == [-3, 5, 9]
    assert found.vectors.tolist() == [[3, 4], [5, 6], [1, 2]]
    assert found.vectors.dtype == np.float32
    assert found.rows_of(np.array([5, 6, -3, 100, -100])).tolist() == [1, -1, 0, -1, -1]


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        ([1, 2, 3], [[1.0, 2.0], [1.0], [1.0, 2.0]], r"pin 2 \(row 1\) has a vector of 1, not of 2; all must have one size"),
        ([1, 2, 3], [[1.0, 2.0], [1.0, math.nan], [1.0, 2.0]], r"pin 2 \(row 1\) has a vector that is not finite"),
        ([1, 2, 3], [[1.0, 2.0], [1.0, math.inf], [1.0, 2.0]], r"pin 2 \(row 1\) has a vector that is not finite"),
        ([1, 2, 3], [[1.0, 2.0], [1.0, None], [1.0, 2.0]], r"pin 2 \(row 1\) has a vector with nulls"),
        (
            [1, 2, 3],
            [[1.0, 2.0], [0.0, -0.0], [0.0, 0.0]],
            r"pin 2 \(row 1\) has a vector of zeros, which has no direction; so have 1 others",
        ),
        ([1, 2, 3], [[1.0, 2.0], None, [1.0, 2.0]], "row 1 has no vector"),
        ([1, None, 3], GOOD, "row 1 has no pin_id"),
        ([1, 2, 1], GOOD, "pin 1 has more than one vector"),
        ([1, 2, 3], [[], [], []], "has a vector of 0"),
        ([], [], "there are none"),
    ],
)
def test_bad_vectors_are_refused_in_a_line(ids: list[int | None], vectors: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(VectorsError, match=message) as caught:
        read_vectors(write(tmp_path / "v.parquet", ids, vectors))
    assert "\n" not in str(caught.value)
    assert "v.parquet" in str(caught.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("power", [-1_000, -600, -140, -60, 0, 60, 110, 900])
def test_of_a_vector_the_direction_alone_counts(power: int, tmp_path: Path) -> None:
    """Whatever its length: read and scaled, it is the very same."""
    plain = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32).astype(np.float64)
    kind = pa.list_(pa.float32()) if -60 <= power <= 110 else pa.list_(pa.float64())
    found = read_vectors(write(tmp_path / "v.parquet", [1, 2, 3, 4], (plain * 2.0**power).tolist(), kind))
    right = plain / np.linalg.norm(plain, axis=1, keepdims=True) * math.sqrt(6)
    assert np.allclose(scaled(torch.from_numpy(found.vectors)).numpy(), right, atol=1e-6)
    assert (scaled(torch.from_numpy(found.vectors)) == scaled(torch.from_numpy(plain.astype(np.float32)))).all()
    if abs(power) <= 60:
        assert found.vectors.astype(np.float64).tolist() == (plain * 2.0**power).tolist(), "what fits is taken as it is"


@pytest.mark.parametrize("factor", [1e-40, 1e-13, 1e20, 1e38])
def test_vectors_of_any_length_are_scaled_and_learned(factor: float) -> None:
    given = torch.tensor([[0.3, -0.2, 0.6], [0.0, 0.0, 0.0]])
    vectors = (given.double() * factor).float().requires_grad_()
    found = scaled(vectors)
    atol = 1e-4 if factor < 1e-37 else 1e-6
    assert np.allclose(found.detach().numpy(), [[0.3 / 0.7 * 3**0.5, -0.2 / 0.7 * 3**0.5, 0.6 / 0.7 * 3**0.5], [0, 0, 0]], atol=atol)
    if factor in (1e-13, 1e20):
        plain = given.clone().requires_grad_()
        for one in (vectors, plain):
            scaled(one)[0, 0].backward()
        assert vectors.grad is not None
        assert plain.grad is not None
        assert np.allclose(vectors.grad.double()[0] * factor, plain.grad[0], rtol=1e-5)


def test_an_id_beyond_64_bits_is_refused(tmp_path: Path) -> None:
    table = pa.table({"pin_id": pa.array([2, 2**63 + 5], pa.uint64()), "vector": pa.array([[1.0], [1.0]], pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "v.parquet")
    with pytest.raises(VectorsError, match=r"pin 9223372036854775813 \(row 1\) is no ID"):
        read_vectors(tmp_path / "v.parquet")
    pq.write_table(table.slice(0, 1), tmp_path / "v.parquet")
    assert read_vectors(tmp_path / "v.parquet").ids.tolist() == [2]


def test_what_is_no_file_of_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VectorsError, match="there is no such file"):
        read_vectors(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("pin_id,vector")
    with pytest.raises(VectorsError, match="can't be read"):
        read_vectors(tmp_path / "text.parquet")
    pd.DataFrame({"pin": [1], "vector": [[1.0]]}).to_parquet(tmp_path / "v.parquet")
    with pytest.raises(VectorsError, match="there is no column 'pin_id'"):
        read_vectors(tmp_path / "v.parquet")
    for kind, message in ((pa.float32(), "vector is float"), (pa.list_(pa.string()), "vector holds string")):
        write(tmp_path / "v.parquet", [1], [1.0] if kind == pa.float32() else [["a"]], kind)
        with pytest.raises(VectorsError, match=message):
            read_vectors(tmp_path / "v.parquet")
    with pytest.raises(VectorsError, match="has a vector of 2, not of 3"):
        read_vectors(write(tmp_path / "v.parquet", [1, 2, 3], GOOD), 3)


@pytest.mark.parametrize("seed", range(3))
def test_pins_together_and_their_information_are_counted_plainly(seed: int) -> None:
    sequences = random_sequences(seed, users=6, most=60, pins=12)
    counts: dict[tuple[int, int], int] = {}
    for user in range(len(sequences)):
        pins = sequences.pin[sequences.offsets[user] : sequences.offsets[user + 1]].tolist()
        for i in range(len(pins)):
            for j in range(i + 1, min(i + 21, len(pins))):
                if pins[i] != pins[j]:
                    pair = min(pins[i], pins[j]), max(pins[i], pins[j])
                    counts[pair] = counts.get(pair, 0) + 1
    one, other, count = together(sequences)
    assert dict(zip(zip(one.tolist(), other.tolist(), strict=True), count.tolist(), strict=True)) == counts

    both = counts | {(b, a): n for (a, b), n in counts.items()}
    of = {a: sum(n for (x, _), n in both.items() if x == a) for a, _ in both}
    smooth = {a: n**0.75 for a, n in of.items()}
    want = {(a, b): math.log(n / of[a] / (smooth[b] / sum(smooth.values()))) for (a, b), n in both.items()}
    found = mutual_information(one, other, count, len(sequences.pin_ids))
    assert dict(zip(zip(found[0].tolist(), found[1].tolist(), strict=True), found[2].tolist(), strict=True)) == pytest.approx(
        {pair: value for pair, value in want.items() if value > 0}, rel=1e-5
    )


def test_vectors_of_the_log_factorise_the_information_and_are_the_same_again() -> None:
    sequences = tastes(0)
    vectors = learned_vectors(sequences, 64, 3)
    assert vectors.digest() == learned_vectors(sequences, 64, 3).digest()
    one, other, value = mutual_information(*together(sequences), len(sequences.pin_ids))
    matrix = np.zeros((32, 32))
    matrix[one, other] = value
    singular = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(np.sort((vectors.vectors[:, :-1] ** 2).sum(0))[::-1][:32], singular, atol=1e-3)
    unit = vectors.vectors / np.linalg.norm(vectors.vectors, axis=1, keepdims=True)
    group = vectors.ids // 8
    like = unit @ unit.T
    same = group[:, None] == group
    assert like[same].mean() > like[~same].mean() + 0.2


def test_the_last_number_says_how_often_a_pin_was_acted_on() -> None:
    """Towers see directions alone, so it is a share of the length of the others."""
    sequences = random_sequences(4, users=40, pins=25)
    vectors = learned_vectors(sequences, 8, 0)
    times = [int((sequences.pin_ids[sequences.pin] == pin).sum()) for pin in vectors.ids]
    logs = [math.log(one) for one in times]
    mean = sum(logs) / len(logs)
    spread = math.sqrt(sum((one - mean) ** 2 for one in logs) / len(logs))
    expected = [0.5 * (one - mean) / spread for one in logs]
    np.testing.assert_allclose(vectors.vectors[:, -1] / np.linalg.norm(vectors.vectors[:, :-1], axis=1), expected, atol=1e-5)
    assert len(set(times)) > 5


def test_a_log_of_no_pairs_has_no_vectors() -> None:
    assert len(learned_vectors(of_one_user(1), 8, 0)) == 0
    assert len(learned_vectors(of_one_user(5, pins=1), 8, 0)) == 0
    assert learned_vectors(of_one_user(5, pins=3), 8, 0).vectors.shape == (3, 8)
