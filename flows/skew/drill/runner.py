"""The drill: sound and mistaken systems serve the same requests, each into a SERVED log of its own, and the check reads every one of these logs.

Rows that a mistaken system answered as the sound one did bear no mistake; all others are seeded, and each must be found and named. A finding in the sound
system's log is a false alarm, however it is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from flows.answers import SequenceRows
from flows.features import SEQUENCE_FIELDS
from flows.log import LocalLog
from flows.outputs import SERVED
from flows.partition import partition_of
from flows.positions import Positions
from flows.served import Status
from flows.served_rows import Served, batches_of
from flows.settings import HOUR_MS, Settings
from flows.skew.check import Checked, check
from flows.skew.drill import stream as streams
from flows.skew.drill.mistakes import KINDS, TIMED_OUT, Kind
from flows.skew.drill.systems import Answers, System, Wanted, answer, beside
from flows.skew.names import PIN, SEQUENCE, TOPIC, USER

PARTITIONS = 4
PINS = 7
ROWS_OF_REQUEST = 3 + PINS
"""A user's sequence, a user's counters, a topic, and pins."""
_STAGES = 8
# Of each log of a mistaken system.
_MOST_REQUESTS = 4_000
_AT_ONCE = 2_000
_APPEND_BYTES = 32 << 20
# How long before the newest event a request asks: mostly not at all.
_BACK_MS = (0, 0, 0, 20 * 60_000, 30 * HOUR_MS)


@dataclass(frozen=True)
class Row:
    """What became of a mistake.

    Attributes
    ----------
    kind : str
    what : str
        What the system did wrong.
    seeded, found : int
        Entity rows that it served otherwise than a sound one, and those that the check put aside or found to differ.
    named_as : dict of str to int
        Causes that these were put down to.
    wanted : str
        The cause that it should be.
    """

    kind: str
    what: str
    seeded: int
    found: int
    named_as: dict[str, int]
    wanted: str

    @property
    def missed(self) -> bool:
        """Whether anything was not found, or got another name."""
        return self.seeded == 0 or self.named_as != {self.wanted: self.seeded} or self.found != self.seeded


@dataclass(frozen=True)
class Drilled:
    """The outcome.

    Attributes
    ----------
    events, requests : int
    clean : Checked
        Of the sound system's log.
    rows : tuple of Row
    """

    events: int
    requests: int
    clean: Checked
    rows: tuple[Row, ...]

    @property
    def missed(self) -> list[str]:
        """Kinds that were not found, or not named right, in every row."""
        return [row.kind for row in self.rows if row.missed]

    @property
    def false_alarms(self) -> int:
        """Rows of the sound system that the check put aside or found to differ."""
        return self.clean.differing + self.clean.apart


def drill(settings: Settings, rows: int, seed: int, scratch: Path, told: Callable[[str, int, int], None] = lambda what, done, total: None) -> Drilled:
    """Simulate, serve, check.

    Parameters
    ----------
    settings : Settings
        Of time; all data lie in `scratch`.
    rows : int
        Entity rows that the sound system serves, about.
    scratch : Path
        An empty directory.
    told : callable
        Called with what is being done, how far it is, and of how much.
    """
    requests = max(_STAGES, -(-rows // ROWS_OF_REQUEST))
    events = int(np.clip(rows, 20_000, 200_000))
    own = replace(settings, data=scratch / "sound", partitions=PARTITIONS, archive=None, kafka=None, kafka_options=None, vocabulary=None)
    told("simulate", 0, 1)
    stream = streams.simulated(own, events, seed, scratch / "events")
    what = streams.decided(own, stream)
    rng = np.random.default_rng(seed)
    fed = {
        "sound": (own, stream),
        "without_late": (beside(own, "without_late"), streams.without_late(stream, what)),
        "with_duplicates": (beside(own, "with_duplicates"), streams.with_duplicates(stream, what)),
        "without_some": (beside(own, "without_some"), streams.without_some(stream, what, rng)),
        "other_settings": (beside(own, "other_settings", allowed_lateness_ms=2 * own.allowed_lateness_ms + HOUR_MS), stream),
    }
    told("simulate", 1, 1)
    with ExitStack() as stack:
        systems = {name: stack.enter_context(System(where, taken)) for name, (where, taken) in fed.items()}
        logs = {
            name: stack.enter_context(_served_log(scratch / "served" / name, own.partitions)) for name in ("sound", *(k.name for k in KINDS))
        }
        serving = _Serving(systems, logs, stream, rng, requests, told)
        for stage in range(1, _STAGES + 1):
            serving.stage(stage)
        out = []
        told("check", 0, 1 + len(KINDS))
        clean = check(own, logs["sound"])
        for i, kind in enumerate(KINDS, 1):
            told("check", i, 1 + len(KINDS))
            out.append(_row(kind, serving.seeded[kind.name], check(own, logs[kind.name])))
        told("check", 1 + len(KINDS), 1 + len(KINDS))
    return Drilled(sum(map(len, stream)), serving.served, clean, tuple(out))


def _served_log(directory: Path, partitions: int) -> LocalLog:
    directory.mkdir(parents=True)
    return LocalLog.open(directory, SERVED, partitions, create=True)


def _row(kind: Kind, seeded: int, checked: Checked) -> Row:
    named = {found.cause.name: found.total for found in checked.causes}
    return Row(kind.name, kind.what, seeded, checked.differing + checked.apart, named, kind.cause)


class _Serving:
    """Runs all systems forward together, and has each answer the same requests."""

    def __init__(
        self,
        systems: dict[str, System],
        logs: dict[str, LocalLog],
        stream: list,
        rng: np.random.Generator,
        requests: int,
        told: Callable[[str, int, int], None],
    ) -> None:
        self._systems = systems
        self._logs = logs
        self._stream = stream
        self._rng = rng
        self._requests = requests
        self._told = told
        self._ends = [len(table) for table in stream]
        self._timestamp = 0
        self.served = 0
        self.seeded: Counter[str] = Counter({kind.name: 0 for kind in KINDS})
        self._topics = sorted({name for table in stream for name in pc.unique(table.column("topic").cast("string")).to_pylist() if name})

    def stage(self, stage: int) -> None:
        """One stretch of the stream, and requests while pins are behind and when they are not."""
        # Wherever a stretch ends, but the same for all.
        cuts = [int(end * stage / _STAGES) if stage == _STAGES else int(end * (stage - self._rng.random() / 2) / _STAGES) for end in self._ends]
        for system in self._systems.values():
            system.arrive(cuts)
            system.act()
        self._told("serve", self.served, self._requests)
        sound = self._systems["sound"]
        sound.revisit(share=0.5)
        half = self._requests * stage // _STAGES - self.served
        self._serve(half // 4, cuts, None)
        for system in self._systems.values():
            system.revisit()
        self._serve(half - half // 4, cuts, -(-_MOST_REQUESTS // _STAGES))

    def _serve(self, requests: int, cuts: list[int], mistaken: int | None) -> None:
        """Serve so many requests; by the mistaken systems up to so many of them, by none of these without."""
        sound = self._systems["sound"]
        reader = sound.read()
        newest = reader.default_as_of()
        if newest is None:
            return
        positions = Positions.of(reader).to_bytes()
        self._timestamp = max(self._timestamp, newest) + 1
        left = mistaken or 0
        sizes = [_AT_ONCE] * (requests // _AT_ONCE) + [requests % _AT_ONCE]
        for size in (part for whole in sizes for part in _parts(whole, 3) if part):
            wanted = self._wanted(size, newest - int(self._rng.choice(_BACK_MS)), cuts)
            right = answer(reader, wanted)
            first = self.served
            self._log("sound", self._rows(sound, wanted, right, positions, first, right))
            for kind in KINDS if left > 0 else ():
                self._mistaken(kind, wanted, right, positions, first)
            left -= size
            self.served += size
            self._told("serve", self.served, self._requests)

    def _mistaken(self, kind: Kind, wanted: Wanted, right: Answers, positions: bytes, first: int) -> None:
        """Some of the requests answered by a system that makes a mistake, the others by a sound one."""
        system = self._systems[kind.system]
        wrong = kind.answer(system, wanted)
        by_it = self._rng.random(len(wanted.users)) < 0.5
        sound = self._rows(self._systems["sound"], wanted, right, positions, first, right)
        other = self._rows(system, wanted, wrong, positions, first, wrong, defaulted=kind.name == TIMED_OUT)
        self._log(kind.name, [b if chosen else a for a, b, chosen in zip(sound, other, by_it, strict=True)])
        every = system.fingerprint != self._systems["sound"].fingerprint or kind.name == TIMED_OUT
        self.seeded[kind.name] += ROWS_OF_REQUEST * int(by_it.sum()) if every else _differing(right, wrong, by_it)

    def _wanted(self, requests: int, as_of: int, cuts: list[int]) -> Wanted:
        """Entities that the stream has so far, each as often as it occurs; now and then one that it has not."""
        rng = self._rng
        parts = [self._stream[p].slice(0, cuts[p]) for p in range(len(cuts)) if cuts[p]]
        users, pins = (np.concatenate([pc.drop_null(part.column(name)).to_numpy() for part in parts]) for name in ("user_id", "pin_id"))
        own = np.concatenate([_own_profile(part) for part in parts])
        revisited = own if len(own) else pins
        asked = np.where(rng.random((requests, PINS)) < 0.7, rng.choice(revisited, (requests, PINS)), rng.choice(pins, (requests, PINS)))
        asked[rng.random((requests, PINS)) < 0.02] = 1
        who = rng.choice(users, requests)
        who[rng.random(requests) < 0.02] = 1
        topics = [self._topics[i] for i in rng.integers(0, len(self._topics), requests)]
        return Wanted(as_of, who, asked, topics)

    def _rows(
        self, system: System, wanted: Wanted, given: Answers, positions: bytes, first: int, right: Answers, defaulted: bool = False
    ) -> list[Served]:
        """What a system logs of its answers: each at the prefix that it means to reflect."""
        del right
        at = given.sequences.offsets

        def status(found: np.ndarray) -> np.ndarray:
            return np.where(defaulted, Status.DEFAULTED, np.where(found, Status.FOUND, Status.NOT_FOUND)).astype(np.int8)

        users, pins, topics = status(given.user_found), status(given.pin_found), status(given.topic_found)
        return [
            Served(
                timestamp=self._timestamp,
                request_id=f"drill-{first + i}",
                surface="homefeed",
                fingerprint=system.fingerprint,
                as_of=wanted.as_of,
                positions=positions,
                user_id=wanted.users[i : i + 1],
                user_status=users[i : i + 1],
                sequences=SequenceRows(
                    np.array([0, at[i + 1] - at[i]], np.int64),
                    *(getattr(given.sequences, field)[at[i] : at[i + 1]] for field in SEQUENCE_FIELDS),
                    given.sequences.found[i : i + 1],
                    wanted.as_of,
                ),
                user_counters=given.user_counters[i : i + 1],
                pin_id=wanted.pins[i],
                pin_status=pins[i],
                pin_counters=given.pin_counters[i],
                topic=(wanted.topics[i],),
                topic_status=topics[i : i + 1],
                topic_stats=given.topic_stats[i : i + 1],
            )
            for i in range(len(wanted.users))
        ]

    def _log(self, name: str, rows: list[Served]) -> None:
        log = self._logs[name]
        log.append(batches_of(rows, log.partitions, _APPEND_BYTES))


def _parts(size: int, most: int) -> list[int]:
    """A number in about equal parts."""
    return [size * (i + 1) // most - size * i // most for i in range(most)]


def _own_profile(table: object) -> np.ndarray:
    surface = pc.fill_null(table.column("surface").cast("string"), "")  # type: ignore[attr-defined]
    return pc.drop_null(table.filter(pc.equal(surface, "own_profile")).column("pin_id")).to_numpy()  # type: ignore[attr-defined,no-any-return]


def _differing(right: Answers, wrong: Answers, chosen: np.ndarray) -> int:
    """Entity rows of some requests that differ: by their bits, or in whether there is anything."""
    a, b = right.sequences, wrong.sequences
    same = np.array(
        [
            all(np.array_equal(getattr(a, f)[a.offsets[i] : a.offsets[i + 1]], getattr(b, f)[b.offsets[i] : b.offsets[i + 1]]) for f in SEQUENCE_FIELDS)
            for i in range(len(chosen))
        ]
    )
    users = (right.user_counters != wrong.user_counters).any(axis=1) | (right.user_found != wrong.user_found)
    pins = (right.pin_counters != wrong.pin_counters).any(axis=2) | (right.pin_found != wrong.pin_found)
    topics = (right.topic_stats.view(np.int64) != wrong.topic_stats.view(np.int64)).any(axis=1) | (right.topic_found != wrong.topic_found)
    return int((~same & chosen).sum() + (users & chosen).sum() + pins[chosen].sum() + (topics & chosen).sum())
