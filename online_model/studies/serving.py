"""Prequential evaluation of what is served behind a learner: it learns every example, and who serves has its rows as of the last sync.

Monolith's experiments (Liu et al. 2022, section 3.3) measure the same: the learner is one and the same for all, only how old the served rows are
differs. No example is scored by rows that have learned from it, or from anything that became known later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from online_model.learner.config import LearnerConfig
from online_model.learner.step import Step
from online_model.model.columns import ExampleColumns
from online_model.studies.bases import Base, probabilities_of
from online_model.studies.stream import Stream
from online_model.table import EmbeddingTable
from online_model.training.tables import Tables

SPAN_MS = 60_000
"""Records of so long are learned from together, `batch_rows` at a time, unless a study says otherwise; a sync can't be more frequent."""


@dataclass(eq=False)
class _Server:
    """Who serves with rows of the last sync; those that wait are scored together, for nothing changes in between."""

    every: int | None
    tables: Tables
    last: int
    waiting: list[np.ndarray] = field(default_factory=list)


def served(
    stream: Stream,
    base: Base,
    learner: LearnerConfig,
    every_ms: Mapping[str, int | None],
    begin: int,
    end: int,
    told: Callable[[int, int], None] = lambda done, total: None,
    span_ms: int = SPAN_MS,
) -> dict[str, np.ndarray]:
    """What servers with several sync intervals say of the examples of a span, when they are asked.

    Parameters
    ----------
    stream : Stream
    base : Base
        What learner and servers begin with.
    learner : LearnerConfig
    every_ms : mapping of name to int or None
        The interval of each server, a multiple of `span_ms`; None: it never syncs. Syncs are at `begin` and every so often after it.
    begin, end : int
        Span of the stream, ms.
    told : callable
        Told spans done, and of how many.
    span_ms : int
        How long a span is whose records are learned from together.

    Returns
    -------
    dict of name to float64[k, heads]
        Probabilities, in the order of `stream.evaluated(begin, end)`.
    """
    places = stream.places(begin, end)
    columns = ExampleColumns.of([stream.rows.take(places)])
    out = {name: np.empty((len(places), len(base.ranker.config.heads))) for name in every_ms}
    step = Step(base.ranker, base.tables(), learner)
    # What is served as often as it is learned is the learner's own tables: nobody need copy them.
    servers = {name: _Server(every, step.tables if every == span_ms else base.tables(), begin) for name, every in every_ms.items()}

    def score(name: str) -> None:
        server = servers[name]
        if server.waiting:
            index = np.concatenate(server.waiting)
            out[name][index] = probabilities_of(base, server.tables, columns, index)
            server.waiting.clear()

    records = stream.between(begin, end)
    times = stream.rows.ready_time[records]
    spans = -(-(end - begin) // span_ms)
    bounds = records.start + np.searchsorted(times, np.minimum(begin + span_ms * np.arange(spans + 1), end))
    asked = np.searchsorted(places, bounds)
    for i in range(spans):
        now = begin + i * span_ms
        for name, server in servers.items():
            if server.every is not None and now - server.last >= server.every:
                score(name)
                server.last = now
                if server.every != span_ms:
                    server.tables = _copied(step.tables)
            if asked[i] < asked[i + 1]:
                server.waiting.append(np.arange(asked[i], asked[i + 1]))
            if server.every == span_ms:
                score(name)
        for low in range(bounds[i], bounds[i + 1], learner.batch_rows):
            step.learn(stream.rows.take(np.arange(low, min(low + learner.batch_rows, bounds[i + 1]))))
        told(i + 1, spans)
    for name in servers:
        score(name)
    return out


def _copied(tables: Tables) -> Tables:
    return Tables(*(EmbeddingTable.from_state(table.config, table.state()) for table in (tables.users, tables.pins)))
