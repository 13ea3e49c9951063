"""Adversarial streams in the input form of tests/oracles/: hypothesis strategies and seeded generators.

A stream is a DataFrame in log order with the columns `COLUMNS`. `streams` and `adversarial` play small operations relative to a moving
clock and to earlier records, so that times collide with each other and with every boundary of docs/semantics.md.
`random_stream` is vectorised, for size.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from tests.oracles.partition import partition_of

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
LEAST, GREATEST = -(2**63), 2**63 - 1
MAX_TIME = 253_402_300_799_999
BASES = (1_699_999_200_000, 0, MAX_TIME - 200 * DAY)  # on the hour; the first; near the last

_INTEGERS = ["event_id", "user_id", "pin_id", "event_time", "duration_ms", "timestamp"]
_RECORD = ["event_id", "user_id", "pin_id", "action", "surface", "event_time", "duration_ms", "topic", "timestamp", "bad"]
COLUMNS = ["partition", "offset", *_RECORD]


# The tables that operations index. The first entries are the simplest, for shrinking; repeats are weights.
_STEPS = (*(0,) * 16, 1, 1, *(SECOND,) * 8, *(MINUTE,) * 16, 20 * MINUTE, 20 * MINUTE, HOUR, HOUR + 1, 5 * HOUR, DAY, 7 * DAY, 31 * DAY)
_WHAT = (
    ("save", "homefeed"),
    ("grid_click", "own_profile"),
    ("impression", "own_profile"),
    ("save", "related_pins"),
    ("save", "related_pins"),
    ("grid_click", "own_profile"),
    ("impression", "own_profile"),
    ("impression", "homefeed"),  # the rest are no revisits
    ("grid_click", "search"),
    ("click", "own_profile"),
    ("hide", "other"),
    ("long_click", "notification"),
)
# Anchor of the event time and what is added to it, in ms.
_WHEN: tuple[tuple[str, int], ...] = (
    *(("clock", 0),) * 36,
    *(("reference", 0),) * 10,
    *(("reference", add) for add in (1, 1, *(-1,) * 6, -MINUTE, *(DAY,) * 6, 4 * DAY, *(7 * DAY,) * 4, 30 * DAY)),
    ("kept", 0),  # reference + 7 d + L
    ("hour", 0),
    ("hour", HOUR),
    *(("lateness", 0),) * 2,  # W - L
    ("lateness", 30 * MINUTE),
    ("lateness", -HOUR),
    ("lateness", -8 * DAY),
    ("horizon", 0),  # W - H
    ("skew", 0),  # clock + S
    ("skew", 2 * DAY),
)
_JITTERS = (0, 1, -1)
_ARRIVALS = ("time",) * 9 + ("clock",) * 2 + ("delayed", "skew", "stale", "ahead")
_KEYS = ("reference",) * 6 + ("own", "user")
_IDENTITIES = ("fresh",) * 6 + ("negative",) * 2 + ("copy", "copy", "reused", "reused", "pool")
_IDS = (1, 2, -1, 3, GREATEST, LEAST, 0)
_TOPICS = ("", "travel", "food")


class Op(NamedTuple):
    """One record, relative to the clock and to the one `back` records earlier. Each other field is an index into its table."""

    what: int
    when: int
    jitter: int
    back: int
    key: int
    user: int
    pin: int
    step: int
    identity: int
    arrival: int
    topic: int
    bad: int


_SIZES = Op(
    what=len(_WHAT),
    when=len(_WHEN),
    jitter=len(_JITTERS),
    back=8,
    key=len(_KEYS),
    user=len(_IDS),
    pin=len(_IDS),
    step=len(_STEPS),
    identity=len(_IDENTITIES),
    arrival=len(_ARRIVALS),
    topic=len(_TOPICS),
    bad=40,
)
# Hypothesis deletes at most 5 choices at once, so an operation is packed into 4: each holds the fields up to one of these.
_GROUPS = (1, 3, 7, 12)


def _unpack(packed: tuple[int, ...]) -> Op:
    fields: list[int] = []
    for number, end in zip(packed, _GROUPS, strict=True):
        while len(fields) < end:
            number, field = divmod(number, _SIZES[len(fields)])
            fields.append(field)
    return Op(*fields)


def play(
    ops: list[Op],
    partitions: int = 2,
    base: int = BASES[0],
    lateness_ms: int = HOUR,
    horizon_ms: int = HOUR,
    skew_ms: int = 5 * MINUTE,
) -> pd.DataFrame:
    """The stream that operations stand for; the settings only place its boundaries."""
    rows: list[dict[str, Any]] = []
    clock = base
    watermark: dict[int, int] = {}  # near enough to W: duplicates move it too
    for i, op in enumerate(ops):
        clock += _STEPS[op.step]
        earlier = rows[-1 - op.back % len(rows)] if rows else None
        user, pin = _IDS[op.user], _IDS[op.pin]
        if earlier and _KEYS[op.key] != "own":
            user = earlier["user_id"]
            pin = earlier["pin_id"] if _KEYS[op.key] == "reference" else pin
        anchor, added = _WHEN[op.when]
        reference = earlier["event_time"] if earlier else clock
        w = watermark.get(partition_of(user, partitions), clock)
        start = {
            "clock": clock,
            "reference": reference,
            "kept": reference + 7 * DAY + lateness_ms,
            "hour": clock // HOUR * HOUR,
            "lateness": w - lateness_ms,
            "horizon": w - horizon_ms,
            "skew": clock + skew_ms,
        }[anchor]
        time = start + added + _JITTERS[op.jitter]
        action, surface = _WHAT[op.what]
        row: dict[str, Any] = {
            "event_id": -(i + 1) if _IDENTITIES[op.identity] == "negative" else i + 1,
            "user_id": user,
            "pin_id": pin,
            "action": action,
            "surface": surface,
            "event_time": time,
            "duration_ms": op.back * 100,
            "topic": _TOPICS[op.topic],
        }
        if _IDENTITIES[op.identity] == "pool":
            row["event_id"] = _IDS[op.pin]
        elif _IDENTITIES[op.identity] == "reused" and earlier:
            row["event_id"] = earlier["event_id"]
        elif _IDENTITIES[op.identity] == "copy" and earlier:
            row = {name: earlier[name] for name in row}
        time = row["event_time"]
        timestamp = {
            "time": time,
            "clock": clock,
            "delayed": time + SECOND,
            "skew": time - skew_ms + _JITTERS[op.jitter],
            "stale": clock - 10 * DAY,
            "ahead": clock + 2 * DAY,
        }[_ARRIVALS[op.arrival]]
        row["bad"] = op.bad == _SIZES.bad - 1 or not 0 <= time <= MAX_TIME
        row["timestamp"] = max(0, timestamp)
        rows.append(row)
        if not row["bad"] and time <= timestamp + skew_ms:
            clock = max(clock, time)
            partition = partition_of(row["user_id"], partitions)
            watermark[partition] = max(watermark.get(partition, time), time)
    return log_of(pd.DataFrame(rows, columns=_RECORD), partitions)


def log_of(records: pd.DataFrame, partitions: int) -> pd.DataFrame:
    """Records in the order in which they are written, with their partition and offset, and every column of its type."""
    users = {user: partition_of(user, partitions) for user in set(records["user_id"].tolist())}
    partition = np.array([users[user] for user in records["user_id"].tolist()], np.int64)
    out = records.astype(dict.fromkeys(_INTEGERS, np.int64) | {"bad": bool}).reset_index(drop=True)
    out["partition"] = partition
    out["offset"] = out.groupby("partition").cumcount().astype(np.int64)
    return out[COLUMNS]


def astray(events: pd.DataFrame, partitions: int, share: float, seed: int) -> pd.DataFrame:
    """The stream with a share of its records in another partition than their user's, as a producer that keys in another way writes them."""
    rng = np.random.default_rng(seed)
    moved = events["partition"].to_numpy(copy=True)
    at = np.flatnonzero(rng.random(len(events)) < share)
    moved[at] = (moved[at] + rng.integers(1, partitions, len(at))) % partitions
    out = events.assign(partition=moved)
    return out.assign(offset=out.groupby("partition").cumcount().astype(np.int64))


