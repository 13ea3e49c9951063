"""What is known of a user when a pin is to be found, in plain loops; and who is evaluated on what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from flows.errors import InputError, SettingsError
from online_model.embedding.config import Positive
from online_model.embedding.embedding_model import EmbeddingModel
from online_model.embedding.evaluation.refresh import Refresh, counts_before, known_before, prefixes
from online_model.embedding.evaluation.split import Split, split
from online_model.embedding.model import PinnerFormer
from online_model.embedding.sequences import UserSequences
from tests.embedding.worlds import ACTIONS, DAY, SURFACES, TINY, random_sequences, random_vectors

RULES = ("save", "closeup > 10s", "click@search")
Action = tuple[int, int, int, int, int]


def actions_of(sequences: UserSequences, user: int) -> list[Action]:
    """(time, pin, action, surface, duration) of one user, in order."""
    s, span = sequences, range(sequences.offsets[user], sequences.offsets[user + 1])
    return [(int(s.time_ms[i]), int(s.pin[i]), int(s.action[i]), int(s.surface[i]), int(s.duration_ms[i])) for i in span]


def is_positive(action: Action) -> bool:
    _, _, code, surface, duration = action
    for rule in map(Positive.of, RULES):
        fits = ACTIONS[rule.action] == code and (rule.surface is None or SURFACES[rule.surface] == surface)
        if fits and (rule.longer_than_ms is None or duration > rule.longer_than_ms):
            return True
    return False


def naive_known(actions: list[Action], refresh: Refresh, at: int, begin: int, most: int) -> list[Action]:
    """The newest actions that may be known of a user to whom a pin comes at a moment."""
    until = begin
    if refresh is Refresh.DAILY:
        while until + DAY <= at:
            until += DAY
    if refresh is Refresh.REALTIME:
        until = at
    return [action for action in actions if action[0] < until][-most:]


@pytest.mark.parametrize("refresh", Refresh)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_pin_is_looked_for_with_the_prefix_that_was_known(refresh: Refresh, seed: int) -> None:
    # Times have ties: an action of the pin's own moment is never known.
    sequences = random_sequences(seed, users=20, most=60)
    found = split(sequences, 14, 0.5, seed)
    targets = found.targets(RULES)
    assert len(targets) > 20
    for most in (5, 100):
        known, which = prefixes(found.evaluated, targets.user, known_before(refresh, targets.time_ms, found.begin_ms), most)
        told = [actions_of(known, int(q)) for q in which]
        for user, at, said in zip(targets.user, targets.time_ms, told, strict=True):
            assert said == naive_known(actions_of(found.evaluated, int(user)), refresh, int(at), found.begin_ms, most)
        assert known.user_ids[which].tolist() == found.evaluated.user_ids[targets.user].tolist()
    # Each prefix is inferred once, however many pins ask for it.
    assert len(known) == len({(int(user), len(said)) for user, said in zip(targets.user, told, strict=True)})
    if refresh is Refresh.ONCE:
        assert len(known) < len(targets)


def test_whoever_has_nothing_before_a_moment_has_nothing() -> None:
    sequences = random_sequences(3)
    users = np.arange(len(sequences))
    assert counts_before(sequences, users, np.full(len(users), -(2**62))).tolist() == [0] * len(users)
    assert counts_before(sequences, users, np.full(len(users), 2**62)).tolist() == sequences.lengths.tolist()


@pytest.mark.parametrize("refresh", Refresh)
def test_nothing_of_the_pins_moment_or_later_changes_the_vector_that_looks_for_it(refresh: Refresh) -> None:
    sequences = random_sequences(5, users=12, most=40)
    vectors = random_vectors(5, sequences)
    model = EmbeddingModel(PinnerFormer(TINY, torch.from_numpy(vectors.vectors)).eval(), vectors, ACTIONS, SURFACES)
    found = split(sequences, 14, 0.6, 1)
    targets, s = found.targets(RULES), found.evaluated
    before = known_before(refresh, targets.time_ms, found.begin_ms)
    known, which = prefixes(s, targets.user, before, TINY.length)
    users = model.users(known)[which]
    at = len(targets) // 2
    # Everything else from this moment on, for all users.
    later = s.time_ms >= before[at]
    other = replace(s, pin=np.where(later, 0, s.pin).astype(np.int32), duration_ms=np.where(later, 7, s.duration_ms))
    changed, which = prefixes(other, targets.user, before, TINY.length)
    assert model.users(changed)[which][at].tobytes() == users[at].tobytes()
    # And it is the vector that the user would have been served with then.
    alone = model.users(s.take(targets.user[at : at + 1]), int(before[at]) - 1)
    assert alone[0].tobytes() == users[at].tobytes()


@pytest.mark.parametrize("history_days", [None, 20.0])
def test_users_and_time_are_apart(history_days: float | None) -> None:
    sequences = random_sequences(7, users=40)
    found = split(sequences, 14, 0.4, 3, history_days)
    assert found.end_ms == int(sequences.time_ms.max()) + 1
    assert found.begin_ms == found.end_ms - 14 * DAY
    assert not set(found.train.user_ids) & set(found.evaluated.user_ids)
    assert (found.train.time_ms < found.begin_ms).all()
    for one in (found.train, found.evaluated):
        for user in range(len(one)):
            assert actions_of(one, user)[0][0] < found.begin_ms
        if history_days is not None:
            assert (one.time_ms >= found.begin_ms - 20 * DAY).all()
    other = split(sequences, 14, 0.4, 3, history_days, fold=1)
    assert not set(other.evaluated.user_ids) & set(found.evaluated.user_ids), "evaluated users of two folds are apart"
    assert not set(other.train.user_ids) & set(other.evaluated.user_ids)
    assert split(sequences, 14, 0.4, 4).evaluated.user_ids.tolist() != found.evaluated.user_ids.tolist()


def test_what_is_to_be_found_is_a_set_of_pins_by_the_first_positive_action_on_each() -> None:
    sequences = random_sequences(8, users=30, most=60, pins=8)
    found: Split = split(sequences, 14, 0.5, 0)
    expected = []
    for user in range(len(found.evaluated)):
        first: dict[int, int] = {}
        for action in actions_of(found.evaluated, user):
            if action[0] >= found.begin_ms and is_positive(action):
                first.setdefault(action[1], action[0])
        expected += [(user, pin, at) for pin, at in first.items()]
    targets = found.targets(RULES)
    assert sorted(zip(targets.user.tolist(), targets.pin.tolist(), targets.time_ms.tolist(), strict=True)) == sorted(expected)
    assert len(expected) < sum(
        is_positive(a) and a[0] >= found.begin_ms for u in range(len(found.evaluated)) for a in actions_of(found.evaluated, u)
    )
    with pytest.raises(SettingsError, match="no action 'sav'"):
        found.targets(("sav",))


def test_a_split_that_leaves_nobody_is_refused() -> None:
    sequences = random_sequences(9)
    with pytest.raises(InputError, match="0 to evaluate"):
        split(sequences, 14, 1e-9, 0)
    with pytest.raises(InputError, match="longer history"):
        split(sequences, 1_000, 0.5, 0)
    with pytest.raises(InputError, match="no actions"):
        split(sequences.where(np.zeros(len(sequences.pin), np.bool_)), 14, 0.5, 0)
