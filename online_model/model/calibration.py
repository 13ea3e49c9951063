"""Calibrators: of each head, what its logit says as a probability (Platt 1999: a scale and a shift of the logit).

They never change the order of a head's candidates: the scale stays above zero.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from flows.errors import CorruptionError, InputError
from flows.examples.record import MASKED

METHOD = "platt"
_LEAST_SCALE = 0.05
_PRIOR = 1.0
"""How strongly a fit holds on to scale 1 and shift 0: as one example would. It decides alone where a head has no example."""
_STEPS = 100


@dataclass(frozen=True, eq=False)
class Calibrators:
    """For each head: probability = sigmoid(scale · logit + shift).

    Attributes
    ----------
    heads : tuple of str
    scale, shift : float64[heads]
    examples, positives : int64[heads]
        What they were fitted on.
    """

    heads: tuple[str, ...]
    scale: np.ndarray
    shift: np.ndarray
    examples: np.ndarray
    positives: np.ndarray

    @classmethod
    def none(cls, heads: tuple[str, ...]) -> Self:
        """Logits as they are."""
        count = len(heads)
        return cls(heads, np.ones(count), np.zeros(count), np.zeros(count, np.int64), np.zeros(count, np.int64))

    @classmethod
    def fit(cls, heads: tuple[str, ...], logits: np.ndarray, labels: np.ndarray) -> Self:
        """The likeliest, head by head.

        Parameters
        ----------
        heads : tuple of str
        logits : float32[n, heads]
            Of examples that the model has not learned from.
        labels : int8[n, heads]
            0, 1 or MASKED.

        Raises
        ------
        InputError
            A logit is no number.
        """
        if not np.isfinite(logits).all():
            raise InputError("calibration: a logit is not a finite number; the model has diverged, train it with a smaller learning rate")
        scale, shift = np.ones(len(heads)), np.zeros(len(heads))
        known = labels != MASKED
        for i in range(len(heads)):
            scale[i], shift[i] = _fit(logits[known[:, i], i].astype(np.float64), labels[known[:, i], i] == 1)
        return cls(heads, scale, shift, known.sum(0), (labels == 1).sum(0))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """float64[n, heads] of float32[n, heads]."""
        return _sigmoid(logits * self.scale + self.shift)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        names = ("scale", "shift", "examples", "positives")
        of = {head: {name: getattr(self, name)[i].item() for name in names} for i, head in enumerate(self.heads)}
        return {"method": METHOD, "heads": of}

    def save(self, path: Path) -> None:
        """As JSON; floats keep every bit."""
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote.

        Raises
        ------
        CorruptionError
            It isn't that.
        """
        try:
            said = json.loads(path.read_text())
            if said["method"] != METHOD:
                raise ValueError(f"method {said['method']!r} is not known")
            of = said["heads"]
            scale, shift = (np.array([one[name] for one in of.values()], np.float64) for name in ("scale", "shift"))
            examples, positives = (np.array([one[name] for one in of.values()], np.int64) for name in ("examples", "positives"))
            if not (np.isfinite(scale).all() and np.isfinite(shift).all() and (scale > 0).all()):
                raise ValueError("a scale or a shift can't be")
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise CorruptionError(
                f"calibrators {path}: can't be read ({error}); use another base, or restore this one from a copy"
            ) from error
        return cls(tuple(of), scale, shift, examples, positives)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + small), small / (1 + small))


def _fit(z: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    scale, shift = _newton(z, y, True, 1.0)
    # Upside down, a head says nothing: then the shift alone is fitted.
    return (scale, shift) if scale >= _LEAST_SCALE else _newton(z, y, False, _LEAST_SCALE)


def _newton(z: np.ndarray, y: np.ndarray, free: bool, scale: float) -> tuple[float, float]:
    """Least of Σ cross-entropy + ((scale − 1)² + shift²)/2, by Newton's steps, each cut until it goes down."""
    at = np.array([scale, 0.0])
    value = _value(at, z, y)
    for _ in range(_STEPS):
        p = _sigmoid(at[0] * z + at[1])
        slope = np.array([z @ (p - y) + _PRIOR * (at[0] - 1), (p - y).sum() + _PRIOR * at[1]])
        v = p * (1 - p)
        bend = np.array([[z @ (v * z) + _PRIOR, v @ z], [v @ z, v.sum() + _PRIOR]])
        if not free:
            slope[0], bend[0], bend[:, 0] = 0.0, (1.0, 0.0), (1.0, 0.0)
        step = np.linalg.solve(bend, slope)
        while (after := _value(at - step, z, y)) > value and np.abs(step).max() > 1e-12:
            step = step / 2
        if after > value or np.abs(step).max() < 1e-10:
            break
        at, value = at - step, after
    return float(at[0]), float(at[1])


def _value(at: np.ndarray, z: np.ndarray, y: np.ndarray) -> float:
    logit = at[0] * z + at[1]
    return float((np.logaddexp(0, logit) - y * logit).sum() + _PRIOR / 2 * ((at[0] - 1) ** 2 + at[1] ** 2))
