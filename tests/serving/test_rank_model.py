"""A candidate's score is its own, to the bit, whatever it is scored with; and the thread that scores."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest

from flows.answers import SequenceRows
from flows.errors import InputError
from flows.settings import Settings
from online_model.deltas.follower import Served
from online_model.deltas.table_rows import tables_of
from online_model.registry.errors import DamagedModelError
from online_model.registry.manifest import TABLES
from online_model.serving.answer import Answer, Ask, defaults
from online_model.serving.candidates import Candidates
from online_model.serving.errors import UnavailableError
from online_model.serving.model import Dense, Model, Scores
from online_model.serving.scorer import Scorer
from tests.processes import PATIENCE_S, await_true
from tests.serving.models import one_thread as one_thread
from tests.serving.models import publish

IDS = list(range(40))


@pytest.fixture(params=["mean", "gru", "transact_v1_1"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    base = publish(Settings(data=tmp_path), 3, IDS, IDS, encoder=request.param)
    tables = tables_of({table: base.table(table) for table in TABLES})
    return Model.of(Dense.of(base), Served(base, 0, tables))


def asked(seed: int, pins: int, actions: int) -> Candidates:
    """A request of anything, with some IDs that the model doesn't know."""
    rng = np.random.default_rng(seed)
    sequences = SequenceRows(
        np.array([0, actions]), rng.integers(0, 60, actions), rng.integers(0, 9, actions).astype(np.int16),
        rng.integers(0, 6, actions).astype(np.int16), 1_700_000_000_000 - rng.integers(0, 10**8, actions),
        rng.integers(0, 999, actions), np.ones(1, np.bool_), 0,
    )  # fmt: skip
    ask = Ask(rng.integers(0, 60, 1), rng.integers(0, 60, pins), (), None)
    of = defaults(ask)
    counters = (rng.integers(0, 900, (size, 24)) for size in (1, pins))
    answer: Answer = dataclasses.replace(of, sequences=sequences, user_counters=next(counters), pin_counters=next(counters))
    return Candidates(1_700_000_000_000 + seed * 3_600_000, seed % 6, answer)


def one_of(request: Candidates, place: int) -> Candidates:
    answer, at = request.answer, slice(place, place + 1)
    ask = dataclasses.replace(answer.ask, pins=answer.ask.pins[at])
    return dataclasses.replace(
        request, answer=dataclasses.replace(answer, ask=ask, pin_counters=answer.pin_counters[at], pin_status=answer.pin_status[at])
    )


def bits(scores: Sequence[Scores]) -> list[tuple[bytes, bytes]]:
    return [(one.probabilities.tobytes(), one.score.tobytes()) for one in scores]


def test_a_score_is_the_same_alone_and_among_others(model: Model) -> None:
    requests = [asked(seed, pins, actions) for seed, pins, actions in ((1, 512, 30), (2, 1, 0), (3, 64, 20), (4, 5, 1), (5, 100, 100))]
    together = model.score(requests)
    assert bits(together) == bits([model.score([one])[0] for one in requests])
    assert bits(together)[::-1] == bits(model.score(requests[::-1]))
    whole = together[0]
    for place in (0, 1, 63, 64, 300, 511):
        [alone] = model.score([one_of(requests[0], place)])
        assert (alone.probabilities.tobytes(), alone.score.tobytes()) == (
            whole.probabilities[place : place + 1].tobytes(),
            whole.score[place : place + 1].tobytes(),
        )
    assert len(np.unique(whole.score)) > 400


def test_rows_of_another_width_are_refused(model: Model) -> None:
    base = model.dense.base
    state = {table: base.table(table) for table in TABLES}
    wide = {name: {**of, "weights": np.repeat(of["weights"], 2, 1), "default": np.repeat(of["default"], 2)} for name, of in state.items()}
    with pytest.raises(DamagedModelError, match="have 12 numbers, and the model takes 6"):
        Model.of(model.dense, Served(base, 1, tables_of(wide)))


class Made:
    """In a model's place: waits until it is told to go on, and can't score a request at time 13."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.calls: list[int] = []

    def score(self, requests: Sequence[Candidates]) -> list[Scores]:
        assert self.go_on.wait(PATIENCE_S)
        self.calls.append(len(requests))
        if any(one.timestamp == 13 for one in requests):
            raise InputError("thirteen")
        return [Scores(np.zeros((1, 1)), np.array([one.timestamp], np.float32), 0, 0) for one in requests]


def at(timestamp: int) -> Candidates:
    return dataclasses.replace(asked(1, 1, 0), timestamp=timestamp)


def test_whatever_waits_is_scored_together_and_fails_alone() -> None:
    made, scorer = Made(), Scorer(1, 4)
    first = scorer.score(made, at(0))  # type: ignore[arg-type]
    await_true(lambda: scorer.waiting == 0, "the first is being scored")
    rest = [scorer.score(made, at(time)) for time in (1, 13, 2, 3)]  # type: ignore[arg-type]
    with pytest.raises(UnavailableError, match="4 requests wait for the model already"):
        scorer.score(made, at(4))  # type: ignore[arg-type]
    rest[3].cancel()
    made.go_on.set()
    assert [one.result(PATIENCE_S).score[0] for one in (first, rest[0], rest[2])] == [0, 1, 2]
    with pytest.raises(InputError, match="thirteen"):
        rest[1].result(PATIENCE_S)
    with pytest.raises(CancelledError):
        rest[3].result(PATIENCE_S)
    assert made.calls == [1, 3, 1, 1, 1]
    scorer.close()
