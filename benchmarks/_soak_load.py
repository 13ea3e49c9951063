"""Who writes and who asks during a soak: a producer of actions, a client that has pins ranked and acts on them, and one that looks for events.

Each is a thread that goes on whatever fails. Requests have a time when they are due, and their latency counts from then, so that a server that
stands still is not asked less for it.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks._soak_events import (
    CLICK,
    CLOSEUP,
    HOMEFEED,
    IMPRESSION,
    PINS,
    RANKED_IDS,
    SAVE,
    USERS,
    Events,
    Sent,
    late,
    malformed,
    raw,
    stream,
)
from flows.errors import TidemarkError
from flows.ingest.producer import split
from flows.log import Log
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.settings import Settings
from tests.oracles.partition import partition_of

_TICK_S, _MOST = 0.05, 65_536
_TIMEOUT_S = 10.0
_KEPT = 64
PROBES = 1 << 40
"""From here on lie the users of probes, each of one event."""


class Producer(threading.Thread):
    """Appends the stream as it comes into being, and what others hand to it. What a broker refuses it sends again, as producers do.

    Parameters
    ----------
    settings : Settings
    rate : float
        Events of the stream a second; may be set anew at any time.
    """

    def __init__(self, settings: Settings, rate: float) -> None:
        super().__init__(name="producer", daemon=True)
        self.sent = Sent()
        self.retries = 0
        self.behind_ms = 0
        self.trouble: BaseException | None = None
        self._settings, self._rate, self._next, self._late, self._bad = settings, rate, 0, 0, 0
        self._handed: deque[tuple[Events, str]] = deque()
        self._asked: deque[Callable[[], list[tuple[int, Any]]]] = deque()
        self._last: deque[Events] = deque(maxlen=_KEPT)
        self._owner: dict[int, int] = {}
        self._ended = threading.Event()

    # Asked by others --------------------------------------------------------------------------------------------------------------

    def hand(self, events: Events, request: str) -> None:
        """Have events of a request appended, as JSON."""
        self._handed.append((events, request))

    def set_rate(self, rate: float) -> None:
        """Go on with so many events a second."""
        self._rate = rate

    def double(self) -> None:
        """Send some of what was just sent once more."""
        self._asked.append(self._doubled)

    def send_late(self, number: int, by_ms: int) -> None:
        """Send so many events that are so old."""
        self._asked.append(lambda: self._of_late(number, by_ms))

    def send_malformed(self, number: int) -> None:
        """Send so many records that are no events."""
        self._asked.append(lambda: self._of_bad(number))

    def end(self) -> None:
        """End it, with all appended that was handed over."""
        self._ended.set()
        self.join()
        if self.trouble is not None:
            raise self.trouble

    # In the thread ----------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Append until ended."""
        try:
            with open_log(self._settings, ACTIONS) as log:
                log.expect_appends()
                owed, looked = 0.0, time.monotonic()
                while not self._ended.wait(_TICK_S) or self._handed or self._asked:
                    now = time.monotonic()
                    owed, looked = owed + (now - looked) * self._rate, now
                    number = min(int(owed), _MOST)
                    owed -= number
                    batches = self._of_stream(number) if number else []
                    batches += self._of_handed()
                    before = self.sent.malformed
                    while self._asked:
                        batches += self._asked.popleft()()
                    if batches:
                        self._append(log, batches, self.sent.malformed - before)
        except BaseException as error:
            self.trouble = error

    def _append(self, log: Log, batches: list[tuple[int, Any]], bad: int = 0) -> None:
        while True:
            try:
                log.append(batches)
                return
            except TidemarkError:
                # Some of it may have been appended: then it is there twice, which is for the flows to find.
                self.retries += 1
                self.sent.malformed_again += bad
                time.sleep(0.5)

    def _of_stream(self, number: int) -> list[tuple[int, Any]]:
        index = np.arange(self._next, self._next + number)
        self._next += number
        events = stream(index, np.full(number, _ms() - self.behind_ms))
        self._last.append(events)
        self.sent.add(events)
        return self._typed(events)

    def _of_handed(self) -> list[tuple[int, Any]]:
        values: dict[int, list[bytes]] = {}
        while self._handed:
            events, request = self._handed.popleft()
            self.sent.add(events)
            for user, value in zip(events.user_id.tolist(), events.json([request] * len(events)), strict=True):
                values.setdefault(self._partition(user), []).append(value)
        return [(partition, raw(some, _ms())) for partition, some in sorted(values.items())]

    def _doubled(self) -> list[tuple[int, Any]]:
        again = list(self._last)
        self.sent.doubled += sum(map(len, again))
        return [batch for events in again for batch in self._typed(events)]

    def _of_late(self, number: int, by_ms: int) -> list[tuple[int, Any]]:
        index = np.arange(self._late, self._late + number)
        self._late += number
        events = late(index, np.full(number, _ms() - by_ms))
        self.sent.add(events)
        self.sent.late += number
        return self._typed(events)

    def _of_bad(self, number: int) -> list[tuple[int, Any]]:
        values: dict[int, list[bytes]] = {}
        for i in range(self._bad, self._bad + number):
            values.setdefault(self._partition(i), []).append(malformed(i, i, _ms()))
        self._bad += number
        self.sent.malformed += number
        return [(partition, raw(some, _ms())) for partition, some in sorted(values.items())]

    def _typed(self, events: Events) -> list[tuple[int, Any]]:
        return list(split(events.batch(_ms()), self._settings.partitions))

    def _partition(self, user: int) -> int:
        if user not in self._owner:
            self._owner[user] = partition_of(user, self._settings.partitions)
        return self._owner[user]


