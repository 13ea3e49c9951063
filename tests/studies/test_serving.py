"""What is served behind a learner: naive readings, and the prequential driver, say the same to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from flows.examples.record import HEADS
from flows.examples.rows import ExampleRows
from flows.settings import HOUR_MS
from online_model.evaluation.prequential import prequential
from online_model.learner.config import LearnerConfig
from online_model.learner.step import Step
from online_model.model.columns import ExampleColumns
from online_model.studies.bases import Base, probabilities_of
from online_model.studies.serving import SPAN_MS, served
from online_model.studies.stream import Stream
from online_model.studies.study import Scores
from tests.studies.conftest import TINY

LEARNER = LearnerConfig(learning_rate=0.5)
BEGIN = TINY.days.moment("evaluate")
END = BEGIN + 6 * HOUR_MS
INTERVALS = {"never": None, "2h": 2 * HOUR_MS, "1min": SPAN_MS}


@pytest.fixture(scope="module")
def said(stream: Stream, base: Base) -> dict[str, np.ndarray]:
    return served(stream, base, LEARNER, INTERVALS, BEGIN, END)


def minutes(stream: Stream, begin: int, end: int) -> list[ExampleRows]:
    """The records of each minute that has some."""
    span = stream.between(begin, end)
    minute = (stream.rows.ready_time[span] - begin) // SPAN_MS
    return [stream.rows.take(span.start + np.flatnonzero(minute == one)) for one in np.unique(minute)]


def test_each_minute_is_what_the_prequential_driver_says(stream: Stream, base: Base, said: dict[str, np.ndarray]) -> None:
    step = Step(base.ranker, base.tables(), LEARNER)

    def score(rows: ExampleRows) -> np.ndarray:
        return probabilities_of(base, step.tables, ExampleColumns.of([rows]), np.arange(len(rows)))

    driven = prequential(minutes(stream, BEGIN, END), score, lambda rows: step.learn(rows))
    evaluated = stream.evaluated(BEGIN, END)
    ours = Scores(HEADS, said["1min"]).measured(evaluated)
    assert len(ours) > 50
    # The driver scores notifications too, which nobody ranks.
    at = {key: i for i, key in enumerate(zip(driven.user_id[driven.user], _requests(driven), driven.pin_id, strict=True))}
    same = [at[key] for key in zip(ours.user_id[ours.user], _requests(ours), ours.pin_id, strict=True)]
    for head in HEADS:
        assert np.array_equal(driven.probabilities[head][same], ours.probabilities[head])


def _requests(rows: object) -> list[str]:
    names = rows.request_id.to_pylist()  # type: ignore[attr-defined]
    return [name for name, n in zip(names, np.diff(rows.requests), strict=True) for _ in range(n)]  # type: ignore[attr-defined]


def test_a_server_has_what_was_learned_before_its_last_sync(stream: Stream, base: Base, said: dict[str, np.ndarray]) -> None:
    places = stream.places(BEGIN, END)
    columns, seen = ExampleColumns.of([stream.rows.take(places)]), stream.rows.ready_time[places]
    for sync in range(BEGIN, END, 2 * HOUR_MS):
        # Learned from the beginning, for each sync anew.
        step = Step(base.ranker, base.tables(), LEARNER)
        for rows in minutes(stream, BEGIN, sync):
            step.learn(rows)
        asked = np.flatnonzero((seen >= sync) & (seen < sync + 2 * HOUR_MS))
        assert len(asked)
        assert np.array_equal(said["2h"][asked], probabilities_of(base, step.tables, columns, asked))


def test_who_never_syncs_serves_the_base(stream: Stream, base: Base, said: dict[str, np.ndarray]) -> None:
    columns = ExampleColumns.of([stream.rows.take(stream.places(BEGIN, END))])
    assert np.array_equal(said["never"], probabilities_of(base, base.tables(), columns, np.arange(len(columns))))
    assert not np.array_equal(said["never"], said["1min"])


def test_which_servers_there_are_changes_none_of_them(stream: Stream, base: Base, said: dict[str, np.ndarray]) -> None:
    alone = served(stream, base, LEARNER, {"2h": INTERVALS["2h"]}, BEGIN, END)
    assert np.array_equal(alone["2h"], said["2h"])


def test_a_span_that_ends_within_a_minute_ends_there(stream: Stream, base: Base, said: dict[str, np.ndarray]) -> None:
    end = BEGIN + 2 * HOUR_MS + SPAN_MS // 2
    short = served(stream, base, LEARNER, {"2h": INTERVALS["2h"]}, BEGIN, end)["2h"]
    assert len(short) == len(stream.places(BEGIN, end))
    assert np.array_equal(short, said["2h"][: len(short)])
