"""The measures of skew and drift, against what a few lines of plain Python say."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.kernels.edits import edits
from flows.skew.measures import compare, kolmogorov_smirnov, psi, psi_of_shares

INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
FLOATS = st.floats(allow_nan=True, allow_infinity=False, width=64) | st.sampled_from([0.0, -0.0, 0.5])
CELLS = st.tuples(st.booleans(), st.booleans())


def columns(rows: list[tuple[tuple[bool, bool], tuple[float, float]]], kind: type) -> tuple[np.ndarray, ...]:
    there, known = (np.array([row[0][i] for row in rows], np.bool_) for i in (0, 1))
    served, recomputed = (np.array([row[1][i] for row in rows], kind) for i in (0, 1))
    return served, there, recomputed, known


@given(st.lists(st.tuples(CELLS, st.tuples(INTEGERS, INTEGERS)), max_size=30))
def test_counts_of_integers(rows: list[tuple[tuple[bool, bool], tuple[int, int]]]) -> None:
    compared, wrong = compare(*columns(rows, np.int64))
    both = [values for (there, known), values in rows if there and known]
    assert compared.rows == len(rows)
    assert compared.missing == sum(known and not there for (there, known), _ in rows)
    assert compared.extra == sum(there and not known for (there, known), _ in rows)
    assert compared.differing == sum(a != b for a, b in both)
    assert compared.equal + compared.missing + compared.extra + compared.differing == len(rows)
    assert wrong.tolist() == [there != known or (there and known and a != b) for (there, known), (a, b) in rows]
    assert compared.max_difference == pytest.approx(max((abs(a - b) for a, b in both), default=0))
    smapes = [0 if a == b else Fraction(2 * abs(a - b), abs(a) + abs(b)) for a, b in both]
    assert compared.smape == pytest.approx(float(sum(smapes) / len(smapes)) if smapes else 0)
    assert 0 <= compared.smape <= 2.0000001


@given(st.lists(st.tuples(CELLS, st.tuples(FLOATS, FLOATS)), max_size=30))
def test_floats_are_the_same_by_their_bits_alone(rows: list[tuple[tuple[bool, bool], tuple[float, float]]]) -> None:
    served, there, recomputed, known = columns(rows, np.float64)
    compared, _ = compare(served, there, recomputed, known)
    pairs = zip(served.tolist(), recomputed.tolist(), there & known, strict=True)
    assert compared.differing == sum(struct.pack("d", a) != struct.pack("d", b) for a, b, both in pairs if both)


def naive_edits(a: list[tuple[int, ...]], b: list[tuple[int, ...]]) -> tuple[int, int]:
    """By trying everything."""
    if not a or not b:
        return len(b), len(a)
    if a[0] == b[0]:
        return naive_edits(a[1:], b[1:])
    insert, delete = naive_edits(a, b[1:]), naive_edits(a[1:], b)
    return (insert[0] + 1, insert[1]) if sum(insert) <= sum(delete) else (delete[0], delete[1] + 1)


ENTRIES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=6)


@given(ENTRIES, ENTRIES)
def test_edits_are_the_fewest(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    arrays = [np.array(entries, np.int64).reshape(-1, 2) for entries in (a, b)]
    assert edits(*arrays) == naive_edits(list(a), list(b))


SAMPLES = st.lists(st.integers(-5, 5), min_size=1, max_size=40)


@given(SAMPLES, SAMPLES)
def test_kolmogorov_smirnov(reference: list[int], current: list[int]) -> None:
    def share(sample: list[int], value: int) -> Fraction:
        return Fraction(sum(x <= value for x in sample), len(sample))

    want = max(abs(share(reference, value) - share(current, value)) for value in reference + current)
    assert kolmogorov_smirnov(np.array(reference), np.array(current)) == pytest.approx(float(want))


@given(SAMPLES, SAMPLES)
def test_a_population_stability_index(reference: list[int], current: list[int]) -> None:
    ordered, n = sorted(reference), len(reference)
    bounds = sorted({ordered[max(0, math.ceil(Fraction(i, 10) * n) - 1)] for i in range(11)})

    def shares(sample: list[int]) -> list[float]:
        counts = [0] * (len(bounds) + 1)
        for value in sample:
            counts[next((i for i, bound in enumerate(bounds) if value <= bound), len(bounds))] += 1
        return [max(count / len(sample), 1e-4) for count in counts]

    want = sum((p - q) * math.log(p / q) for p, q in zip(shares(reference), shares(current), strict=True))
    assert psi(np.array(reference), np.array(current)) == pytest.approx(want)
    assert psi(np.array(reference), np.array(reference)) == 0


def test_a_move_is_seen_and_none_is_not() -> None:
    rng = np.random.default_rng(3)
    calm, same, moved = rng.normal(0, 1, 20_000), rng.normal(0, 1, 20_000), rng.normal(0.6, 1, 20_000)
    assert psi(calm, same) < 0.01
    assert psi(calm, moved) > 0.2
    assert kolmogorov_smirnov(calm, same) < 0.02
    assert 0.2 < kolmogorov_smirnov(calm, moved) < 0.3
    # Counters are mostly 0.
    sparse, denser = rng.poisson(0.05, 20_000), rng.poisson(0.5, 20_000)
    assert psi(sparse, rng.poisson(0.05, 20_000)) < 0.01
    assert psi(sparse, denser) > 0.2
    assert psi_of_shares(np.array([10, 90, 0]), np.array([100, 900, 0])) == 0
    assert psi_of_shares(np.array([10, 90, 0]), np.array([50, 40, 10])) > 0.2


def test_of_nothing_nothing_is_said() -> None:
    none, some = np.empty(0), np.array([1.0])
    for measure in (psi, kolmogorov_smirnov):
        assert math.isnan(measure(none, some))
        assert math.isnan(measure(some, none))
    assert math.isnan(psi_of_shares(np.array([0]), np.array([1])))
    compared, wrong = compare(none, np.empty(0, np.bool_), none, np.empty(0, np.bool_))
    assert (compared.rows, compared.smape, len(wrong)) == (0, 0.0, 0)
