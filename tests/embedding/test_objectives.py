"""Each objective against plain loops over a history: which outputs, which positive pins, how much each user weighs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from flows.errors import SettingsError
from online_model.embedding.batches import vector_rows
from online_model.embedding.config import EmbeddingConfig, Objective, Positive
from online_model.embedding.objectives import Drawing, Examples
from online_model.embedding.positives import Positives, is_positive
from online_model.embedding.sequences import UserSequences
from tests.embedding.worlds import ACTIONS, BEGIN, DAY, SURFACES, TINY, of_one_user, random_sequences, random_vectors

WINDOW = 6 * DAY


def drawing_of(sequences: UserSequences, seed: int, config: EmbeddingConfig) -> tuple[Drawing, list[int]]:
    """A drawing, and the row of each action's vector if the action is positive, else −1: by a loop."""
    vectors = random_vectors(seed, sequences)
    rows = vector_rows(vectors.rows_of(sequences.pin_ids), len(vectors))
    positive = []
    for k in range(len(sequences.pin)):
        save = sequences.action[k] == ACTIONS["save"]
        long = sequences.action[k] == ACTIONS["closeup"] and sequences.duration_ms[k] > 10_000
        row = int(rows[sequences.pin[k]])
        positive.append(row if (save or long) and row < len(vectors) else -1)
    return Drawing(sequences, Positives.of(sequences, rows, len(vectors), config), config), positive


def allowed(sequences: UserSequences, positive: list[int], objective: Objective) -> dict[int, dict[int, list[int]]]:
    """User → action that may be an output → the positive actions that it may have to tell."""
    out: dict[int, dict[int, list[int]]] = {}
    for user in range(len(sequences)):
        low, high = int(sequences.offsets[user]), int(sequences.offsets[user + 1])
        for i in range(low, high):
            if objective in (Objective.NEXT_ACTION, Objective.SASREC):
                told = [j for j in range(i + 1, min(i + 2, high)) if positive[j] >= 0]
            else:
                told = [j for j in range(i + 1, high) if positive[j] >= 0 and sequences.time_ms[j] - sequences.time_ms[i] <= WINDOW]
            if told:
                out.setdefault(user, {})[i] = told
    return out


def check(drawn: Examples, users: np.ndarray, sequences: UserSequences, may: dict[int, dict[int, list[int]]], positive: list[int]) -> None:
    """Everything that holds of a draw whatever the objective."""
    for b, user in enumerate(users.tolist()):
        low, high = int(sequences.offsets[user]), int(sequences.offsets[user + 1])
        first, last = int(drawn.first[b]), int(drawn.last[b])
        assert low <= first < last <= high
        assert last - first == min(TINY.length, last - low)
        mine = np.flatnonzero(drawn.user == b)
        assert drawn.weight[mine].sum() == pytest.approx(1 / len(users))
        assert np.ptp(drawn.weight[mine]) == 0
        assert len(mine) > 0
        for e in mine:
            output = first + int(drawn.output[e])
            assert output < last
            assert drawn.pin[e] in {positive[j] for j in may[user][output]}


@pytest.mark.parametrize("objective", list(Objective))
@pytest.mark.parametrize("seed", range(3))
def test_draws_are_what_loops_allow_and_leave_nothing_out(objective: Objective, seed: int) -> None:
    sequences = random_sequences(seed, users=8, most=22)
    config = replace(TINY, objective=objective, window_days=6.0)
    drawing, positive = drawing_of(sequences, seed, config)
    may = allowed(sequences, positive, objective)
    assert drawing.users.tolist() == sorted(may)
    met: Counter[tuple[int, int, int]] = Counter()
    rng = np.random.default_rng(seed)
    for _ in range(400):
        users = rng.permutation(drawing.users)
        drawn = drawing.draw(users, rng)
        check(drawn, users, sequences, may, positive)
        where = np.stack([users[drawn.user], drawn.first[drawn.user] + drawn.output], 1).tolist()
        counts = Counter(drawn.user.tolist())
        for b, user in enumerate(users.tolist()):
            at = [i for (_, i), u in zip(where, drawn.user.tolist(), strict=True) if u == b]
            inside = [i for i in may[user] if drawn.first[b] <= i < drawn.last[b]]
            if objective == Objective.SASREC:
                assert sorted(at) == inside, "every output that there is"
            elif objective == Objective.DENSE_ALL_ACTION:
                assert len(set(at)) == len(at) == min(TINY.samples, len(inside))
            else:
                assert set(at) == {int(drawn.last[b]) - 1}, "the last one alone"
                assert counts[b] == (1 if objective == Objective.NEXT_ACTION else min(TINY.samples, len(may[user][at[0]])))
        met.update((user, i, int(pin)) for (user, i), pin in zip(where, drawn.pin, strict=True))
    want = {(user, i, positive[j]) for user, outputs in may.items() for i, told in outputs.items() for j in told}
    rare = {one for one in want if one not in met}
    assert set(met) <= want
    # A user with a window and a half of actions has some hundred pairs.
    assert len(rare) <= len(want) // 20


def test_dense_all_action_draws_each_positive_of_the_window_alike() -> None:
    sequences = of_one_user(9, pins=9)
    config = replace(TINY, samples=1, length=16)
    drawing, _ = drawing_of(sequences, 0, config)
    rng, met = np.random.default_rng(1), Counter[int]()
    for _ in range(3_000):
        drawn = drawing.draw(drawing.users, rng)
        if drawn.output[0] == 0:
            met[int(drawn.pin[0])] += 1
    shares = np.array(list(met.values())) / sum(met.values())
    assert shares == pytest.approx(np.full(len(shares), 1 / len(shares)), abs=0.06)


def test_of_100_000_actions_every_part_is_learned_from() -> None:
    sequences = of_one_user(100_000)
    drawing, _ = drawing_of(sequences, 0, TINY)
    rng = np.random.default_rng(0)
    ends = [int(drawing.draw(drawing.users, rng).last[0]) for _ in range(200)]
    assert np.histogram(ends, 4, (0, 100_000))[0].min() > 20


def test_the_edges_of_what_is_positive() -> None:
    assert Positive.of("click@homefeed > 10s") == Positive("click", "homefeed", 10_000)
    assert Positive.of("save") == Positive("save")
    assert Positive.of(" closeup>0.5s ") == Positive("closeup", None, 500)
    sequences = random_sequences(0)
    long = is_positive(sequences, ["closeup@search > 10s"])
    want = (sequences.action == 1) & (sequences.surface == SURFACES["search"]) & (sequences.duration_ms >= 10_001)
    assert want.any()
    assert (long == want).all()
    with pytest.raises(SettingsError, match=r"'saved': there is no action 'saved' \(did you mean 'save'\?\)"):
        is_positive(sequences, ["saved"])
    with pytest.raises(SettingsError, match="there is no surface 'shop'"):
        is_positive(sequences, ["save@shop"])
    with pytest.raises(SettingsError, match="says no positive action"):
        EmbeddingConfig(positives=("save > ten",))


def test_the_window_ends_with_its_last_millisecond() -> None:
    sequences = of_one_user(3)
    for last, there in ((BEGIN + 28 * DAY, True), (BEGIN + 28 * DAY + 1, False)):
        moved = replace(sequences, time_ms=np.array([BEGIN, last, last + 90 * DAY]))
        positives = Positives.of(moved, np.arange(len(moved.pin_ids)), len(moved.pin_ids), TINY)
        assert (positives.last - positives.first).tolist() == [int(there), 0, 0]
