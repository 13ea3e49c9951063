"""Calibrators are the likeliest of their kind, keep the order of candidates, and survive heads that nothing is known of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows.errors import CorruptionError, InputError
from online_model.model.calibration import Calibrators


def objective(scale: float, shift: float, z: np.ndarray, y: np.ndarray) -> float:
    logit = scale * z + shift
    return float(np.logaddexp(0, np.where(y, -logit, logit)).sum() + ((scale - 1) ** 2 + shift**2) / 2)


def test_they_find_what_distorted_the_logits() -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(-2, 1.5, (60_000, 2))
    labels = (rng.random(true.shape) < 1 / (1 + np.exp(-true))).astype(np.int8)
    found = Calibrators.fit(("a", "b"), ((true - [[0.7, -1]]) / [[0.5, 2]]).astype(np.float32), labels)
    np.testing.assert_allclose(found.scale, [0.5, 2], rtol=0.05)
    np.testing.assert_allclose(found.shift, [0.7, -1], atol=0.06)
    p = found.probabilities(((true - [[0.7, -1]]) / [[0.5, 2]]).astype(np.float32))
    np.testing.assert_allclose(p.mean(0), labels.mean(0), rtol=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_no_neighbour_is_likelier(seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = (rng.normal(size=40) * 10 ** rng.uniform(-1, 2)).astype(np.float32)
    y = rng.random(40) < 1 / (1 + np.exp(-z.astype(float)))
    found = Calibrators.fit(("a",), z[:, None], y[:, None].astype(np.int8))
    scale, shift = float(found.scale[0]), float(found.shift[0])
    best = objective(scale, shift, z.astype(float), y)
    for move in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert objective(scale + move[0], shift + move[1], z.astype(float), y) >= best


def test_masked_labels_have_no_part() -> None:
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(300, 2)).astype(np.float32), rng.integers(0, 2, (300, 2)).astype(np.int8)
    labels[100:, 0] = -1
    found, alone = Calibrators.fit(("a", "b"), logits, labels), Calibrators.fit(("a",), logits[:100, :1], labels[:100, :1])
    assert (found.scale[0], found.shift[0]) == (alone.scale[0], alone.shift[0])
    assert found.examples.tolist() == [100, 300]
    assert found.positives.tolist() == (labels == 1).sum(0).tolist()


def test_a_head_without_examples_stays_as_it_is() -> None:
    found = Calibrators.fit(("a",), np.ones((5, 1), np.float32), np.full((5, 1), -1, np.int8))
    assert (found.scale[0], found.shift[0]) == (1, 0)
    assert Calibrators.none(("a",)).probabilities(np.zeros((1, 1), np.float32))[0, 0] == 0.5


def test_a_head_is_never_turned_upside_down() -> None:
    rng = np.random.default_rng(3)
    z = rng.normal(size=(5_000, 1)).astype(np.float32)
    y = (rng.random((5_000, 1)) < 1 / (1 + np.exp(2 * z + 1))).astype(np.int8)
    found = Calibrators.fit(("a",), z, y)
    assert found.scale[0] > 0
    assert found.probabilities(z).mean() == pytest.approx(y.mean(), rel=0.01)


@pytest.mark.parametrize("label", [0, 1])
def test_one_sided_labels_and_huge_logits_end(label: int) -> None:
    z = np.array([[1e30], [-1e30], [3e4], [0]], np.float32)
    found = Calibrators.fit(("a",), z, np.full((4, 1), label, np.int8))
    assert np.isfinite(found.probabilities(z)).all()
    with pytest.raises(InputError, match="not a finite number"):
        Calibrators.fit(("a",), z * np.float32(np.nan), np.full((4, 1), label, np.int8))


def test_a_file_keeps_every_bit_and_damage_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    found = Calibrators.fit(("a", "b"), rng.normal(size=(50, 2)).astype(np.float32), rng.integers(0, 2, (50, 2)).astype(np.int8))
    path = tmp_path / "calibrators.json"
    found.save(path)
    back = Calibrators.load(path)
    assert back.to_dict() == found.to_dict()
    assert np.array_equal(back.scale, found.scale)
    for text in (
        "",
        "[]",
        '{"method": "isotonic", "heads": {}}',
        path.read_text().replace('"scale": ', '"scale": -'),
        '{"method": "platt"}',
    ):
        path.write_text(text)
        with pytest.raises(CorruptionError, match="can't be read"):
            Calibrators.load(path)
