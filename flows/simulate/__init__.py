"""A simulated site: users, pins, a served log, an event stream in the disorder of real ones, and the truth about it.

The files of a simulation, in the directory that is given:

- ``events-0000.parquet``, … the stream in order of arrival; columns of `flows.events.EVENT_SCHEMA`, with ``arrival_time`` for ``timestamp``
- ``events-bad.jsonl`` malformed lines that no typed column could hold
- ``served.parquet`` what was served, with the propensities of a random exploration policy
- ``truth-labels.parquet`` every save with its labels at the end of the stream
- ``truth-chances.parquet``, if asked for: the chance of each head for each pin that was shown
- ``truth.json`` counts and rates, written last: without it the simulation is not whole

Modules: `parameters`, `world` (how much changes), `site` (all that is there before anybody reacts) of `population` (users, pins) and `browsing`
(sessions, requests, engagement), `appeal` (what engagement depends on), `numbers` (chance), `revisits` (what is come back to, to the figures of
`published`), `disorder` (arrival), `malformed`, `truth` (in closed form), `chances`, `output`. `closed_loop` is the same site, whose users react
to somebody else's ranking.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flows.settings import HOUR_MS
from flows.simulate import output
from flows.simulate.appeal import Looked
from flows.simulate.browsing import aims_of, engage, looked_at, once
from flows.simulate.chances import Chances, best, chances_at, totals_of, without_resaves
from flows.simulate.disorder import deliver
from flows.simulate.malformed import bad_lines
from flows.simulate.numbers import Drawn
from flows.simulate.parameters import START_MS, Parameters
from flows.simulate.population import Pins, Users, sessions
from flows.simulate.revisits import plan, saves_of, strays
from flows.simulate.site import Site
from flows.simulate.table import CLICK, CLOSEUP, IMPRESSION, NOTIFICATION, OTHER, SAVE, Events
from flows.simulate.truth import label_saves, summary
from flows.simulate.world import World, load_world

__all__ = ["Parameters", "World", "load_world", "simulate"]

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
    world: World | None = None,
    chances: bool = False,
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
    world : World, optional
        How much changes, and how much pins and users differ; by default little.
    chances : bool
        Also write truth-chances.parquet, and into truth.json the best AUC there is.
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
        world or World(),
    )
    report = progress or (lambda stage, done, total: None)
    with output.directory(out):
        return _simulate(out, parameters, chances, report)


def _simulate(out: Path, parameters: Parameters, with_chances: bool, report: Callable[[str, int, int], None]) -> dict[str, Any]:
    site = Site.draw(parameters)
    people, things, served, streams = site.users, site.pins, site.served, site.streams
    report("population", 1, 1)

    request_ids = output.request_ids(len(served.time))
    output.write_served(out, served, things, request_ids)
    report("served", 1, 1)

    looked, requests = looked_at(served, things), len(served.time)
    del served
    browsed = engage(Drawn(streams[3]), looked, site.appeal, aims_of(parameters))
    browsed[SAVE] = once(browsed[SAVE])
    parts = [Events.concat(list(browsed.values()))]
    del browsed
    saves = saves_of(parts[0])
    parts.append(plan(Drawn(streams[4]), saves, things, site.leanings, parameters))
    parts.append(strays(streams[5], saves, people, things, parameters))
    parts.append(_filler(streams[6], parameters.events - sum(map(len, parts)), people, things, parameters))
    table = Events.concat(parts)
    del parts
    report("events", 1, 1)

    bad = round(parameters.bad_rate * parameters.events)
    in_lines = round(_LINES_SHARE * bad)
    stream = deliver(streams[7], table, bad - in_lines, parameters)
    lines = bad_lines(streams[7], in_lines, np.sort(streams[7].integers(START_MS, parameters.end_ms, in_lines)))
    report("delivery", 1, 1)

    labels = label_saves(stream, table, parameters)
    truth = summary(stream, table, labels, things, lines, requests, parameters)
    report("truth", 1, 1)

    known = None
    if with_chances:
        known = _chances(site, looked, saves)
        truth["best"] = best(known, table, labels)
    output.write_chances(out, known, things, request_ids)
    output.write_events(out, stream, table, people, things, request_ids, lambda done, total: report("write", done, total))
    output.write_lines(out, lines)
    output.write_labels(out, labels, table, things)
    output.write_truth(out, truth)
    return truth


def _chances(site: Site, looked: Looked, saves: Events) -> Chances:
    """Of everything that was shown."""
    aims = aims_of(site.parameters)
    by_head = chances_at(looked, site.appeal, aims, totals_of(looked, site.appeal, aims), site.leanings)
    without_resaves(by_head, looked, saves)
    return Chances(looked.request, looked.pin, looked.slot, by_head)


def _filler(rng: np.random.Generator, count: int, users: Users, pins: Pins, parameters: Parameters) -> Events:
    """Notifications, and a few events of no surface: as many as are missing from the wanted number of events."""
    count = max(count, 0)
    user, time = sessions(rng, users, count, parameters)
    pin = pins.anything(rng, time)
    action = rng.choice(np.array([IMPRESSION, CLOSEUP, CLICK]), count, p=[0.7, 0.2, 0.1])
    lasting = np.full(count, -1, np.int64)
    for code in (CLOSEUP, CLICK):
        rows = np.flatnonzero(action == code)
        lasting[rows] = Drawn(rng).lasting(code, rows)
    surface = np.where(rng.random(count) < 0.04, OTHER, NOTIFICATION)
    return Events.of(user, pin, action, surface, time, lasting)
