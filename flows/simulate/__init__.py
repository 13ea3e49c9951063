"""A simulated site: users, pins, a served log, an event stream in the disorder of real ones, and the truth about it.

The files of a simulation, in the directory that is given:

- ``events-0000.parquet``, … the stream in order of arrival; columns of `flows.events.EVENT_SCHEMA`, with ``arrival_time`` for ``timestamp``
- ``events-bad.jsonl`` malformed lines that no typed column could hold
- ``served.parquet`` what was served, with the propensities of a random exploration policy
- ``truth-labels.parquet`` every save with its labels at the end of the stream
- ``truth.json`` counts and rates, written last: without it the simulation is not whole

Modules: `parameters`, `population` (users, pins), `browsing` (sessions, requests, engagement), `revisits` (what is come back to, to the
figures of `published`), `disorder` (arrival), `malformed`, `truth` (in closed form), `output`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flows.settings import HOUR_MS
from flows.simulate import output
from flows.simulate.browsing import durations, engage, serve
from flows.simulate.disorder import deliver
from flows.simulate.malformed import bad_lines
from flows.simulate.parameters import START_MS, Parameters
from flows.simulate.population import Pins, Users, daily_rhythm
from flows.simulate.revisits import plan, saves_of, strays
from flows.simulate.table import CLICK, CLOSEUP, IMPRESSION, NOTIFICATION, OTHER, Events
from flows.simulate.truth import label_saves, summary

__all__ = ["Parameters", "simulate"]

_LINES_SHARE = 0.25


def simulate(
    out: Path,
    *,
    users: int = 20_000,
    pins: int = 50_000,
    days: int = 60,
    events: int = 1_000_000,
    seed: int = 7,
    partitions: int = 8,
    late_rate: float = 0.002,
    out_of_order_rate: float = 0.05,
    duplicate_rate: float = 0.002,
    bad_rate: float = 0.001,
    allowed_lateness_ms: int = HOUR_MS,
    dedup_horizon_ms: int = HOUR_MS,
    clock_skew_ms: int = 5 * 60_000,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Simulate and write the files named in the module's docstring. The same parameters give the same bytes.

    Parameters
    ----------
    out : Path
        A directory; made if need be. An earlier simulation in it is replaced.
    users, pins, days, events, seed, partitions, late_rate, out_of_order_rate, duplicate_rate, bad_rate
        See `Parameters`.
    allowed_lateness_ms, dedup_horizon_ms, clock_skew_ms : int
        As the engine is set that will read the stream: the truth depends on them.
    progress : callable, optional
        Called with a stage, how much of it is done, and of how much.

    Returns
    -------
    dict
        What truth.json holds.

    Raises
    ------
    SettingsError
        A parameter makes no sense, or `out` can't be written.
    StorageFullError
        The disk is full.
    """
    parameters = Parameters(
        users,
        pins,
        days,
        events,
        seed,
        partitions,
        late_rate,
        out_of_order_rate,
        duplicate_rate,
        bad_rate,
        allowed_lateness_ms,
        dedup_horizon_ms,
        clock_skew_ms,
    )
    report = progress or (lambda stage, done, total: None)
    with output.directory(out):
        return _simulate(out, parameters, report)


def _simulate(out: Path, parameters: Parameters, report: Callable[[str, int, int], None]) -> dict[str, Any]:
    # A stream of random numbers per stage: a change in one doesn't reshuffle the others.
    stages = [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(parameters.seed).spawn(8)]
    people, things = Users.draw(stages[0], parameters.users), Pins.draw(stages[1], parameters.pins)
    report("population", 1, 1)

    served = serve(stages[2], people, things, parameters)
    request_ids = output.request_ids(len(served.time))
    output.write_served(out, served, things, request_ids)
    report("served", 1, 1)

    browsed = engage(stages[3], served, things, parameters)
    requests = len(served.time)
    del served
    saves = saves_of(browsed)
    parts = [browsed, plan(stages[4], saves, things, parameters), strays(stages[5], saves, parameters.users, things, parameters)]
    del browsed
    parts.append(_filler(stages[6], parameters.events - sum(map(len, parts)), people, things, parameters))
    table = Events.concat(parts)
    del parts
    report("events", 1, 1)

    bad = round(parameters.bad_rate * parameters.events)
    in_lines = round(_LINES_SHARE * bad)
    stream = deliver(stages[7], table, bad - in_lines, parameters)
    lines = bad_lines(stages[7], in_lines, np.sort(stages[7].integers(START_MS, parameters.end_ms, in_lines)))
    report("delivery", 1, 1)

    labels = label_saves(stream, table, parameters)
    truth = summary(stream, table, labels, things, lines, requests, parameters)
    report("truth", 1, 1)

    output.write_events(out, stream, table, people, things, request_ids, lambda done, total: report("write", done, total))
    output.write_lines(out, lines)
    output.write_labels(out, labels, table, things)
    output.write_truth(out, truth)
    return truth


def _filler(rng: np.random.Generator, count: int, users: Users, pins: Pins, parameters: Parameters) -> Events:
    """Notifications, and a few events of no surface: as many as are missing from the wanted number of events."""
    count = max(count, 0)
    user = users.pick(rng, count)
    time = daily_rhythm(rng, users.zone_ms[user], parameters)
    pin = rng.integers(0, len(pins), count)
    action = rng.choice(np.array([IMPRESSION, CLOSEUP, CLICK]), count, p=[0.7, 0.2, 0.1])
    lasting = np.full(count, -1, np.int64)
    for code in (CLOSEUP, CLICK):
        rows = np.flatnonzero(action == code)
        lasting[rows] = durations(rng, code, len(rows))
    surface = np.where(rng.random(count) < 0.04, OTHER, NOTIFICATION)
    return Events.of(user, pin, action, surface, time, lasting)
