"""A retrain: what it makes is a function of the offline store and the last full base, it survives a kill anywhere, and no worse model is served."""

from __future__ import annotations

import pytest

from online_model.registry.registry import Registry
from tests.retrain.store import AGAIN, SCRATCH, data, files_of, run


def test_first_base_then_the_next(tmp_path):
    settings = data(tmp_path)
    first = run(settings, SCRATCH, 8)
    assert (first.base, first.passed, first.parent) == (1, True, None)
    second = run(settings, AGAIN, 12)
    assert (second.base, second.parent) == (2, 1)
    assert second.spans.begin == first.spans.learned
    registry = Registry.of(settings)
    current = registry.current()
    assert current.base == 2 and [p.start.base for p in current.history] == [1, 2]
    assert current.start.delta > 0, "it has caught up before it was served"
    assert second.metrics["gate"]["at"] == "negative"
    assert set(files_of(settings, 1)) == set(files_of(settings, 2))
