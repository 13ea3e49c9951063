"""Random (entity, moment) pairs, read in up to three ways: online where state stood at the moment, offline from the whole log, and by the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from flows.log import LocalLog
from flows.outputs import ACTIONS
from flows.point_in_time import PointInTime
from flows.reading import FeatureReader
from flows.settings import Settings
from tests.oracles.point_in_time import arrivals
from tests.point_in_time.asking import Oracle, Queries, pins_found, topics_found, users_found, users_online

KINDS = {"user": "user_id", "pin": "pin_id", "topic": "topic"}
# Pairs of topics among 1 000, and at least: the oracle reads a topic's whole history for each.
_TOPICS, _LEAST_TOPICS = 2, 10


@dataclass
class Tally:
    """What was compared, and what differed."""

    pairs: int = 0
    values: int = 0
    mismatches: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, where: str, *said: Any) -> None:
        """One pair, as it was said in several ways."""
        self.pairs += 1
        first = said[0]
        self.values += _size(first) * (len(said) - 1)
        for other in said[1:]:
            if other != first:
                self.mismatches += 1
                if len(self.examples) < 5:
                    self.examples.append(f"{where}: {_short(first)} and {_short(other)}")

    def as_dict(self) -> dict[str, Any]:
        """For the printed object."""
        return {"pairs": self.pairs, "compared_values": self.values, "mismatches": self.mismatches, "examples": self.examples}


def _size(value: Any) -> int:
    return sum(map(_size, value)) if isinstance(value, (list, tuple)) else 1


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} …"


def draw(decided: pd.DataFrame, n: int, rng: np.random.Generator, moments: Sequence[int] = ()) -> dict[str, Queries]:
    """Random training rows; entities as often as they come in the records, moments as they arrive and a millisecond beside, or one of some."""
    arrived = arrivals(decided).to_numpy()
    # No row is of records without a topic, and the oracle would read all of a stream that has none.
    names = {kind: decided[column].to_numpy() for kind, column in KINDS.items()}
    names["topic"] = names["topic"][names["topic"] != ""]
    topics = max(_LEAST_TOPICS, n * _TOPICS // 1_000) if len(names["topic"]) else 0
    pairs = {"user": (n - topics) // 2, "pin": n - topics - (n - topics) // 2, "topic": topics}
    out = {}
    for kind, of_kind in names.items():
        queries = Queries()
        for _ in range(pairs[kind]):
            entity = of_kind[rng.integers(len(of_kind))]
            moment = int(rng.choice(moments)) if len(moments) else int(arrived[rng.integers(len(arrived))] + rng.integers(-1, 2))
            queries.add(entity if kind == "topic" else int(entity), moment - 1, moment)
        out[kind] = queries
    return out


def offline(settings: Settings, queries: dict[str, Queries]) -> dict[str, list[tuple[Any, ...]]]:
    """What the log says."""
    with PointInTime(settings) as point:
        found = {"user": users_found(point, queries["user"]), "pin": pins_found(point, queries["pin"])}
        return found | {"topic": topics_found(point, queries["topic"])}


def said(oracle: Oracle, kind: str, entity: Any, time: int, by: int) -> tuple[Any, ...]:
    """What the oracle says: of a user, sequence and counters."""
    read: Callable[[Any, int, int], tuple[Any, ...]] = getattr(oracle, kind)
    return read(entity, time, by)


def compare_offline(settings: Settings, decided: pd.DataFrame, n: int, rng: np.random.Generator) -> Tally:
    """Offline and oracle, at moments of their own."""
    queries, oracle, tally = draw(decided, n, rng), Oracle(decided), Tally()
    for kind, found in offline(settings, queries).items():
        q = queries[kind]
        for got, entity, time, by in zip(found, q.entity, q.time, q.arrived_by, strict=True):
            tally.add(f"{kind} {entity} at {by}", got[:2], said(oracle, kind, entity, time, by))
    return tally


def compare_online(
    settings: Settings, live: Settings, run: Callable[[], None], decided: pd.DataFrame, n: int, moments: int, rng: np.random.Generator
) -> Tally:
    """Online, offline and oracle: a second data directory is given what had arrived by one moment after another, and read there.

    Parameters
    ----------
    settings, live : Settings
        Of the whole log; of the other directory, which is made.
    run : callable
        Runs the flows of that one to their end.
    """
    times = np.sort(arrivals(decided).quantile((np.arange(moments) + 1) / moments).astype("int64").to_numpy()).tolist()
    queries, oracle, tally = draw(decided, n, rng, times), Oracle(decided), Tally()
    known = offline(settings, queries)
    arrived = {p: part.to_numpy() for p, part in arrivals(decided).groupby(decided["partition"])}
    at = dict.fromkeys(arrived, 0)
    with LocalLog.open(settings.logs, ACTIONS) as whole, LocalLog.open(live.logs, ACTIONS, live.partitions, create=True) as part:
        for moment in times:
            for p, records in arrived.items():
                until = int(np.searchsorted(records, moment, "right"))
                while at[p] < until:
                    batches = whole.read(p, at[p], until - at[p])
                    part.append([(p, batch.records) for batch in batches])
                    at[p] = batches[-1].end_offset
            run()
            with FeatureReader(live) as reader:
                _compare_at(reader, moment, queries, known, oracle, tally)
    return tally


def _compare_at(
    reader: FeatureReader,
    moment: int,
    queries: dict[str, Queries],
    known: dict[str, list[tuple[Any, ...]]],
    oracle: Oracle,
    tally: Tally,
) -> None:
    for kind, q in queries.items():
        chosen = [i for i, by in enumerate(q.arrived_by) if by == moment]
        entities = [q.entity[i] for i in chosen]
        if not entities:
            continue
        if kind == "user":
            online: list[tuple[Any, ...]] = users_online(reader, [int(entity) for entity in entities], moment - 1)
        else:
            rows = (
                reader.topic_stats([str(entity) for entity in entities], moment - 1)
                if kind == "topic"
                else reader.pin_counters(np.array(entities, np.int64), moment - 1)
            )
            online = list(zip(rows.values.tolist(), rows.found.tolist(), strict=True))
        for i, entity, read in zip(chosen, entities, online, strict=True):
            where = f"{kind} {entity} at {moment}"
            tally.add(where, known[kind][i], read)
            tally.pairs -= 1
            tally.add(where, known[kind][i][:2], said(oracle, kind, entity, moment - 1, moment))
