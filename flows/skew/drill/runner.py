"""The drill: sound and mistaken systems serve the same requests, each into a SERVED log of its own, and the check reads every one of these logs.

Rows that a mistaken system answered as the sound one did bear no mistake; all others are seeded, and each must be found and named. A
finding in the sound system's log is a false alarm, however it is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.log import LocalLog
from flows.outputs import SERVED
from flows.positions import Positions
from flows.served_rows import Served, batches_of
from flows.settings import HOUR_MS, Settings
from flows.skew.check import Checked, check
from flows.skew.drill import stream as streams
from flows.skew.drill.mistakes import KINDS, TIMED_OUT, Kind
from flows.skew.drill.records import differing, records_of
from flows.skew.drill.systems import Answers, System, Wanted, answer, beside
from flows.vocabulary import OWN_PROFILE

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


def drill(
    settings: Settings, rows: int, seed: int, scratch: Path, told: Callable[[str, int, int], None] = lambda what, done, total: None
) -> Drilled:
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
            name: stack.enter_context(_served_log(scratch / "served" / name, own.partitions))
            for name in ("sound", *(k.name for k in KINDS))
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
        stream: list[pa.Table],
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
        self._topics = sorted({name for table in stream for name in pc.unique(table.column("topic").cast(pa.string())).to_pylist() if name})

    def stage(self, stage: int) -> None:
        """One stretch of the stream, and requests while pins are behind and when they are not."""
        # Wherever a stretch ends, but the same for all.
        cuts = [
            int(end * stage / _STAGES) if stage == _STAGES else int(end * (stage - self._rng.random() / 2) / _STAGES) for end in self._ends
        ]
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
            self._log("sound", records_of(sound.fingerprint, wanted, right, positions, self._timestamp, first))
            for kind in KINDS if left > 0 else ():
                self._mistaken(kind, wanted, right, positions, first)
            left -= size
            self.served += size
            self._told("serve", self.served, self._requests)

    def _mistaken(self, kind: Kind, wanted: Wanted, right: Answers, positions: bytes, first: int) -> None:
        """Some of the requests answered by a system that makes a mistake, the others by a sound one."""
        system, sound_mark = self._systems[kind.system], self._systems["sound"].fingerprint
        wrong = kind.answer(system, wanted)
        by_it = self._rng.random(len(wanted.users)) < 0.5
        sound = records_of(sound_mark, wanted, right, positions, self._timestamp, first)
        other = records_of(system.fingerprint, wanted, wrong, positions, self._timestamp, first, defaulted=kind.name == TIMED_OUT)
        self._log(kind.name, [b if chosen else a for a, b, chosen in zip(sound, other, by_it, strict=True)])
        every = system.fingerprint != sound_mark or kind.name == TIMED_OUT
        self.seeded[kind.name] += ROWS_OF_REQUEST * int(by_it.sum()) if every else differing(right, wrong, by_it)

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

    def _log(self, name: str, rows: list[Served]) -> None:
        log = self._logs[name]
        log.append(batches_of(rows, log.partitions, _APPEND_BYTES))


def _parts(size: int, most: int) -> list[int]:
    """A number in about equal parts."""
    return [size * (i + 1) // most - size * i // most for i in range(most)]


def _own_profile(table: pa.Table) -> np.ndarray:
    """Pins that somebody came back to, one for each time."""
    surface = pc.fill_null(table.column("surface").cast(pa.string()), "")
    return np.asarray(pc.drop_null(table.filter(pc.equal(surface, OWN_PROFILE)).column("pin_id")).to_numpy())
