"""The actions that an evaluation is of: a simulated history, a file of events, or a log; and topics of pins where anybody knows them.

A simulated one goes through a log, so that duplicates, late and malformed records count for no more than they would. It is made once for each seed
and kept by a digest of what decides it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.directories import make_directory, translated
from flows.errors import InputError
from flows.ingest.options import IngestOptions
from flows.ingest.producer import check_file, ingest_file
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.settings import Settings
from flows.simulate import World, load_world, simulate
from online_model.embedding.actions import read_actions
from online_model.embedding.evaluation.plan import EVENTS, EvaluationPlan
from online_model.embedding.files import read_events
from online_model.embedding.sequences import UserSequences
from online_model.studies.kept import Kept

_COLUMNS = ("user_ids", "offsets", "pin", "action", "surface", "duration_ms", "time_ms", "pin_ids")
Told = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class EvaluatedWorld:
    """Actions, and what pins are about.

    Attributes
    ----------
    sequences : UserSequences
    topics : int64[m] or None
        Of each of `sequences.pin_ids`, -1 for a pin without one; None: nobody knows topics.
    """

    sequences: UserSequences
    topics: np.ndarray | None

    def digest(self) -> str:
        """Of all of it."""
        said = b"" if self.topics is None else np.ascontiguousarray(self.topics).tobytes()
        return hashlib.blake2b(self.sequences.digest().encode() + said, digest_size=8).hexdigest()


class Worlds:
    """Makes the worlds of a plan, one for each seed where it is simulated, else one for all.

    Parameters
    ----------
    plan : EvaluationPlan
    settings : Settings
        Of the log, where the plan is of that.
    events : Path or None
        The file, where the plan is of one.
    work : Path
        Where simulated ones are kept.

    Raises
    ------
    InputError
        The plan needs a file and there is none, or the other way round.
    """

    def __init__(self, plan: EvaluationPlan, settings: Settings, events: Path | None, work: Path) -> None:
        if plan.world == EVENTS and events is None:
            raise InputError(f"plan '{plan.name}' is of a file of events; give it: --events FILE (Parquet: user, item, action, ts)")
        if plan.world != EVENTS and events is not None:
            raise InputError(
                f"--events {events}: plan '{plan.name}' is of {plan.world}, not of a file; leave --events out, or name another --plan"
            )
        self._plan, self._settings, self._events, self._kept = plan, settings, events, Kept(work / "worlds")
        self._only: EvaluatedWorld | None = None

    def of_seed(self, seed: int, told: Told = lambda stage: None) -> EvaluatedWorld:
        """The world of a seed.

        Raises
        ------
        InputError
            The file can't be read.
        SettingsError
            There is no such simulated world.
        CorruptionError
            What was kept is damaged.
        """
        if self._plan.simulated:
            return self._simulated(seed, told)
        if self._only is None:
            told("reading actions")
            self._only = EvaluatedWorld(self._read(), None)
        return self._only

    def _read(self) -> UserSequences:
        return read_events(self._events) if self._events is not None else read_actions(self._settings)

    def _simulated(self, seed: int, told: Told) -> EvaluatedWorld:
        sizes, world = load_world(self._plan.world)
        sizes = {**sizes, **self._plan.sizes}
        said: dict[str, Any] = {"world": world.as_dict(), "sizes": sizes, "seed": seed}
        arrays = self._kept.get("actions", said)
        if arrays is None:
            told("simulating")
            made = _simulate(self._settings, self._kept.directory, sizes, world, seed)
            arrays = {name: getattr(made.sequences, name) for name in _COLUMNS} | {"topics": np.asarray(made.topics)}
            arrays["codes"] = np.array(json.dumps([dict(made.sequences.actions), dict(made.sequences.surfaces)]))
            self._kept.put("actions", said, arrays)
        actions, surfaces = json.loads(str(arrays["codes"]))
        columns: dict[str, Any] = {name: arrays[name] for name in _COLUMNS}
        return EvaluatedWorld(UserSequences(**columns, actions=actions, surfaces=surfaces), arrays["topics"])


def _simulate(settings: Settings, place: Path, sizes: dict[str, Any], world: World, seed: int) -> EvaluatedWorld:
    make_directory(place.absolute())
    draft = place / f".simulated.{os.getpid()}"
    # A log of its own, embedded, whatever the data directory's is.
    own = Settings(data=draft / "data", vocabulary=settings.vocabulary)
    with translated(f"evaluation's world {draft}"):
        try:
            simulate(
                draft / "simulated", **sizes, seed=seed, world=world, partitions=own.partitions,
                allowed_lateness_ms=own.allowed_lateness_ms, dedup_horizon_ms=own.dedup_horizon_ms, clock_skew_ms=own.clock_skew_ms,
            )  # fmt: skip
            files = sorted((draft / "simulated").glob("events-*.parquet"))
            options = IngestOptions.parse(own.load_vocabulary())
            with open_log(own, ACTIONS, create=True) as log:
                for path in [*files, draft / "simulated" / "events-bad.jsonl"]:
                    ingest_file(log, check_file(path, options), options)
            sequences = read_actions(own)
            return EvaluatedWorld(
                sequences,
                topics_of(sequences.pin_ids, pa.concat_tables(pq.read_table(path, columns=["pin_id", "topic"]) for path in files)),
            )
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def topics_of(pin_ids: np.ndarray, events: pa.Table) -> np.ndarray:
    """What each pin is about, by the events that name a topic: int64[m], -1 where none does.

    Parameters
    ----------
    pin_ids : int64[m]
        Ascending.
    events : Table
        pin_id, topic.
    """
    topics = events.column("topic").combine_chunks()
    topics = topics.cast(pa.string()) if pa.types.is_dictionary(topics.type) else topics
    named = topics.fill_null("").to_numpy(zero_copy_only=False).astype(str)
    pins = events.column("pin_id").to_numpy()
    out = np.full(len(pin_ids), -1, np.int64)
    known = (named != "") & np.isin(pins, pin_ids)
    out[np.searchsorted(pin_ids, pins[known])] = np.unique(named[known], return_inverse=True)[1]
    return out
