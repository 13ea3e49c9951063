"""Prequential and time-split evaluation: what is scored has not been learned, and labels are those that were asked for."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from flows.errors import InputError
from flows.examples.record import HEADS, MASKED, SEQUENCE_ENTRY, Kind
from flows.examples.rows import ExampleRows, UserFeatures
from online_model.evaluation.outcomes import Labels
from online_model.evaluation.prequential import prequential
from online_model.evaluation.scored import ScoredRows
from online_model.evaluation.time_split import TimeSplit, time_split

N = MASKED
Record = tuple[int, Kind, int, str, int, int, tuple[int, ...]]  # ready_time, kind, user, request, pin, request_time, labels


def examples(records: list[Record]) -> ExampleRows:
    ready, kind, user, request, pin, time, labels = zip(*records, strict=True)
    n = len(records)
    nothing = {name: np.full(n, -1) for name in ("base", "delta", "as_of")}
    unknown = {name: np.full(n, np.nan, np.float32) for name in ("propensity", "score")}
    return ExampleRows(
        **nothing,
        **unknown,
        ready_time=np.array(ready),
        kind=np.array(kind, np.int8),
        request_id=pa.array(request),
        user_id=np.array(user),
        pin_id=np.array(pin),
        surface=np.zeros(n, np.int16),
        slot=np.zeros(n, np.int16),
        topic=np.array([-1, *[0] * (n - 1)], np.int32),
        topics=("cats",),
        request_time=np.array(time),
        impression_time=np.array(time),
        explored=np.zeros(n, np.bool_),
        labels=np.array(labels, np.int8),
        fingerprint=np.zeros(n, np.int32),
        fingerprints=("f",),
        position=np.full(n, -1, np.int32),
        positions=(),
        pin_counters=np.zeros((n, 24), np.int64),
        request=np.zeros(n, np.int32),
        users=UserFeatures(np.zeros((1, 24), np.int64), np.zeros(2, np.int64), np.empty(0, SEQUENCE_ENTRY)),
    )


NONE, SAVED, CLICKED = (0,) * 5, (N, N, 1, N, N), (1, N, N, N, N)
STREAM: list[list[Record]] = [
    [
        (10, Kind.NEGATIVE, 1, "a", 5, 9, NONE),
        (11, Kind.NEGATIVE, 1, "a", 6, 9, NONE),
        (12, Kind.POSITIVE, 1, "a", 6, 9, CLICKED),
    ],
    [
        (15, Kind.POSITIVE, 1, "a", 5, 9, SAVED),
        (16, Kind.NEGATIVE, 2, "a", 5, 14, NONE),
        # Of an impression from before the evaluation.
        (17, Kind.POSITIVE, 3, "z", 5, 1, SAVED),
    ],
    [],
    [
        (40, Kind.FINAL, 1, "a", 5, 9, (0, 0, 1, 0, N)),
        (40, Kind.FINAL, 1, "a", 6, 9, (1, 0, 0, 0, 0)),
        (41, Kind.FINAL, 3, "z", 5, 1, (0, 0, 1, 0, N)),
    ],
    [(90, Kind.FINAL, 1, "a", 5, 9, (N, N, N, N, 1))],
]


class Counter:
    """Scores with the number of records that it has learned, and tells in what order it was asked."""

    def __init__(self) -> None:
        self.learned: list[tuple[int, int]] = []
        self.asked: list[tuple[int, ...]] = []

    def learn(self, rows: ExampleRows) -> None:
        self.learned += list(zip(rows.user_id.tolist(), rows.ready_time.tolist(), strict=True))

    def score(self, rows: ExampleRows) -> np.ndarray:
        self.asked.append(tuple(rows.ready_time.tolist()))
        assert not set(zip(rows.user_id.tolist(), rows.ready_time.tolist(), strict=True)) & set(self.learned)
        return np.full((len(rows), len(HEADS)), len(self.learned) / 100, np.float32) * np.arange(1, 6, dtype=np.float32)


def of_stream(labels: Labels, at: Kind = Kind.NEGATIVE, utility: list[float] | None = None) -> tuple[ScoredRows, Counter]:
    counter = Counter()
    chunks = [examples(records) if records else examples(STREAM[0]).take(np.empty(0, np.int64)) for records in STREAM]
    return prequential(chunks, counter.score, counter.learn, at=at, labels=labels, utility=utility), counter


def said(rows: ScoredRows, head: str) -> dict[tuple[int, str, int], int]:
    requests = np.repeat(np.arange(len(rows.request_id)), np.diff(rows.requests))
    keys = zip(rows.user_id[rows.user].tolist(), rows.request_id.take(pa.array(requests)).to_pylist(), rows.pin_id.tolist(), strict=True)
    return dict(zip(keys, rows.labels[head].tolist(), strict=True))


def test_labels_are_final_ones() -> None:
    rows, counter = of_stream(Labels.FINAL)
    assert counter.asked == [(10, 11), (16,)]
    assert said(rows, "save") == {(1, "a", 5): 1, (1, "a", 6): 0, (2, "a", 5): N}
    assert said(rows, "revisit") == {(1, "a", 5): 1, (1, "a", 6): 0, (2, "a", 5): N}
    assert said(rows, "click") == {(1, "a", 5): 0, (1, "a", 6): 1, (2, "a", 5): N}


def test_labels_are_those_known_then() -> None:
    rows, _ = of_stream(Labels.KNOWN)
    # The save of (1, a, 5) came with the next chunk.
    assert said(rows, "save") == {(1, "a", 5): 0, (1, "a", 6): 0, (2, "a", 5): 0}
    assert said(rows, "click") == {(1, "a", 5): 0, (1, "a", 6): 1, (2, "a", 5): 0}


def test_scores_are_of_what_was_learned_before() -> None:
    rows, counter = of_stream(Labels.FINAL)
    assert rows.probabilities["click"].tolist() == pytest.approx([0.0, 0.0, 0.03])
    assert rows.probabilities["save"].tolist() == pytest.approx([0.0, 0.0, 0.09])
    assert len(counter.learned) == sum(map(len, STREAM))


def test_history_of_final_rows_alone() -> None:
    rows, counter = of_stream(Labels.FINAL, at=Kind.FINAL)
    assert counter.asked == [(40, 40, 41), (90,)]
    # Of the example with two final rows the first score counts, and the labels of both.
    assert said(rows, "revisit") == {(1, "a", 5): 1, (1, "a", 6): 0, (3, "z", 5): N}
    assert rows.probabilities["click"].tolist() == pytest.approx([0.06, 0.06, 0.06])


def test_a_utility_ranks_requests() -> None:
    rows, _ = of_stream(Labels.FINAL, utility=[1, 0, 2, -1, 0])
    assert rows.score is not None
    assert rows.score.tolist() == pytest.approx([0, 0, 0.03 * (1 + 2 * 3 - 4)])
    assert of_stream(Labels.FINAL)[0].score is None


def test_topics_and_times_are_kept() -> None:
    rows, _ = of_stream(Labels.FINAL)
    assert rows.request_time.tolist() == [9, 9, 14]
    assert [None if code < 0 else rows.topics[code] for code in rows.topic.tolist()] == [None, "cats", "cats"]


def test_a_chunk_out_of_order_is_refused() -> None:
    chunks = [examples(STREAM[1]), examples(STREAM[0])]
    with pytest.raises(InputError, match=r"ready_time 10, after one of 17 was learned"):
        prequential(chunks, Counter().score, lambda rows: None)


@pytest.mark.parametrize("chunks", [[], [STREAM[4]]])
def test_nothing_to_score(chunks: list[list[Record]]) -> None:
    with pytest.raises(InputError, match="no example to score"):
        prequential([examples(records) for records in chunks], Counter().score, lambda rows: None)


HISTORY = examples(
    [
        *((time + 1, Kind.FINAL, user, "r", time, time, (0, 0, 0, 0, 0)) for user in (1, 2) for time in range(0, 40, 10)),
        (900, Kind.FINAL, 1, "r", 0, 0, (N, N, N, N, 1)),
        (901, Kind.FINAL, 1, "r", 30, 30, (N, N, N, N, 1)),
        (35, Kind.FINAL, 2, "r", 10, 10, (N, N, N, N, 1)),
        (0, Kind.NEGATIVE, 9, "r", 30, 30, NONE),
    ]
)


@pytest.mark.parametrize(("labels", "trained"), [(Labels.FINAL, [0, 0, 0, 10, 10, 10]), (Labels.KNOWN, [0, 0, 10, 10])])
def test_a_time_split(labels: Labels, trained: list[int]) -> None:
    got: dict[str, list[int]] = {}

    def keep(name: str):  # type: ignore[no-untyped-def]
        return lambda rows: got.update({name: sorted(rows.request_time.tolist())})

    def score(rows: ExampleRows) -> np.ndarray:
        keep("scored")(rows)
        return np.tile(rows.user_id[:, None] / 10, (1, 5))

    rows = time_split(HISTORY, TimeSplit(0, 20, 30, 40), keep("train"), keep("calibrate"), score, labels=labels)
    assert got == {"train": trained, "calibrate": [20, 20], "scored": [30, 30]}
    assert rows.probabilities["save"].tolist() == pytest.approx([0.1, 0.2])
    assert rows.labels["revisit"].tolist() == [1, 0]


@pytest.mark.parametrize("bounds", [(0, 0, 30, 40), (0, 30, 20, 40), (0, 20, 40, 40)])
def test_a_split_that_is_none(bounds: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match="must begin after"):
        TimeSplit(*bounds)


@pytest.mark.parametrize(
    ("split", "name"), [((-9, -1, 30, 40), "training"), ((0, 35, 36, 37), "calibration"), ((0, 20, 50, 60), "evaluation")]
)
def test_an_empty_span(split: tuple[int, int, int, int], name: str) -> None:
    def nothing(rows: ExampleRows) -> None:
        pass

    with pytest.raises(InputError, match=f"no final row in the span of {name}"):
        time_split(HISTORY, TimeSplit(*split), nothing, nothing, lambda rows: np.zeros((len(rows), 5)))


def test_the_order_of_records_in_a_chunk_is_nothing() -> None:
    got = [
        prequential([examples(records)], lambda rows: np.full((len(rows), 5), 0.5), lambda rows: None, labels=Labels.KNOWN)
        for records in (STREAM[0], STREAM[0][::-1])
    ]
    assert said(got[0], "click") == said(got[1], "click") == {(1, "a", 5): 0, (1, "a", 6): 1}
