"""Rows as bytes and back: the same rows, whatever numbers they hold; bytes of another making are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.kernels.packing import pack_rows, unpack_rows

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3) | st.sampled_from([2**63 - 1, -(2**63), 127, 128, -64, -65, 63, 64])


@given(st.integers(1, 5).flatmap(lambda columns: st.lists(st.lists(st.tuples(*[NUMBERS] * columns), max_size=6), min_size=1, max_size=6)))
def test_unpacked_rows_are_those_that_were_packed(entities: list[list[tuple[int, ...]]]) -> None:
    columns = next((len(rows[0]) for rows in entities if rows), 3)
    rows = np.array([row for rows in entities for row in rows], np.int64).reshape(-1, columns)
    bounds = np.cumsum([0, *map(len, entities)])
    values = pack_rows(rows, bounds)
    assert [bool(value) for value in values] == [bool(rows) for rows in entities]
    unpacked = unpack_rows(values, columns)
    assert unpacked is not None
    assert unpacked[0].tolist() == rows.tolist()
    assert unpacked[1].tolist() == bounds.tolist()


def test_what_it_takes() -> None:
    """By hand: zigzag of 5 is 10, of -1 is 1, of 64 is 128, which takes two bytes."""
    assert pack_rows(np.array([[5, -1], [69, -1]]), np.array([0, 2])) == [bytes([10, 1, 0x80, 0x01, 0])]
    assert unpack_rows([], 4)[0].shape == (0, 4)  # type: ignore[index]


@pytest.mark.parametrize(
    "value", [b"\x01", b"\x01\x02\x83", b"\x80", b"\xff" * 10 + b"\x01\x00", b"\x01\x02\x03"], ids=["short", "open", "one", "long", "odd"]
)
def test_bytes_of_another_making_are_refused(value: bytes) -> None:
    assert unpack_rows([value], 2) is None
    assert unpack_rows([b"\x02\x02", value, b"\x02\x02"], 2) is None


def test_a_value_whose_end_its_neighbour_would_complete_is_refused() -> None:
    assert unpack_rows([b"\x01\x81", b"\x01\x01\x01"], 2) is None
