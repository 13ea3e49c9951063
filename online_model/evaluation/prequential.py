"""Prequential evaluation: each example is scored by what has learned from everything before it, and from nothing of it.

Also called test-then-train (Dawid 1984; Gama et al. 2013). Monolith's experiments go the same way, shard by shard
(Liu et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from flows.errors import InputError
from flows.examples.record import HEADS, Kind
from flows.examples.rows import ExampleRows
from online_model.evaluation.outcomes import Labels, Records, example_of, joined, labels_of, records_of
from online_model.evaluation.scored import ScoredRows, scored_rows


def prequential(
    chunks: Iterable[ExampleRows],
    score: Callable[[ExampleRows], np.ndarray],
    learn: Callable[[ExampleRows], None],
    *,
    at: Kind = Kind.NEGATIVE,
    labels: Labels = Labels.FINAL,
    utility: Sequence[float] | None = None,
) -> ScoredRows:
    """Score, then learn, chunk by chunk.

    Of each chunk all records of one kind are scored before anything of the chunk is learned. Of an example that has several, the first counts.

    Parameters
    ----------
    chunks : iterable of ExampleRows
        In the order in which they became known; what a chunk begins with is not known before what the last one ends with.
    score : callable
        Rows to probabilities: float[n, 5], in the order of HEADS.
    learn : callable
        Gets every chunk whole.
    at : Kind
        NEGATIVE: examples are scored at the impression, as the online learner meets them. FINAL: when their labels have matured, which is all that
        the offline store has.
    labels : Labels
        KNOWN: all that the records in the example's own chunk say. FINAL: what final records say, in whatever chunk they are; heads for which none
        has come are MASKED.
    utility : sequence of 5 floats, optional
        What a request's pins are ranked by: the sum of probabilities, weighted by this. Left out: by each head's own probability.

    Returns
    -------
    ScoredRows
        Of all examples that were scored; `report` says what they are worth, by time bucket too.

    Raises
    ------
    InputError
        Chunks are out of order, or there is no example.
    """
    known: list[np.ndarray] = []
    scored: list[np.ndarray] = []
    kept: list[Records] = []
    latest: int | None = None
    for chunk in chunks:
        if not len(chunk):
            continue
        if latest is not None and int(chunk.ready_time.min()) < latest:
            raise InputError(
                f"prequential evaluation: a chunk has a record of ready_time {int(chunk.ready_time.min())}, after one of {latest} was learned; "
                "give chunks in the order of ready_time"
            )
        latest = int(chunk.ready_time.max())
        records = records_of(chunk)
        example = example_of(records)
        asked = np.flatnonzero(records.kind == at)
        probabilities = np.full((len(chunk), len(HEADS)), np.nan)
        if len(asked):
            probabilities[asked] = score(chunk.take(asked))
        by_example = labels_of(example, int(example.max()) + 1, records, Labels.KNOWN)
        scored.append(probabilities)
        known.append(by_example[example])
        kept.append(records)
        learn(chunk)
    if not any((records.kind == at).any() for records in kept):
        raise InputError(
            "prequential evaluation: there is no example to score; choose another span, or make examples (`tidemark examples run`)"
        )
    whole = joined(kept)
    asked = np.flatnonzero(whole.kind == at)
    example = example_of(whole)
    rows = asked[np.unique(example[asked], return_index=True)[1]]
    if labels == Labels.FINAL:
        chosen = labels_of(example, int(example.max()) + 1, whole, Labels.FINAL)[example[rows]]
    else:
        chosen = np.concatenate(known)[rows]
    return rows_with_scores(whole.take(rows), chosen, np.concatenate(scored)[rows], utility, "prequential evaluation")


def rows_with_scores(
    records: Records, labels: np.ndarray, probabilities: np.ndarray, utility: Sequence[float] | None, where: str
) -> ScoredRows:
    """Examples with their scores, as what is measured.

    Parameters
    ----------
    records : Records
        One for each example.
    labels : int8[n, 5]
    probabilities : float[n, 5]
    utility : sequence of 5 floats, optional
    where : str
        For messages.

    Raises
    ------
    InputError
        As of `scored_rows`.
    """
    topic = records.topic.dictionary_encode()
    return scored_rows(
        user_id=records.user_id,
        request_id=records.request_id,
        pin_id=records.pin_id,
        request_time=records.request_time,
        labels={head: labels[:, i] for i, head in enumerate(HEADS)},
        probabilities={head: probabilities[:, i] for i, head in enumerate(HEADS)},
        score=None if utility is None else probabilities.astype(np.float64) @ np.asarray(utility, np.float64),
        topic=(topic.indices.fill_null(-1).to_numpy(zero_copy_only=False), tuple(topic.dictionary.to_pylist())),
        where=where,
    )
