"""Whether a difference between two scorings of the same rows is more than chance: a paired bootstrap that draws users, not rows.

Rows of one user are alike, so that rows drawn one by one would promise more than the data holds. Both scorings see the same draws. Everything
follows from the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from flows.errors import InputError
from online_model.evaluation.metrics import METRICS, Head, Measuring, Value
from online_model.evaluation.scored import ScoredRows

RESAMPLES = 1000
LEVEL, POWER = 0.95, 0.80
DETECTABLE = NormalDist().inv_cdf((1 + LEVEL) / 2) + NormalDist().inv_cdf(POWER)
"""Standard errors that a true difference must be from 0 to be found at 5 % (two-sided) with a chance of 80 %: 2.80."""
_BLOCK = 64  # resamples at once: 256 bytes of weights for each row that is walked


@dataclass(frozen=True)
class Difference:
    """A metric of one scoring less that of another.

    Attributes
    ----------
    head, metric : str
    value, against : Value
        Of the first and of the second.
    difference : float or None
    low, high : float or None
        Interval of LEVEL: the basic bootstrap's (Davison and Hinkley 1997, section 5.2).
    p_value : float or None
        Two-sided.
    detectable : float or None
        The least true difference that would be found with a chance of POWER: DETECTABLE standard errors of the bootstrap.
    reason : str
        Why there is no interval; else empty.
    """

    head: str
    metric: str
    value: Value
    against: Value
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    detectable: float | None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """All differences, and how they were found."""

    users: int
    resamples: int
    seed: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True, eq=False)
class Drawn:
    """One scoring under draws of users.

    Attributes
    ----------
    heads : dict of str to Head
        Each user counting once.
    drawn : float64[heads, metrics, resamples]
        Metrics in the order in which the heads have them. nan where a resample has no such metric.
    users, seed : int
    """

    heads: dict[str, Head]
    drawn: np.ndarray
    users: int
    seed: int


@dataclass(frozen=True, eq=False)
class Resamples:
    """Both scorings under the same draws of users.

    Attributes
    ----------
    heads : dict of str to (Head, Head)
        Of the first scoring and of the second, each user counting once.
    drawn : float64[heads, 2, metrics, resamples]
        As of `Drawn`.
    users, seed : int
    """

    heads: dict[str, tuple[Head, Head]]
    drawn: np.ndarray
    users: int
    seed: int


def compare(
    rows: ScoredRows, against: ScoredRows, seed: int, resamples: int = RESAMPLES, told: Callable[[int], None] = lambda n: None
) -> Comparison:
    """Differences of all metrics of all heads that both have.

    Parameters
    ----------
    rows, against : ScoredRows
        The same rows and labels, scored in two ways.
    seed : int
    resamples : int
    told : callable
        Called with how many resamples are done.

    Raises
    ------
    InputError
        They are not of the same rows, or have no head in common.
    """
    return pooled([resample(rows, against, seed, resamples, told)])


def resample(
    rows: ScoredRows, against: ScoredRows, seed: int, resamples: int = RESAMPLES, told: Callable[[int], None] = lambda n: None
) -> Resamples:
    """What `compare` is made of; parameters and errors are its own."""
    refuse_other_rows(rows, against)
    return paired(*draw((rows, against), seed, resamples, told))


def draw(
    sides: Sequence[ScoredRows], seed: int, resamples: int = RESAMPLES, told: Callable[[int], None] = lambda n: None
) -> tuple[Drawn, ...]:
    """Several scorings of the same rows under the same draws of users, so that any two of them are a pair.

    Parameters
    ----------
    sides : sequence of ScoredRows
        Of the same rows and labels (`refuse_other_rows`).
    seed : int
    resamples : int
    told : callable
        Called with how many resamples are done.
    """
    measuring = [{head: Measuring(side, head) for head in side.heads} for side in sides]
    users = len(sides[0].user_id)
    out = [np.empty((len(heads), len(METRICS), resamples)) for heads in measuring]
    for start, weights in weights_of(users, resamples, seed):
        for heads, values in zip(measuring, out, strict=True):
            for i, head in enumerate(heads.values()):
                values[i, :, start : start + weights.shape[1]] = head.under(weights)
        told(weights.shape[1])
    return tuple(
        Drawn({name: head.told() for name, head in heads.items()}, values, users, seed)
        for heads, values in zip(measuring, out, strict=True)
    )


def paired(one: Drawn, other: Drawn) -> Resamples:
    """Two that were drawn together, in the heads that both have."""
    heads = [head for head in one.heads if head in other.heads]
    at = [[list(side.heads).index(head) for head in heads] for side in (one, other)]
    values = np.stack([side.drawn[index] for side, index in zip((one, other), at, strict=True)], axis=1)
    return Resamples({head: (one.heads[head], other.heads[head]) for head in heads}, values, one.users, one.seed)


def pooled(parts: Sequence[Resamples]) -> Comparison:
    """Differences of one population, or the means of those of several that have no user in common.

    Of several, resample i is the mean of theirs: their users were drawn apart. So the interval is about these populations, and says nothing of
    others; how far their own differences lie apart is beside it for whoever asks.

    Parameters
    ----------
    parts : sequence of Resamples
        One or more, of the same heads and as many resamples.
    """
    drawn = np.mean([part.drawn for part in parts], axis=0)
    users = sum(part.users for part in parts)
    differences = []
    for i, head in enumerate(parts[0].heads):
        for j, name in enumerate(parts[0].heads[head][0].metrics):
            value, other = (_mean([part.heads[head][side].metrics[name] for part in parts]) for side in (0, 1))
            differences.append(_difference(head, name, value, other, users, drawn[i, :, j]))
    return Comparison(users, drawn.shape[-1], parts[0].seed, tuple(differences))


def refuse_other_rows(rows: ScoredRows, against: ScoredRows) -> None:
    """Refuse a comparison of scorings that are not of the same rows with the same labels.

    Raises
    ------
    InputError
        They aren't, or have no head in common.
    """
    if len(rows) != len(against) or not (
        np.array_equal(rows.user_id, against.user_id)
        and np.array_equal(rows.users, against.users)
        and np.array_equal(rows.requests, against.requests)
        and np.array_equal(rows.pin_id, against.pin_id)
        and rows.request_id.equals(against.request_id)
    ):
        raise InputError(
            f"the two scorings are not of the same rows ({len(rows):,} and {len(against):,}): score the same (user_id, request_id, pin_id) with both"
        )
    heads = [head for head in rows.heads if head in against.labels]
    if not heads:
        raise InputError(
            f"the two scorings have no head in common (one has {', '.join(rows.heads)}, the other {', '.join(against.heads)}); "
            "give both a label and a score of one head"
        )
    for head in heads:
        if n := int((rows.labels[head] != against.labels[head]).sum()):
            raise InputError(f"label_{head} of the two scorings differs in {n:,} rows: give both the same labels")


def _mean(values: Sequence[Value]) -> Value:
    """None where one has none."""
    known = [one.value for one in values if one.value is not None]
    if len(known) < len(values):
        return next(one for one in values if one.value is None)
    return Value(sum(known) / len(known), sum(one.counted for one in values), values[0].unit)


def weights_of(users: int, resamples: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of resamples: where each begins, and how often each user was drawn, float32[users, b]."""
    random = np.random.default_rng(seed)
    for start in range(0, resamples, _BLOCK):
        block = np.empty((min(_BLOCK, resamples - start), users), np.float32)
        for weights in block:
            weights[:] = np.bincount(random.integers(0, users, users), minlength=users)
        yield start, np.ascontiguousarray(block.T)


