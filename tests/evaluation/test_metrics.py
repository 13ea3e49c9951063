"""Every metric is what plain loops say it is, ties, unknown labels and odd requests included."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.errors import InputError
from online_model.evaluation.metrics import METRICS, OF_PROBABILITIES, measure, reliability
from online_model.evaluation.ordered import BINS, in_order
from online_model.evaluation.ranking import K, rank_requests
from online_model.evaluation.scored import ScoredRows, scored_rows
from online_model.evaluation.user_sums import LEAST
from tests.evaluation.making import columns, rows_of
from tests.oracles import ranking as oracle

# Few values, so that ties are many, and the ends, where a logarithm has none.
PROBABILITIES = st.sampled_from([0.0, 0.1, 0.25, 0.25000001, 0.5, 1.0])
ROW = st.tuples(st.integers(1, 3), st.sampled_from("ab"), PROBABILITIES, st.sampled_from([-1, 0, 0, 1]), st.sampled_from([-2.5, 0.0, 7.0]))
ROWS = st.lists(ROW, min_size=1, max_size=24)
Given = list[tuple[int, str, float, int, float]]


def made(given_rows: Given, by_score: bool = False) -> ScoredRows:
    user, request, probability, label, score = (np.array(column) for column in zip(*given_rows, strict=True))
    return scored_rows(
        user_id=user,
        request_id=pa.array(request.tolist()),
        pin_id=np.arange(len(user)),
        request_time=np.zeros(len(user), np.int64),
        labels={"save": label},
        probabilities={"save": probability},
        score=score if by_score else None,
    )


def expected(given_rows: Given, by_score: bool) -> dict[str, float | None]:
    known = [row for row in given_rows if row[3] >= 0]
    requests = [
        (user, request, [(score if by_score else p, label) for u, r, p, label, score in known if (u, r) == (user, request)])
        for user, request in sorted({row[:2] for row in known})
    ]
    flat = [(p, label) for _, _, p, label, _ in known]
    out = {f"{name}@{K}": oracle.of_users(name, requests, K) for name in oracle.METRICS}
    return out | {
        "auc": oracle.auc(flat),
        "gauc": oracle.gauc([[(p, label) for u, _, p, label, _ in known if u == user] for user in sorted({row[0] for row in known})]),
        "logloss": oracle.logloss(flat, LEAST),
        "ece": oracle.ece(flat, BINS),
        "calibration": oracle.calibration(flat),
    }


@given(ROWS, st.booleans())
def test_metrics_are_what_loops_say(given_rows: Given, by_score: bool) -> None:
    # Every order of equal scores is tried: so many and no more.
    if max(len(list(group)) for _, group in itertools.groupby(sorted(given_rows), key=lambda row: row[:2])) > 7:
        given_rows = given_rows[:7]
    found = measure(made(given_rows, by_score))["save"]
    wanted = expected(given_rows, by_score)
    assert set(found.metrics) == set(wanted) == set(METRICS)
    for name, value in wanted.items():
        assert found.metrics[name].value == (None if value is None else pytest.approx(value, abs=1e-12)), name
        assert bool(found.metrics[name].reason) == (value is None)
    assert found.rows == sum(row[3] >= 0 for row in given_rows)
    assert found.positives == sum(row[3] == 1 for row in given_rows)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(12))
def test_a_request_at_every_depth(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 3, 7).astype(float), rng.integers(0, 2, 7).astype(np.int8)
    found = rank_requests(np.array([0, 7]), labels, scores, k)
    rows = list(zip(scores.tolist(), labels.tolist(), strict=True))
    for name, values in zip(oracle.METRICS, (found.hit, found.ndcg, found.average_precision, found.recall), strict=True):
        wanted = oracle.of_request(name, rows, k)
        assert values[0] == pytest.approx(np.nan if wanted is None else wanted, nan_ok=True, abs=1e-12), name


def test_by_hand() -> None:
    # Two users; the second has a request of three pins, of which only HIT is told.
    rows = [(1, "a", p, label, 0.0) for p, label in ((0.9, 0), (0.8, 1), (0.4, 0), (0.3, 1), (0.1, 0))]
    rows += [(2, "b", p, label, 0.0) for p, label in ((0.5, 0), (0.4, 0), (0.3, 0))]
    found = {name: one.value for name, one in measure(made(rows))["save"].metrics.items()}
    assert found["hit@3"] == pytest.approx((1 + 0) / 2)
    assert found["recall@3"] == pytest.approx(1 / 2)
    assert found["map@3"] == pytest.approx((1 / 2) / 2)
    assert found["ndcg@3"] == pytest.approx((1 / np.log2(3)) / (1 + 1 / np.log2(3)))
    # 0.8 is above 5 of 6 negatives, 0.3 above 1 and level with one.
    assert found["auc"] == pytest.approx((5 + 1.5) / 12)
    assert found["gauc"] == pytest.approx((2 + 1) / 6)


def test_equal_scores_are_worth_what_chance_is() -> None:
    rows = [(1, "a", 0.5, label, 0.0) for label in (1, 0, 0, 0, 0, 0)]
    found = measure(made(rows))["save"].metrics
    assert found["hit@3"].value == pytest.approx(0.5)
    assert found["recall@3"].value == pytest.approx(0.5)
    assert found["auc"].value == pytest.approx(0.5)


def test_nothing_depends_on_the_order_of_rows() -> None:
    table = columns(3)
    turned = {name: values[::-1] for name, values in table.items()}
    assert measure(rows_of(table)) == measure(rows_of(turned))
    assert reliability(rows_of(table), "save") == reliability(rows_of(turned), "save")


@given(ROWS)
def test_reliability_is_what_loops_say(given_rows: Given) -> None:
    known = [(p, label) for _, _, p, label, _ in given_rows if label >= 0]
    found = reliability(made(given_rows), "save")
    wanted = oracle.bins(known, BINS) if known else []
    assert [one.rows for one in found] == [len(one) for one in wanted]
    for one, rows in zip(found, wanted, strict=True):
        assert one.score == pytest.approx(sum(p for p, _ in rows) / len(rows))
        assert one.label == pytest.approx(sum(label for _, label in rows) / len(rows))


def test_bins_are_of_equal_size() -> None:
    table = columns(4, heads=("save",))
    table["score_save"] = np.linspace(0, 1, len(table["pin_id"]))
    sizes = [one.rows for one in reliability(rows_of(table), "save")]
    assert len(sizes) == BINS
    assert max(sizes) - min(sizes) <= 1


@given(ROWS)
def test_a_part_is_measured_as_if_it_were_all(given_rows: Given) -> None:
    rows = made(given_rows)
    which = rows.pin_id % 3 != 0
    if which.any():
        some = [row for i, row in enumerate(given_rows) if i % 3 != 0]
        assert measure(rows.take(which)) == measure(made(some))


def test_without_probabilities_order_alone_is_measured() -> None:
    table = {name: values for name, values in columns(5).items() if not name.startswith("score_")}
    score = np.random.default_rng(1).normal(0, 30, len(table["pin_id"]))
    found = measure(rows_of(table, score))["save"].metrics
    assert all((found[name].value is None) == (name in OF_PROBABILITIES) for name in METRICS)
    assert all("no probabilities" in found[name].reason for name in OF_PROBABILITIES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": {"save": np.array([0, 2])}}, "label_save: 2 in row 1 (1 such rows); give 0, 1, or -1"),
        ({"probabilities": {"save": np.array([np.nan, 0.1])}}, "score_save: nan in row 0 (1 such rows); a score must be a finite number"),
        ({"probabilities": {"save": np.array([0.1, 1.5])}}, "score_save: 1.5 in row 1 (1 such rows); give probabilities within 0 and 1"),
        ({"score": np.array([0.1, -np.inf])}, "score: -inf in row 1"),
        ({"pin_id": np.array([4, 4])}, "pin 4 is in request 'a' of user 1 more than once (1 rows too many)"),
        ({"labels": {}}, "there is no head"),
        ({"probabilities": {}}, "head 'save' has labels and no score"),
        ({"user_id": np.empty(0, np.int64)}, "there are no rows"),
    ],
)
def test_what_can_not_be_measured(change: dict, said: str) -> None:
    sound = {
        "user_id": np.array([1, 1]),
        "request_id": pa.array(["a", "a"]),
        "pin_id": np.array([1, 2]),
        "request_time": np.array([5, 5]),
        "labels": {"save": np.array([0, 1])},
        "probabilities": {"save": np.array([0.1, 0.2])},
    }
    scored_rows(**sound)
    with pytest.raises(InputError) as caught:
        scored_rows(**(sound | change))
    assert said in str(caught.value)


def test_one_request_id_of_two_users_is_two_requests() -> None:
    rows = made([(1, "a", 0.5, 1, 0.0), (2, "a", 0.5, 0, 0.0)])
    assert len(rows.request_id) == 2
    assert measure(rows)["save"].metrics["hit@3"].value == 0.5


def test_rows_of_one_score_stay_in_the_order_of_rows() -> None:
    table = columns(9, heads=("save",))
    table["score_save"] = np.round(table["score_save"], 1)
    rows = rows_of(table)
    known = np.flatnonzero(rows.labels["save"] >= 0)
    wanted = known[np.argsort(rows.probabilities["save"][known], kind="stable")]
    assert in_order(rows, "save").user.tolist() == rows.user[wanted].tolist()
