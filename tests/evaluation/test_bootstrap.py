"""Intervals hold the truth as often as they say, the detectable effect is detected as often as it says, and both follow from the seed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from flows.errors import InputError
from online_model.evaluation.bootstrap import DETECTABLE, Difference, compare
from online_model.evaluation.metrics import METRICS, Measuring
from online_model.evaluation.ordered import BINS
from online_model.evaluation.report import verdict
from online_model.evaluation.scored import ScoredRows, scored_rows
from tests.evaluation.making import columns, rows_of
from tests.oracles import ranking as oracle


def one(differences: tuple[Difference, ...], metric: str) -> Difference:
    return next(each for each in differences if each.metric == metric)


def losses(of_users: np.ndarray) -> ScoredRows:
    """A row a user, whose log loss is just that."""
    n = len(of_users)
    return scored_rows(
        user_id=np.arange(n),
        request_id=pa.array([""] * n),
        pin_id=np.zeros(n, np.int64),
        request_time=np.zeros(n, np.int64),
        labels={"save": np.ones(n, np.int8)},
        probabilities={"save": np.exp(-of_users)},
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_weight_counts_a_user_so_often(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = columns(seed, users=12, heads=("save",))
    table["score_save"] = np.round(table["score_save"] * 8) / 8
    rows = rows_of(table)
    weights = rng.integers(0, 4, (12, 3))
    found = Measuring(rows, "save").under(weights.astype(np.float32))
    for b in range(3):
        # A user who counts three times is three users.
        copies = {name: [] for name in table}
        for i, user in enumerate(rows.user_id.tolist()):
            for copy in range(weights[i, b]):
                mine = table["user_id"] == user
                for name, values in table.items():
                    copies[name] += (values[mine] * 10 + copy if name == "user_id" else values[mine]).tolist()
        again = Measuring(rows_of({name: np.array(values) for name, values in copies.items()}), "save").told().metrics
        for name in METRICS:
            if name != "ece":
                assert found[METRICS.index(name), b] == pytest.approx(again[name].value), name


@pytest.mark.parametrize("seed", range(4))
def test_calibration_error_under_weights_keeps_its_bins(seed: int) -> None:
    table = columns(seed, users=12, heads=("save",))
    rows = rows_of(table)
    weights = np.random.default_rng(seed).integers(0, 4, (12, 1))
    mine = dict(zip(rows.user_id.tolist(), weights[:, 0].tolist(), strict=True))
    known = [
        ((score, user), label)
        for score, label, user in zip(*(table[name].tolist() for name in ("score_save", "label_save", "user_id")), strict=True)
        if label >= 0
    ]
    total = wanted = 0.0
    for part in oracle.bins(known, BINS):  # type: ignore[arg-type]
        wanted += abs(sum(mine[user] * (label - score) for (score, user), label in part))  # type: ignore[misc]
        total += sum(mine[user] for (_, user), _ in part)  # type: ignore[misc]
    assert Measuring(rows, "save").under(weights.astype(np.float32))[METRICS.index("ece"), 0] == pytest.approx(wanted / total)


def test_the_detectable_effect_of_normal_losses() -> None:
    n, sigma = 2000, 0.3
    moved = np.random.default_rng(5).normal(0, sigma, n)
    found = one(compare(losses(5 + moved), losses(np.full(n, 5.0)), 1, 2000).differences, "logloss")
    assert found.difference == pytest.approx(moved.mean())
    assert found.detectable == pytest.approx(2.8016 * moved.std() / np.sqrt(n), rel=0.06)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * moved.std() / np.sqrt(n), rel=0.06)
    assert pytest.approx(2.8016, abs=1e-4) == DETECTABLE


def test_the_detectable_effect_is_found_four_times_in_five() -> None:
    n, sigma, times = 150, 0.3, 300
    effect = DETECTABLE * sigma / np.sqrt(n)
    rng = np.random.default_rng(9)
    found = [
        verdict(one(compare(losses(5 + rng.normal(effect, sigma, n)), losses(np.full(n, 5.0)), i, 200).differences, "logloss"))
        for i in range(times)
    ]
    # A lower loss is better, so this is worse. Four standard errors of a share of 0.8 are 0.09.
    assert found.count("worse") / times == pytest.approx(0.8, abs=0.09)
    assert found.count("better") == 0


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Samples of users from a population whose differences are known."""
    sides = [rows_of(columns(1, users=12_000, requests=1, heads=("save",), noise=noise, scores=i)) for i, noise in enumerate((0.4, 1.6))]
    once = np.ones((12_000, 1), np.float32)
    truth = np.subtract(*(Measuring(side, "save").under(once)[:, 0] for side in sides))
    rng = np.random.default_rng(2)
    times, held = 120, dict.fromkeys(METRICS, 0)
    for i in range(times):
        drawn = np.isin(sides[0].user, rng.choice(12_000, 300, replace=False))
        for each in compare(sides[0].take(drawn), sides[1].take(drawn), i, 200).differences:
            assert each.low is not None
            assert each.high is not None
            held[each.metric] += each.low <= truth[METRICS.index(each.metric)] <= each.high
    # 114 are expected, and 2.4 more or fewer are one standard error. Intervals of seven tenths of the length would hold 100, and one of ECE that
    # keeps its bias would hold 60.
    assert {name: n for name, n in held.items() if not 104 <= n <= times} == {}
    assert sum(held.values()) < 0.98 * times * len(METRICS)


