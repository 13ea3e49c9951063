"""A simulated history as examples in memory, made once for each plan: simulate → ingest → backfill, kept on disk by a digest of what decides it.

The examples are what `tidemark backfill` makes of the stream, features strictly before the request. The true chances lie beside them and are read
by the report alone: nothing that learns is given them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.directories import make_directory, translated
from flows.errors import CorruptionError
from flows.examples.backfill.drafts import What
from flows.examples.backfill.matching import found_in
from flows.examples.backfill.run import Backfill
from flows.examples.backfill.served import ServedFile
from flows.examples.backfill.target import ExampleFiles
from flows.examples.files import ExampleDirectory
from flows.examples.joining import joined
from flows.examples.merging import Merged
from flows.examples.record import HEADS, MASKED, OUTCOME_WINDOW_MS, Kind
from flows.examples.rows import ExampleRows
from flows.ingest.options import IngestOptions
from flows.ingest.producer import check_file, ingest_file
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.settings import DAY_MS, HOUR_MS, Settings
from flows.simulate import Parameters, load_world, simulate
from online_model.evaluation.outcomes import Labels, example_of, labels_of, records_of
from online_model.studies.kept import take_place
from online_model.studies.plan import WorldPlan

_FORMAT = 1
"""Of what is kept; another number makes everything anew."""
_EXAMPLES, _CHANCES = "examples", "truth-chances.parquet"
_READ_ROWS = 65_536
# A save comes within half an hour, is credited for 7 days, and final an allowed lateness (an hour) after that; records come that much behind.
_REVISIT_MATURES_MS = OUTCOME_WINDOW_MS + 7 * DAY_MS + 2 * HOUR_MS
Told = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """k examples that are measured: pins that were seen in a span, each once.

    Attributes
    ----------
    rows : ExampleRows
        The provisional record of each.
    labels : int8[k, 5]
        Final ones, in the order of HEADS; MASKED where a label hasn't matured by the end of the history.
    chances : float64[k, 5]
        The true chance of each head, for the report.
    """

    rows: ExampleRows
    labels: np.ndarray
    chances: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Stream:
    """All examples of a history, in the order in which they became known: provisional, positive and final records.

    Attributes
    ----------
    plan : WorldPlan
    digest : str
        Of what decides it.
    rows : ExampleRows
    """

    plan: WorldPlan
    digest: str
    rows: ExampleRows
    _chances: Path

    def between(self, begin: int, end: int) -> slice:
        """Places of the records that became known in [begin, end), ms."""
        low, high = np.searchsorted(self.rows.ready_time, [begin, end])
        return slice(int(low), int(high))

    def final(self, begin: int, end: int) -> ExampleRows:
        """Final records that matured in [begin, end), ms: what a retrain learns from."""
        span = self.between(begin, end)
        return self.rows.take(span.start + np.flatnonzero(self.rows.kind[span] == Kind.FINAL))

    def evaluated(self, begin: int, end: int) -> Evaluated:
        """Examples of requests, whose pin was seen in [begin, end), ms by when that became known."""
        places = self.places(begin, end)
        rows = self.rows.take(places)
        labels = self._labels[self._example[places]]
        # Whoever did not save is known not to come back at once, whoever did only after a week: of younger pins only the first would be told.
        young = rows.impression_time + _REVISIT_MATURES_MS > int(self.rows.ready_time[-1])
        labels[young, HEADS.index("revisit")] = MASKED
        return Evaluated(rows, labels, _chances_of(rows, self._chances))

    def places(self, begin: int, end: int) -> np.ndarray:
        """Places of the records that `evaluated` has, int64[k], ascending."""
        span = self.between(begin, end)
        # Without a slot it is a notification: nobody ranked that.
        asked = span.start + np.flatnonzero((self.rows.kind[span] == Kind.NEGATIVE) & (self.rows.slot[span] >= 0))
        return np.sort(asked[np.unique(self._example[asked], return_index=True)[1]])

    @cached_property
    def _records(self) -> Any:
        return records_of(self.rows)

    @cached_property
    def _example(self) -> np.ndarray:
        return example_of(self._records)

    @cached_property
    def _labels(self) -> np.ndarray:
        return labels_of(self._example, int(self._example.max()) + 1, self._records, Labels.FINAL)


def open_stream(plan: WorldPlan, work: Path, told: Told = lambda stage: None) -> Stream:
    """The examples of a history; made if they are not there yet.

    Parameters
    ----------
    plan : WorldPlan
    work : Path
        Where histories are kept, each in a directory of its own.
    told : callable
        Called with what is being done.

    Raises
    ------
    SettingsError
        There is no such world, or its sizes make no sense.
    CorruptionError
        What was kept is damaged.
    """
    sizes, world = load_world(plan.name)
    said = {"format": _FORMAT, **plan.to_dict(), "sizes": {**sizes, **plan.sizes}, "world": world.as_dict()}
    digest = hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=8).hexdigest()
    place = work / f"{plan.name}-{plan.seed}-{digest}"
    if not place.exists():
        draft = work / f".{place.name}.{os.getpid()}"
        with translated(f"study's history {place}"):
            make_directory(work.absolute())
            try:
                _make(plan, draft, told)
                take_place(draft, place)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    told("reading examples")
    return Stream(plan, digest, _read(place / _EXAMPLES), place / _CHANCES)


def site_of(plan: WorldPlan) -> Parameters:
    """The site of a history, for a closed loop of the same users, pins and requests."""
    sizes, world = load_world(plan.name)
    return Parameters(**{**sizes, **plan.sizes}, seed=plan.seed, world=world)


def ingested(plan: WorldPlan, settings: Settings, simulated: Path, told: Told) -> None:
    """Simulate a history, and put its events into a new log of actions."""
    sizes, world = load_world(plan.name)
    sizes = {**sizes, **plan.sizes}
    told("simulating")
    simulate(
        simulated,
        users=sizes["users"],
        pins=sizes["pins"],
        days=sizes["days"],
        events=sizes["events"],
        seed=plan.seed,
        partitions=settings.partitions,
        allowed_lateness_ms=settings.allowed_lateness_ms,
        dedup_horizon_ms=settings.dedup_horizon_ms,
        clock_skew_ms=settings.clock_skew_ms,
        world=world,
        chances=True,
    )
    options = IngestOptions.parse(settings.load_vocabulary())
    files = [*sorted(simulated.glob("events-*.parquet")), simulated / "events-bad.jsonl"]
    with open_log(settings, ACTIONS, create=True) as log:
        told("ingesting")
        for path in files:
            ingest_file(log, check_file(path, options), options)


def _make(plan: WorldPlan, draft: Path, told: Told) -> None:
    settings = Settings(data=draft / "data")
    simulated, kept = draft / "simulated", draft / _EXAMPLES
    ingested(plan, settings, simulated, told)
    with open_log(settings, ACTIONS) as log:
        told("making examples")
        kept.mkdir()
        what = What(plan.feature_delay_ms, True, None, None)
        with Backfill(settings, log, log.end_positions(), what, ServedFile(simulated / "served.parquet")) as made:
            made.prepare()
            out = ExampleFiles(kept, log.partitions, plan.to_dict())
            try:
                for span in made.spans():
                    out.put(span)
            finally:
                out.close()
    os.replace(simulated / _CHANCES, draft / _CHANCES)
    shutil.rmtree(simulated)
    shutil.rmtree(settings.data)


def _read(directory: Path) -> ExampleRows:
    examples = ExampleDirectory(directory)
    try:
        merged = Merged(examples, [0] * examples.partitions, _READ_ROWS)
        parts = []
        while (batch := merged.next(ended=True)) is not None:
            parts.append(batch.rows)
        return joined(parts)
    finally:
        examples.close()


def _chances_of(rows: ExampleRows, path: Path) -> np.ndarray:
    table = pq.read_table(path, columns=["request_id", "pin_id", *HEADS])
    given = table.column("request_id").combine_chunks()
    names = pa.chunked_array([given, rows.request_id.cast(given.type)]).combine_chunks().dictionary_encode().indices.to_numpy()
    found = found_in((names[len(given) :], rows.pin_id), (names[: len(given)], table.column("pin_id").to_numpy()))
    chances = np.column_stack([table.column(head).to_numpy() for head in HEADS]).astype(np.float64)
    if (found < 0).any():
        raise CorruptionError(
            f"{path} lacks {int((found < 0).sum()):,} of the pins that were shown; delete {path.parent}, and it is made anew"
        )
    return chances[found]
