"""The public yardstick: who is asked for what, HR@10 and NDCG@10 in plain loops, and a file that is not as it must be."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.errors import InputError, SettingsError
from online_model.embedding.config import Objective
from online_model.embedding.evaluation import leave_one_out
from online_model.embedding.evaluation.leave_one_out import before_last, hit_and_gain, measure, ranks, read_yardstick
from online_model.embedding.files import read_pairs
from online_model.training.errors import DivergedError
from tests.embedding.worlds import random_sequences
from tests.processes import front_door

ITEMS = 24


def walks(path: Path, users: int = 60) -> Path:
    """Each user goes through the items in one order, from where they begin: the last can be told from the one before."""
    lines = [f"u{user} i{(user + step) % ITEMS}" for user in range(users) for step in range(7)]
    path.write_text("\n".join([*lines, "lonely i0", "lonely i1"]) + "\n")
    return path


def test_the_last_two_items_of_users_with_three_are_not_learned_from() -> None:
    sequences = random_sequences(0, users=20)
    asked = np.flatnonzero(sequences.lengths >= 3)
    assert 0 < len(asked) < len(sequences)
    for count in (1, 2):
        known = before_last(sequences, asked, count)
        for user in range(len(sequences)):
            whole = sequences.pin[sequences.offsets[user] : sequences.offsets[user + 1]].tolist()
            left = known.pin[known.offsets[user] : known.offsets[user + 1]].tolist()
            assert left == (whole[:-count] if user in asked else whole)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_no_first_place(bad: float) -> None:
    scores = np.ones((3, 20), np.float32)
    scores[1, 4] = bad
    with pytest.raises(DivergedError, match=r"not finite .* for 1 of 3 users"):
        ranks(scores, np.array([0, 4, 0]))


@pytest.mark.parametrize("left_out", [False, True])
def test_ranks_hits_and_gains_are_those_of_plain_loops(left_out: bool) -> None:
    sequences = random_sequences(1, users=30, pins=40)
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 30, (len(sequences), len(sequences.pin_ids))).astype(np.float32)  # with ties
    target = rng.integers(0, len(sequences.pin_ids), len(sequences))
    found = ranks(scores, target, sequences if left_out else None)
    hits, gains = 0.0, 0.0
    for user in range(len(sequences)):
        had = set(sequences.pin[sequences.offsets[user] : sequences.offsets[user + 1]].tolist()) if left_out else set()
        others = [item for item in range(scores.shape[1]) if item != target[user] and item not in had]
        rank = sum(scores[user, item] >= scores[user, target[user]] for item in others)
        assert found[user] == rank
        if rank < 10:
            hits, gains = hits + 1, gains + 1 / math.log2(rank + 2)
    said = hit_and_gain(found)
    assert said["hr@10"] == pytest.approx(hits / len(sequences))
    assert said["ndcg@10"] == pytest.approx(gains / len(sequences))
    assert 0 < hits < len(sequences)


def test_an_order_that_can_be_learned_is_found(tmp_path: Path) -> None:
    committed = read_yardstick()
    assert (committed.embedding.objective, committed.embedding.features) == (Objective.SASREC, ("pin",))
    assert read_yardstick(quick=True).embedding.epochs < committed.embedding.epochs
    small = replace(
        committed.embedding, length=8, vector_dim=16, dim=16, hidden=16, head_hidden=32, output_dim=16, random_negatives=64, batch_users=16,
        epochs=25, learning_rate=1e-2, dropout=0.0,
    )  # fmt: skip
    sequences = read_pairs(walks(tmp_path / "walks.txt"))
    found = measure(sequences, replace(committed, embedding=small))
    assert (found["users"], found["items"], found["actions"]) == (60, ITEMS, 60 * 7 + 2)
    assert found["test"]["ndcg@10"] > 0.9 > found["popular"]["ndcg@10"]
    assert found["validation"]["ndcg@10"] > 0.9
    assert found["test"]["users"] == 60


def test_the_command_says_it_in_json_and_goes_on_with_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walks(tmp_path / "walks.txt", users=8)
    plan = tmp_path / "mine.toml"
    plan.write_text(
        '[embedding]\npositives = ["event"]\nlength = 8\nvector_dim = 8\ndim = 8\nhidden = 8\nrandom_negatives = 8\nepochs = 1\n'
    )
    options = ("--sequences", tmp_path / "walks.txt", "--plan", plan, "--data", tmp_path / "data", "--json")
    ended = front_door("embed", "evaluate", "--protocol", "leave-one-out", *options, monkeypatch=monkeypatch)
    found = json.loads(ended.out)
    assert found["users"] == 8
    assert set(found["test"]) == {"hr@10", "ndcg@10", "users"}
    assert found["configuration"]["known_left_out"] is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"1 2\n1\n", "line 2: '1' is not a user and an item"),
        (b"1 2\n1 2 3\n", "line 2: '1 2 3' is not"),
        (b"1 2\n3\t4\n", "line 2"),
        (b"1 2\n1 \n", "line 2"),
        (b"1 2\n\n 1 2\n", "line 3"),
        (b"1 2\n\xff\xfe 3\n", "no text in UTF-8 (byte 4)"),
        (b"", "give a text file of lines"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "pairs.txt"
    path.write_bytes(text)
    with pytest.raises(InputError) as raised:
        read_pairs(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_what_can_t_be_measured_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*options: object) -> str:
        ended = front_door("embed", "evaluate", "--data", tmp_path / "data", *options, monkeypatch=monkeypatch, code=1)
        assert ended.err.count("\n") == 1
        return ended.err

    short = tmp_path / "short.txt"
    short.write_text("1 2\n1 3\n2 3\n")
    yardstick = ("--protocol", "leave-one-out")
    assert "none of 2 users has 3 items" in refused(*yardstick, "--sequences", short)
    assert "give it: --sequences FILE" in refused(*yardstick)
    assert "--table is of --protocol tables" in refused(*yardstick, "--sequences", short, "--table", "table2")
    assert "is of --protocol leave-one-out" in refused("--sequences", short)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("known = true", "no setting 'known'"),
        ("known_left_out = 1", "must be true or false"),
        ("embedding = 3", "'embedding' must be a table, [embedding]"),
        ("quick = true", "'quick' must be a table, [quick]"),
        ("[quick]\nembedding = 3", "'quick.embedding' must be a table, [quick.embedding]"),
        ("[quick]\nepochs = 1", "no setting 'quick.epochs'"),
        ("[embedding]\nepoch = 1", "no setting 'epoch'"),
    ],
)
@pytest.mark.parametrize("quick", [False, True])
def test_a_plan_that_makes_no_sense_is_refused(tmp_path: Path, content: str, said: str, quick: bool) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(content + ("\n" if "quick" in content else "\n[quick]\nembedding = { epochs = 2 }\n"))
    with pytest.raises(SettingsError) as raised:
        read_yardstick(path, quick)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_plan_without_a_quick_one_has_none(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text("known_left_out = false\n")
    assert not read_yardstick(path).known_left_out
    with pytest.raises(SettingsError, match="leave --quick out"):
        read_yardstick(path, quick=True)


@pytest.mark.parametrize("left_out", [False, True])
def test_users_are_ranked_some_at_once(left_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Popularity too: scores of all users at once are gigabytes for a hundred thousand."""
    known = random_sequences(2, users=30, pins=40)
    rng = np.random.default_rng(2)
    target = rng.integers(0, len(known.pin_ids), len(known))
    users, pins = rng.integers(0, 4, (len(known), 3)).astype(np.float32), rng.integers(0, 4, (len(known.pin_ids), 3)).astype(np.float32)
    whole = ranks(users @ pins.T, target, known if left_out else None)
    monkeypatch.setattr(leave_one_out, "_AT_ONCE", 7)
    assert leave_one_out._ranks(users, known, pins, target, left_out).tolist() == whole.tolist()


def test_no_more_users_are_ranked_at_once_whatever_ranks_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def noted(scores: np.ndarray, *of: Any) -> np.ndarray:
        sizes.append(len(scores))
        return ranks(scores, *of)

    monkeypatch.setattr(leave_one_out, "_AT_ONCE", 3)
    monkeypatch.setattr(leave_one_out, "ranks", noted)
    committed = read_yardstick()
    small = replace(committed.embedding, length=8, vector_dim=8, dim=8, hidden=8, head_hidden=8, output_dim=8, random_negatives=8, epochs=1)
    sequences = read_pairs(walks(tmp_path / "walks.txt", users=8))
    found = measure(sequences, replace(committed, embedding=small))
    assert sizes == [3, 3, 2] * 3, "last items, by popularity, last but one"
    asked = np.flatnonzero(sequences.lengths >= 3)
    times = np.bincount(before_last(sequences, asked, 2).pin, minlength=len(sequences.pin_ids))
    target = sequences.pin[sequences.offsets[asked + 1] - 1]
    known = before_last(sequences, asked, 1).take(asked)
    assert found["popular"] == hit_and_gain(ranks(np.tile(times.astype(np.float32), (len(asked), 1)), target, known))