def test_rows_of_one_user_are_no_more_users() -> None:
    table = columns(6, users=200, requests=1, heads=("save",))
    moved = np.random.default_rng(1).normal(0, 0.1, len(table["pin_id"]))
    other = table | {"score_save": np.clip(table["score_save"] + moved, 0, 1)}

    def repeated(once: dict[str, np.ndarray]) -> ScoredRows:
        """The same ten times over, as ten requests of each."""
        parts = [once | {"request_id": np.char.add(once["request_id"], f"-{i}")} for i in range(10)]
        return rows_of({name: np.concatenate([part[name] for part in parts]) for name in once})

    few = compare(rows_of(table), rows_of(other), 3, 500).differences
    many = compare(repeated(table), repeated(other), 3, 500).differences
    for metric in ("hit@3", "auc", "logloss"):
        assert one(few, metric).detectable == pytest.approx(one(many, metric).detectable)


def test_it_follows_from_the_seed_and_from_no_order_of_rows() -> None:
    table, other = columns(7, scores=0), columns(7, scores=1, noise=1.0)
    turned = {name: values[::-1] for name, values in table.items()}
    first = compare(rows_of(table), rows_of(other), 4, 200)
    assert compare(rows_of(turned), rows_of(other), 4, 200) == first
    assert compare(rows_of(table), rows_of(other), 5, 200) != first


def test_the_other_way_round_it_is_the_other_way_round() -> None:
    sides = rows_of(columns(7, scores=0)), rows_of(columns(7, scores=1, noise=1.0))
    for there, back in zip(compare(*sides, 4, 200).differences, compare(*sides[::-1], 4, 200).differences, strict=True):
        assert there.difference == pytest.approx(-back.difference)  # type: ignore[operator]
        assert there.low == pytest.approx(-back.high)  # type: ignore[operator]
        assert there.detectable == pytest.approx(back.detectable)
        assert there.p_value == pytest.approx(back.p_value)


def test_the_same_scores_differ_by_nothing() -> None:
    rows = rows_of(columns(8))
    for each in compare(rows, rows, 0, 100).differences:
        assert (each.difference, each.low, each.high, each.p_value, each.detectable) == (0, 0, 0, 1, 0)
        assert verdict(each) == "within chance"


def test_of_one_user_no_interval() -> None:
    rows = rows_of(columns(8, users=1, requests=20, heads=("save",)))
    for each in compare(rows, rows, 0, 100).differences:
        assert each.difference == 0
        assert each.low is each.p_value is each.detectable is None
        assert "one user" in each.reason
        assert verdict(each) == "unknown"


def test_without_a_positive_no_difference() -> None:
    table = columns(8, heads=("save",))
    table["label_save"] = np.zeros_like(table["label_save"])
    found = {each.metric: each for each in compare(rows_of(table), rows_of(table), 0, 100).differences}
    assert found["logloss"].difference == 0
    assert found["hit@3"].difference == 0
    for name in ("ndcg@3", "auc", "gauc", "calibration"):
        assert found[name].difference is None
        assert found[name].reason == "no row is positive"


def test_where_few_have_a_positive_there_is_no_interval() -> None:
    table = columns(8, users=40, requests=1, shown=1, heads=("save",))
    table["label_save"][:] = -1
    table["label_save"][[0, 1]] = 1, 0
    rows = rows_of(table)
    found = {each.metric: each for each in compare(rows, rows, 0, 1000).differences}
    # One user is drawn by 63 resamples in 100, two of them together by 40.
    assert found["calibration"].reason == ""
    assert found["auc"].difference == 0
    assert found["auc"].low is None
    assert "most resamples" in found["auc"].reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: {name: values[1:] for name, values in table.items()}, "not of the same rows (1,440 and 1,439)"),
        (lambda table: table | {"pin_id": table["pin_id"] + 1}, "not of the same rows"),
        (lambda table: table | {"user_id": table["user_id"] + 1}, "not of the same rows"),
        (lambda table: table | {"request_id": np.char.add(table["request_id"], "x")}, "not of the same rows"),
        (lambda table: table | {"label_save": 1 - np.abs(table["label_save"])}, "label_save of the two scorings differs in"),
        (
            lambda table: {name.replace("save", "buy").replace("hide", "sell"): values for name, values in table.items()},
            "no head in common",
        ),
    ],
)
def test_what_can_not_be_compared(change, said: str) -> None:  # type: ignore[no-untyped-def]
    table = columns(2)
    with pytest.raises(InputError) as caught:
        compare(rows_of(table), rows_of(change(table)), 0, 100)
    assert said in str(caught.value)