def _difference(head: str, metric: str, value: Value, against: Value, users: int, drawn: np.ndarray) -> Difference:
    """`drawn`: float64[2, resamples], the metric of both scorings."""
    if value.value is None or against.value is None:
        return Difference(head, metric, value, against, None, None, None, None, None, value.reason or against.reason)
    difference = value.value - against.value
    if users < 2:
        return Difference(
            head, metric, value, against, difference, None, None, None, None, "all rows are of one user: there is nothing to draw"
        )
    each = drawn[0] - drawn[1]
    each = each[~np.isnan(each)]
    if 2 * len(each) <= drawn.shape[1] or len(each) < 2:
        reason = "most resamples of users have no such metric: too few users have a positive"
        return Difference(head, metric, value, against, difference, None, None, None, None, reason)
    # How far resamples are from the difference says how far that is from the truth. So what a resample adds by being smaller (it makes any ECE
    # larger) is taken off, where quantiles of the resamples themselves would keep it, twice.
    low, high = 2 * difference - np.quantile(each, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    tail = min(int((each <= 2 * difference).sum()), int((each >= 2 * difference).sum()))
    p_value = min(1.0, 2 * (tail + 1) / (len(each) + 1))
    return Difference(head, metric, value, against, difference, float(low), float(high), p_value, DETECTABLE * float(each.std(ddof=1)))