@dataclass
class Asked:
    """Requests of one kind.

    Attributes
    ----------
    due, took : list of float
        Of each that was answered with 200: when it was due (monotonic), and how long after that its answer was there, seconds.
    failed : list of float
        When those were due that got no answer, or another.
    """

    due: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)


class Client:
    """A connection to a server, made anew where it is lost."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def post(self, path: str, said: Any) -> Any:
        """What is answered; None if nothing is, or not with 200."""
        try:
            self._connection.request("POST", path, json.dumps(said), {"content-type": "application/json"})
            answer = self._connection.getresponse()
            body = answer.read()
            if answer.status == 200:
                return json.loads(body)
        except (OSError, http.client.HTTPException, ValueError):
            self._connection.close()
        return None


class Visitors(threading.Thread):
    """Have pins ranked, so many times a second, and act on what they are shown.

    Parameters
    ----------
    producer : Producer
    port : int
        Of the server, on loopback.
    rate : float
        Requests a second.
    seed : int
    """

    def __init__(self, producer: Producer, port: int, rate: float, seed: int) -> None:
        super().__init__(name="visitors", daemon=True)
        self.asked = Asked()
        self.shown: dict[str, int] = {}
        self._producer, self._client, self._rate = producer, Client("127.0.0.1", port), rate
        self._random = np.random.default_rng(seed)
        self._ids = RANKED_IDS
        self._ended = threading.Event()

    def end(self) -> None:
        """End it."""
        self._ended.set()
        self.join()
        self._client.close()

    def run(self) -> None:
        """Ask until ended."""
        due, number = time.monotonic(), 0
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            user, request = int(self._random.integers(USERS)), f"soak-{number}"
            pins = self._random.choice(PINS, 20, replace=False).tolist()
            said = {"user": user, "surface": "homefeed", "candidates": pins, "k": 10, "request_id": request}
            answer = self._client.post("/v1/rank", said)
            # Whoever begins to count anew puts another in its place.
            asked = self.asked
            if answer is None:
                asked.failed.append(due)
            else:
                asked.due.append(due)
                asked.took.append(time.monotonic() - due)
                self._act(user, request, answer["pins"]["pin_id"])
            due, number = due + 1 / self._rate, number + 1

    def _act(self, user: int, request: str, pins: Sequence[int]) -> None:
        shown = np.array(pins, np.int64)
        drawn = self._random.random(len(shown))
        acted = [shown[drawn < 0.2], shown[drawn < 0.05]]
        pin = np.concatenate([shown, *acted])
        action = np.repeat([IMPRESSION, CLICK, SAVE], [len(shown), *map(len, acted)])
        n, now = len(pin), _ms()
        time_ = now + action  # what is done is done after it was seen
        self._producer.hand(Events(self._ids + np.arange(n), np.full(n, user), pin, action, np.full(n, HOMEFEED), time_), request)
        self._ids += n
        self.shown[request] = len(shown)


class Probes(threading.Thread):
    """Have one event appended now and then, and look for it in what is served, all that were not seen yet in one request.

    Parameters
    ----------
    producer : Producer
    port : int
    each_s : float
    """

    def __init__(self, producer: Producer, port: int, each_s: float) -> None:
        super().__init__(name="probes", daemon=True)
        self.asked = Asked()
        self.waiting: dict[int, float] = {}
        self._producer, self._client, self._each_s = producer, Client("127.0.0.1", port), each_s
        self._number = 0
        self._ended = threading.Event()

    def end(self, patience_s: float) -> None:
        """Make no more, and wait until all were seen, or so long; `waiting` has those that were not."""
        self._ended.set()
        self.join(patience_s)
        self._client.close()

    def run(self) -> None:
        """Look until ended."""
        due = time.monotonic()
        while not self._ended.is_set() or self.waiting:
            now = time.monotonic()
            if now >= due and not self._ended.is_set():
                user = PROBES + self._number
                ids = np.array([RANKED_IDS + PROBES + self._number])
                one = Events(
                    ids, np.array([user]), np.array([self._number % PINS]), np.array([CLOSEUP]), np.array([HOMEFEED]), np.array([_ms()])
                )
                self.waiting[user] = now
                self._producer.hand(one, "")
                self._number, due = self._number + 1, now + self._each_s
            if self.waiting:
                self._look(list(self.waiting)[:500])
            time.sleep(_TICK_S)

    def _look(self, users: list[int]) -> None:
        answer = self._client.post("/v1/features", {"users": users})
        if answer is None:
            return
        at, asked = time.monotonic(), self.asked
        offsets = answer["users"]["sequence"]["offsets"]
        for user, low, high in zip(users, offsets[:-1], offsets[1:], strict=True):
            if high > low:
                begun = self.waiting.pop(user)
                asked.due.append(begun)
                asked.took.append(at - begun)


def get(port: int, path: str) -> str | None:
    """The text that a GET is answered with; None if nobody does."""
    with suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
            return body if answer.status == 200 else None
        finally:
            connection.close()
    return None


def _ms() -> int:
    return time.time_ns() // 1_000_000
