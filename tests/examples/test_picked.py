"""What is picked from several stretches is what a copy of them would say."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from flows.examples.joining import joined
from flows.examples.picked import Picked
from flows.examples.rows import FeatureRows, UserFeatures
from tests.examples.test_rows import made, values_of


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_several_stretches_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stretches = []
    for i in range(int(rng.integers(1, 5))):
        rows = made(10 * seed + i, 30, 6)
        if i % 2:
            # Its users begin behind the first entry of the sequences that they lie in.
            behind = UserFeatures(rows.users.counters[2:], rows.users.offsets[2:], rows.users.sequence)
            rows = rows.at(np.flatnonzero(rows.request >= 2))
            rows = replace(rows, request=rows.request - np.int32(2), users=behind)
        low = int(rng.integers(0, 5))
        stretches.append((rows, low, int(rng.integers(low + 1, len(rows)))))
    n = sum(high - low for _, low, high in stretches)
    picked = Picked(stretches, rng.permutation(n)[: n // 2 + 1])
    copied = joined([rows.take(np.arange(low, high)) for rows, low, high in stretches]).take(picked.index)
    expected = values_of(copied)
    assert values_of(picked.rows()) == expected

    features = picked.features()
    for name in ("user_id", "pin_id", "surface", "slot", "request_time", "pin_counters"):
        assert getattr(features, name).tolist() == getattr(copied, name).tolist() == picked.column(name).tolist(), name
    users, spans = features.users, [(features.users.offsets[i], features.users.offsets[i + 1]) for i in features.request.tolist()]
    assert [repr(one) for one in users.counters[features.request].tolist()] == expected["counters"]
    assert [repr(users.sequence[low:high].tolist()) for low, high in spans] == expected["actions"]
    # Numbered as they come, and none that nobody uses.
    first = np.unique(features.request, return_index=True)[1]
    assert (np.diff(first) > 0).all()
    assert len(users) == len(first)

    some = rng.random(len(picked)) < 0.5
    assert values_of(picked.some(some).rows()) == values_of(copied.take(some))


def test_nothing_picked() -> None:
    picked = Picked.of(made(1, 10, 3)).some(np.zeros(10, bool))
    features = picked.features()
    assert len(picked) == len(picked.rows()) == len(features) == len(features.users) == len(features.users.sequence) == 0
    assert {f.name for f in fields(FeatureRows)} < {f.name for f in fields(picked.rows())}
