"""What was ranked for users and what came of it, as scored rows: by the base that ranked it, so a canary's and the holdout's are told apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from flows.errors import InputError
from flows.examples.record import HEADS, MASKED
from flows.examples.rows import ExampleRows
from flows.examples.store import Examples, Fingerprints, final_rows, positions_at
from online_model.evaluation.outcomes import Labels, Records, example_of, joined, labels_of, records_of
from online_model.evaluation.scored import ScoredRows, scored_rows


@dataclass(frozen=True, eq=False)
class ServedRows:
    """Pins that were ranked, seen, and whose outcomes can't change any more but for revisits.

    Attributes
    ----------
    records : Records
        n of them, one for each pin of a request.
    labels : int8[n, 5]
        In the order of HEADS.
    score : float64[n]
        That was served.
    base : int64[n]
        That said so.
    explored : int
        How many of them were put where they were by chance.
    unranked : int
        Pins that were seen and ranked by no model; none of the n.
    """

    records: Records
    labels: np.ndarray
    score: np.ndarray
    base: np.ndarray
    explored: int
    unranked: int

    def by_base(self) -> Mapping[int, ScoredRows]:
        """Of each base that ranked, what it ranked."""
        return {int(base): self._scored(np.flatnonzero(self.base == base), int(base)) for base in np.unique(self.base)}

    def table(self) -> pa.Table:
        """As a file for `tidemark evaluate scores`, with the column `base`."""
        of = self.records
        names = ("user_id", "pin_id", "request_id", "request_time", "topic")
        columns = {name: getattr(of, name) for name in names} | {"score": self.score, "base": self.base}
        return pa.table({name: pa.array(values) for name, values in columns.items()} | dict(self._heads(np.arange(len(of)))))

    def _heads(self, which: np.ndarray) -> dict[str, np.ndarray]:
        return {f"label_{head}": np.ascontiguousarray(self.labels[which, i]) for i, head in enumerate(HEADS)}

    def _scored(self, which: np.ndarray, base: int) -> ScoredRows:
        of = self.records.take(which)
        topic = of.topic.dictionary_encode()
        return scored_rows(
            user_id=of.user_id,
            request_id=of.request_id,
            pin_id=of.pin_id,
            request_time=of.request_time,
            labels={name.removeprefix("label_"): values for name, values in self._heads(which).items() if (values != MASKED).any()},
            probabilities={},
            score=self.score[which],
            topic=(np.asarray(topic.indices.fill_null(-1), np.int32), tuple(topic.dictionary.to_pylist())),
            where=f"what base {base} has ranked",
        )


class _Any(Fingerprints):
    """Takes rows of whatever features: none are read here."""

    def __init__(self) -> None:
        super().__init__(None)

    def check(self, rows: ExampleRows, partition: int) -> None:
        pass


def served_rows(examples: Examples, since: int | None = None, until: int | None = None) -> ServedRows:
    """What was ranked at times [since, until), ms, by final records of EXAMPLES.

    A save has two of them, of its window and of the revisits after it; they become one row.

    Raises
    ------
    InputError
        Nothing that a model has ranked is final.
    """
    # A record becomes known after its request, so nothing before `since` is of a request behind it.
    begin = None if since is None else positions_at(examples, since)
    parts, scores, bases, explored, unranked = [], [], [], 0, 0
    for rows in final_rows(examples, begin, fingerprint=_Any()):
        asked = np.ones(len(rows), np.bool_)
        asked &= True if since is None else rows.request_time >= since
        asked &= True if until is None else rows.request_time < until
        ranked = asked & (rows.base >= 0) & np.isfinite(rows.score)
        # Of a pin's final records each has labels of its own; that of the window is the one that knows of clicks.
        first = rows.labels[:, 0] != MASKED
        unranked += int((asked & ~ranked & first).sum())
        explored += int((ranked & first & rows.explored).sum())
        which = np.flatnonzero(ranked)
        parts.append(records_of(rows).take(which))
        scores.append(rows.score[which].astype(np.float64))
        bases.append(rows.base[which])
    if not sum(map(len, parts)):
        seen = f"; {unranked:,} pins were shown that no model has ranked" if unranked else ""
        raise InputError(
            f"log 'examples' has no final records of what a model has ranked{seen}. They come of requests to /v1/rank half an hour after the "
            "pin was seen: `tidemark examples run`"
        )
    records = joined(parts)
    example = example_of(records)
    count = int(example.max()) + 1
    one = np.unique(example, return_index=True)[1]
    labels = labels_of(example, count, records, Labels.FINAL)
    return ServedRows(records.take(one), labels, np.concatenate(scores)[one], np.concatenate(bases)[one], explored, unranked)
