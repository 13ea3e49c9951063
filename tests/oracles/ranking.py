"""What the metrics of an evaluation are, by plain loops over rows; where scores are equal, by trying every order of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import groupby, permutations, product

Row = tuple[float, int]  # score, label
Request = tuple[int, str, list[Row]]  # user, request, the rows whose label is known


def orders(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Labels from the top, for every order that the scores allow, each as likely as any other."""
    ranked = sorted(rows, key=lambda row: -row[0])
    ties = [[label for _, label in group] for _, group in groupby(ranked, key=lambda row: row[0])]
    for chosen in product(*(list(permutations(tie)) for tie in ties)):
        yield [label for tie in chosen for label in tie]


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def hit(labels: Sequence[int], k: int) -> float:
    return float(any(labels[:k]))


def ndcg(labels: Sequence[int], k: int) -> float:
    def dcg(ranked: Sequence[int]) -> float:
        return sum(label / math.log2(place + 1) for place, label in enumerate(ranked[:k], 1))

    return dcg(labels) / dcg(sorted(labels, reverse=True))


def average_precision(labels: Sequence[int], k: int) -> float:
    found = 0
    total = 0.0
    for place, label in enumerate(labels[:k], 1):
        if label:
            found += 1
            total += found / place
    return total / min(k, sum(labels))


def recall(labels: Sequence[int], k: int) -> float:
    return sum(labels[:k]) / sum(labels)


METRICS = {"hit": hit, "ndcg": ndcg, "map": average_precision, "recall": recall}


def of_request(name: str, rows: Sequence[Row], k: int) -> float | None:
    """None where the request doesn't count."""
    if not rows or (name != "hit" and (not any(label for _, label in rows) or len(rows) <= k)):
        return None
    return mean([METRICS[name](labels, k) for labels in orders(rows)])


def of_users(name: str, requests: Sequence[Request], k: int) -> float | None:
    """Mean over each user's requests, then over users."""
    by_user: dict[int, list[float]] = {}
    for user, _, rows in requests:
        value = of_request(name, rows, k)
        if value is not None:
            by_user.setdefault(user, []).append(value)
    return mean([sum(values) / len(values) for values in by_user.values()])


def auc(rows: Sequence[Row]) -> float | None:
    """By looking at every pair of a positive and a negative."""
    pairs = [(a, b) for a, label in rows if label for b, other in rows if not other]
    if not pairs:
        return None
    return float(sum(Fraction(1 if a > b else 0) + (Fraction(1, 2) if a == b else 0) for a, b in pairs) / len(pairs))


def gauc(by_user: Sequence[Sequence[Row]]) -> float | None:
    told = [(len(rows), value) for rows in by_user if (value := auc(rows)) is not None]
    return sum(n * value for n, value in told) / sum(n for n, _ in told) if told else None


def logloss(rows: Sequence[Row], least: float) -> float | None:
    cut = [(min(max(p, least), 1 - least), label) for p, label in rows]
    return mean([-math.log(p if label else 1 - p) for p, label in cut])


def calibration(rows: Sequence[Row]) -> float | None:
    positives = sum(label for _, label in rows)
    return sum(p for p, _ in rows) / positives if positives else None


def bins(rows: Sequence[Row], count: int) -> list[list[Row]]:
    """Row i of n, by ascending score, is in bin floor(i · count / n); rows of one score all where the first of them is."""
    ranked = sorted(rows, key=lambda row: row[0])
    filled: dict[int, list[Row]] = {}
    place = 0
    for i, row in enumerate(ranked):
        if i == 0 or row[0] != ranked[i - 1][0]:
            place = i * count // len(ranked)
        filled.setdefault(place, []).append(row)
    return [filled[at] for at in sorted(filled)]


def ece(rows: Sequence[Row], count: int) -> float | None:
    if not rows:
        return None
    total = 0.0
    for one in bins(rows, count):
        total += abs(sum(label for _, label in one) / len(one) - sum(p for p, _ in one) / len(one)) * len(one) / len(rows)
    return total
