"""The pair map is a dict from pairs of int64 to an int64."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flows.kernels.pairmap import delete_at, new_table, put_at, slot_of, with_room

LEAST, GREATEST = -(2**63), 2**63 - 1


def colliding(slots: range, count: int) -> list[tuple[int, int]]:
    """Pairs whose place in the least table is one of a few neighbouring slots."""
    empty = new_table(0)
    found, first = [], 0
    while len(found) < count:
        first += 1
        if (-1 - slot_of(empty, first, 7)) in slots:
            found.append((first, 7))
    return found


# Around the end of the table, so that probes wrap; and pairs that differ in one half, or are each other turned round.
KEYS = colliding(range(1020, 1024), 12) + colliding(range(3), 6) + [(0, 0), (LEAST, GREATEST), (GREATEST, LEAST), (-1, -1), (1, 2), (2, 1)]


class Map:
    def __init__(self) -> None:
        self.table, self.used = new_table(0), 0

    def put(self, key: tuple[int, int], value: int) -> None:
        self.table = with_room(self.table, self.used, 1)
        slot = slot_of(self.table, *key)
        if slot >= 0:
            self.table[slot, 2] = value
        else:
            put_at(self.table, -1 - slot, *key, value)
            self.used += 1

    def pop(self, key: tuple[int, int]) -> None:
        slot = slot_of(self.table, *key)
        if slot >= 0:
            delete_at(self.table, slot)
            self.used -= 1

    def get(self, key: tuple[int, int]) -> int | None:
        slot = slot_of(self.table, *key)
        return int(self.table[slot, 2]) if slot >= 0 else None


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(-5, 5) | st.none()), max_size=120))
def test_inserts_and_deletes_of_colliding_pairs(steps: list[tuple[tuple[int, int], int | None]]) -> None:
    pairs, want = Map(), dict[tuple[int, int], int]()
    for key, value in steps:
        if value is None:
            pairs.pop(key)
            want.pop(key, None)
        else:
            pairs.put(key, value)
            want[key] = value
        assert {k: v for k in KEYS if (v := pairs.get(k)) is not None} == want
    assert pairs.used == len(want) == int(pairs.table[:, 3].sum())


def test_growth_and_churn() -> None:
    rng = np.random.default_rng(0)
    pairs, want = Map(), dict[tuple[int, int], int]()
    keys = [(int(a), int(b)) for a, b in rng.integers(LEAST, GREATEST, (3_000, 2))]
    for step in range(12_000):
        key = keys[int(rng.integers(len(keys)))]
        if rng.random() < 0.4:
            pairs.pop(key)
            want.pop(key, None)
        else:
            pairs.put(key, step)
            want[key] = step
        assert 2 * pairs.used <= len(pairs.table)
    assert {k: v for k in keys if (v := pairs.get(k)) is not None} == want


def test_room_is_made_once_and_keeps_what_is_there() -> None:
    pairs = Map()
    for i in range(100):
        pairs.put((i, -i), i)
    grown = with_room(pairs.table, 100, 5_000)
    assert len(grown) >= 2 * 5_100
    assert with_room(grown, 100, 5_000) is grown
    assert all(grown[slot_of(grown, i, -i), 2] == i for i in range(100))