def streams(max_events: int = 60, partitions: int = 2, **settings: int) -> st.SearchStrategy[pd.DataFrame]:
    """Streams of 0 to `max_events` records; `settings` are those of `play`."""
    starts = (0, *_GROUPS[:-1])
    op = st.tuples(*(st.integers(0, math.prod(_SIZES[a:b]) - 1) for a, b in zip(starts, _GROUPS, strict=True))).map(_unpack)
    # Left to itself, a list has about 5 elements. A least length, drawn first, makes them long and can still be shrunk on its own.
    ops = st.integers(0, max_events).flatmap(lambda least: st.lists(op, min_size=least, max_size=max_events))
    return st.builds(lambda ops, base: play(ops, partitions, base, **settings), ops, st.sampled_from(BASES))


def interesting_times(events: pd.DataFrame) -> list[int]:
    """Times at which a read may be wrong: just before, at and after each event time and each edge of a window over it."""
    times = np.unique(events["event_time"][~events["bad"]].to_numpy())
    edges = [times, *((times // HOUR + 1) * HOUR + days * DAY for days in (7, 30, 90))]
    near = np.concatenate([edge + jitter for edge in edges for jitter in (-1, 0, 1)])
    return [0, *np.unique(near[near > 0]).tolist()]


def reads(max_events: int = 60, partitions: int = 2, **settings: int) -> st.SearchStrategy[tuple[pd.DataFrame, int]]:
    """A stream and an as_of."""
    return streams(max_events, partitions, **settings).flatmap(
        lambda events: st.tuples(st.just(events), st.sampled_from(interesting_times(events))),
    )


def adversarial(seed: int, n: int = 200, partitions: int = 2, **settings: int) -> pd.DataFrame:
    """As one of `streams`, with `n` records, from a seed; `settings` are those of `play`."""
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.integers(0, size, n) for size in _SIZES], axis=1)
    return play([Op._make(row) for row in drawn.tolist()], partitions, BASES[rng.choice(len(BASES), p=[0.8, 0.1, 0.1])], **settings)


def random_stream(seed: int, n: int, partitions: int = 8, users: int = 20_000, pins: int = 50_000, days: int = 100) -> pd.DataFrame:
    """`n` records, mostly in time, over `days` with a pause of 8 days halfway; IDs all over int64, skewed to few users of at most 20 pins.

    Of the records, 20 % are saves, 40 % possible revisits of one of them (an eighth at an exact boundary) and 6 % copies.
    """
    rng = np.random.default_rng(seed)
    n_copies, n_saves = n * 6 // 100, max(1, n // 5)
    end = BASES[0] + (days + 8) * DAY
    m = n - n_copies
    user = (users * rng.random(m) ** 2).astype(np.int64)
    pin = (user * 7 + rng.integers(0, 20, m)) % pins
    time = BASES[0] + rng.integers(0, days * DAY, m)
    time = np.where(rng.random(m) < 0.3, time // SECOND * SECOND, time)
    time += np.where(time > BASES[0] + days * DAY // 2, 8 * DAY, 0)
    action = rng.choice(["impression", "closeup", "click", "long_click", "hide", "grid_click"], m).astype(object)
    surface = rng.choice(["homefeed", "related_pins", "search", "own_profile", "other"], m).astype(object)
    action[:n_saves] = "save"

    revisit = slice(n_saves, min(m, 3 * n_saves))
    of_save = rng.integers(0, min(n_saves, m), len(time[revisit])) if m else np.zeros(0, np.int64)
    user[revisit], pin[revisit] = user[of_save], pin[of_save]
    edges = np.array([0, DAY, 7 * DAY, 3 * DAY])
    exact = edges[rng.integers(0, len(edges), len(of_save))] + rng.integers(-1, 2, len(of_save))
    age = np.where(rng.random(len(of_save)) < 0.125, exact, rng.exponential(2 * DAY, len(of_save)).astype(np.int64))
    time[revisit] = time[of_save] + age
    time = np.minimum(time, end - rng.integers(1, DAY, m))
    action[revisit] = rng.choice(["impression", "grid_click"], len(of_save))
    surface[revisit] = np.where(rng.random(len(of_save)) < 0.95, "own_profile", "homefeed")

    prompt, delayed, late = rng.integers(0, MINUTE, m), rng.integers(0, HOUR, m), rng.integers(HOUR, 3 * DAY, m)
    arrival = time + np.choose(rng.choice(3, m, p=[0.8, 0.15, 0.05]), [prompt, delayed, late])
    records = pd.DataFrame(
        {
            "event_id": rng.integers(LEAST, GREATEST, m, endpoint=True),
            "user_id": _wide_ids(rng, users)[user],
            "pin_id": _wide_ids(rng, pins)[pin],
            "action": action,
            "surface": surface,
            "event_time": time,
            "duration_ms": rng.integers(0, 60_000, m),
            "topic": rng.choice(["", *(f"topic {i}" for i in range(20))], m).astype(object),
            "timestamp": arrival,
            "bad": rng.random(m) < 0.002,
        }
    )
    ahead = np.flatnonzero(rng.random(m) < 0.001)  # at S exactly, 1 ms beyond it, and a day beyond
    records.loc[ahead, "event_time"] = arrival[ahead] + 5 * MINUTE + rng.choice([0, 1, DAY], len(ahead))

    copies = records.iloc[rng.integers(0, m, n_copies)] if m else records
    delay = rng.choice([1, MINUTE, HOUR - MINUTE, HOUR + MINUTE, 3 * DAY, 10 * DAY], len(copies))
    delay = np.minimum(delay, np.maximum(end - copies["timestamp"], 1))
    other_time = copies["event_time"] + np.where(rng.random(len(copies)) < 0.2, delay, 0)
    copies = copies.assign(timestamp=copies["timestamp"] + delay, event_time=other_time)
    return log_of(pd.concat([records, copies]).sort_values("timestamp", kind="stable"), partitions)


def hot_user(n_events: int = 50_000, seed: int = 0, partitions: int = 8) -> pd.DataFrame:
    """One user with all the records, over 20 pins."""
    return random_stream(seed, n_events, partitions, users=1, pins=20, days=30)


def hot_pin(n_users: int = 50_000, seed: int = 0, partitions: int = 8) -> pd.DataFrame:
    """One pin that so many users save and revisit, over 100 days."""
    return random_stream(seed, 4 * n_users, partitions, users=n_users, pins=1)


def _wide_ids(rng: np.random.Generator, n: int) -> np.ndarray:
    """Distinct IDs all over int64, its ends among them."""
    ids = np.unique(np.concatenate([[GREATEST, LEAST, -1, 0][:n], rng.integers(LEAST, GREATEST, n)]).astype(np.int64))
    return rng.permutation(ids)[:n]
