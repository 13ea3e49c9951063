"""The whole stack of a soak: Kafka, Redis and every command of docker-compose.yml, started again whenever one has ended, as the file says."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from redis.exceptions import RedisError

from benchmarks._chaos_kafka import KafkaBroker
from benchmarks._learner_live import publish
from benchmarks._measure import CheckFailedError
from benchmarks._soak_load import get
from benchmarks._soak_memory import Memory, held_by, rows_in
from flows.open_log import open_log
from flows.outputs import ACTIONS, REVISITS
from flows.settings import Settings, load_settings
from online_model.model.config import Encoder, ModelConfig
from online_model.registry.registry import Registry
from tests.online.redis_server import RedisServer
from tests.ops.compose import asked
from tests.ops.stack import Stack
from tests.processes import kill, workers_of

LATENESS_MS, DEDUP_MS = 180_000, 420_000
"""L and H: shorter than by default, so that what a task remembers of the last minutes is level within the soak; longer than any fault."""
_SETTINGS = {"TIDEMARK_ALLOWED_LATENESS_MS": str(LATENESS_MS), "TIDEMARK_DEDUP_HORIZON_MS": str(DEDUP_MS)}
# What happens each hour or so happens several times in a soak.
_OPTIONS = {"checkpoints": {"--every": "60", "--keep": "5"}, "skew": {"--every": "60"}, "archiver": {"--max-delay": "60"}}
_START_S, _PATIENCE_S, _EACH_S = 1_200.0, 600.0, 10.0
_WORKING_SETS = {
    "flows": "tidemark_flow_working_set_bytes",
    "examples": "tidemark_flow_working_set_bytes",
    "audit": "tidemark_working_set_bytes",
    "skew": "tidemark_working_set_bytes",
}
# They say by their exit code too that a round could not be done, which is so while brokers are away. What they have found, their metrics tell.
_FOUND = {"audit": "tidemark_audit_mismatches_total", "skew": "tidemark_skew_findings"}
# How long after its end a service is started again.
_AGAIN_S = 1.0


class Site:
    """See the module.

    Parameters
    ----------
    directory : Path
        Empty.
    say : callable
        Is told what is waited for.
    """

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self._say = say
        self.broker = KafkaBroker(directory / "kafka", long_lived=True)
        self.redis = RedisServer(directory)
        broker = self.broker.settings(Settings(data=directory / "topics-made"))
        self._stack = Stack(directory, str(broker.kafka), self.redis.url, _SETTINGS, _OPTIONS)
        self.settings = load_settings(environment=self._stack.settings)
        self.services = [name for name in self._stack.services if name != "topics"]
        self.memory = {name: Memory() for name in [*self.services, "redis"]}
        self.restarts: Counter[str] = Counter()
        self.ended: list[str] = []
        self._awaited: Counter[str] = Counter()
        self.began = time.monotonic()
        self._room: dict[str, int] = {}
        self._expected: set[str] = set()
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._work, name="restarts", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._watch.is_alive():
            self._watch.join()
        self._stack.end()
        self.redis.stop()
        self.broker.__exit__()

    @property
    def port(self) -> int:
        """Where rankings are served."""
        return self._stack.ports["serving"]

    # Life -------------------------------------------------------------------------------------------------------------------------

    def start(self, seed: int) -> None:
        """Publish a first base, start everything, and wait until all of it is well."""
        registry = Registry.of(self.settings)
        base = publish(registry, ModelConfig(encoder=Encoder.MEAN, seed=seed), self.settings.partitions)
        registry.switch(registry.start_for(base, 0), 0, "soak")
        for name in self.services:
            self._stack.start(name)
        self._watch.start()
        for name in self.services:
            self._say(f"waiting for {name}")
            self.await_healthy(name, _START_S)
        self.began = time.monotonic()

    def healthy(self, name: str) -> bool:
        """What its health check asks."""
        return get(self._stack.ports[name], asked(self._stack.services[name])[1]) is not None

    def await_healthy(self, name: str, seconds: float = _PATIENCE_S) -> None:
        """Wait until a service is well.

        Raises
        ------
        CheckFailedError
            It does not become so.
        """
        self.await_true(lambda: self.healthy(name), f"{name} is healthy (it said: {self._stack.said(name)[-500:]})", seconds)

    def await_true(self, condition: Callable[[], bool], what: str, seconds: float = _PATIENCE_S, each_s: float = 0.1) -> float:
        """Wait until something holds; returns how long it took.

        Raises
        ------
        CheckFailedError
            It does not come to hold.
        """
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > seconds:
                raise CheckFailedError(f"waited {seconds:.0f} s in vain until {what}")
            time.sleep(each_s)
        return time.monotonic() - began

    def kill(self, name: str, worker: int | None = None, room: int = 0) -> None:
        """SIGKILL to a service with all that it has started, or to one worker of it; it is started again as after any end.

        Parameters
        ----------
        worker : int, optional
            Which of its workers (modulo their number).
        room : int
            In its next life files of its may grow to so many bytes only; 0 for no limit.
        """
        with self._lock:
            process = self._stack.running[name]
            self._expected.add(name)
            if room:
                self._room[name] = room
            workers = workers_of(process)
            struck = [*workers, process.pid] if worker is None or not workers else [sorted(workers)[worker % len(workers)]]
            for one in struck:
                kill(one)

    def await_restarted(self, name: str, lives: int = 1) -> None:
        """Wait until a service that was killed has been started so many times more than when this was last asked, and is well."""
        wanted = self._awaited[name] = self._awaited[name] + lives
        self.await_true(lambda: self.restarts[name] >= wanted, f"{name} is started again")
        self.await_healthy(name)
        # Those that it has had besides, by themselves, are told as what they are, in `ended`.
        self._awaited[name] = self.restarts[name]

    def found(self) -> dict[str, float]:
        """What the audit and the skew check have found in their lives of now."""
        return {name: self.total(name, metric) or 0.0 for name, metric in _FOUND.items()}

    def stop(self, names: list[str]) -> None:
        """Ask services to end, as an operator does; each has to end with 0."""
        with self._lock:
            for name in names:
                self.services.remove(name)
            for name in names:
                code = self._stack.stop(name)
                if code and not (code == 1 and name in _FOUND):
                    self.ended.append(f"{name} ended with {code} when it was asked to stop: {self._stack.said(name)[-300:]}")

    def stop_watching(self) -> None:
        """Start nothing again from now on, and measure nothing."""
        self._stopping.set()
        self._watch.join()

    def _work(self) -> None:
        """Start again what has ended, and look at memory now and then."""
        due: dict[str, float] = {}
        looked = 0.0
        while not self._stopping.wait(0.1):
            with self._lock:
                now = time.monotonic()
                for name in self.services:
                    process = self._stack.running[name]
                    if process.poll() is None:
                        continue
                    if name not in due:
                        due[name] = now + _AGAIN_S
                        if name in self._expected:
                            self._expected.discard(name)
                        elif name not in self._room:
                            self.ended.append(f"{name} ended with {process.returncode}: {self._stack.said(name)[-300:]}")
                    elif now >= due[name]:
                        del due[name]
                        self._room_once(name)
                        self.restarts[name] += 1
                        self.memory[name].begin()
                if now - looked >= _EACH_S:
                    looked = now
                    self._look(now)

    def _room_once(self, name: str) -> None:
        room = self._room.get(name, 0)
        self._stack.start(name, max(room, 0))
        if room > 0:
            # The life after this one has all the room there is; that this one ends is what is wanted.
            self._room[name] = -1
        else:
            self._room.pop(name, None)

    def _look(self, now: float) -> None:
        for name in self.services:
            process = self._stack.running[name]
            if process.poll() is not None:
                continue
            working_sets = 0
            if name in _WORKING_SETS:
                # One that doesn't answer is just starting, or in trouble: memory alone would say nothing then.
                told = self.total(name, _WORKING_SETS[name])
                if told is None:
                    continue
                working_sets = int(told)
            self.memory[name].add(now - self.began, held_by([process.pid]), working_sets)
        if self.redis._process is not None:
            with suppress(RedisError), Redis.from_url(self.redis.url) as client:
                self.memory["redis"].add(now - self.began, held_by([self.redis._process.pid]), rows_in(client.info("memory")))

    # How far it is ----------------------------------------------------------------------------------------------------------------

    def metrics(self, name: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """What a service tells Prometheus: (name, labels) to value; nothing while it doesn't answer."""
        said = get(self._stack.ports[name], "/metrics")
        if said is None:
            return {}
        families = text_string_to_metric_families(said)
        return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}

    def total(self, name: str, metric: str, **labels: str) -> float | None:
        """A metric of a service, summed over labels that are not given; None while there is none."""
        found = [
            value
            for (told, has), value in self.metrics(name).items()
            if told == metric and all(dict(has).get(label) == wanted for label, wanted in labels.items())
        ]
        return sum(found) if found else None

    def await_applied(self, what: str) -> float:
        """Wait until all that is in ACTIONS by now is in features, in Redis, and joined; returns how long it took."""
        with open_log(self.settings, ACTIONS, read_only=True) as log:
            end = sum(log.end_positions())

        def applied() -> bool:
            standing = (("flows", "tidemark_flow_position"), ("online", "tidemark_online_position"))
            if any((self.total(name, metric, flow=ACTIONS) or 0) < end for name, metric in standing):
                return False
            return (self.total("examples", "tidemark_flow_position") or 0) >= end

        # Each look has three services read all their states.
        return self.await_true(applied, what, each_s=1.0)

    def settled(self) -> bool:
        """Whether the flows have nothing before them, and Redis has what they have; of a stack that nobody writes to."""
        # The join may have: a heartbeat of SERVED says how far it may go, and is passed with the next action.
        if self.total("flows", "tidemark_flow_lag_records") != 0:
            return False
        if "online" not in self.services:
            return True
        standing = [self.total("flows", "tidemark_flow_position", flow=flow) for flow in (ACTIONS, REVISITS)]
        online = [self.total("online", "tidemark_online_position", flow=flow) for flow in (ACTIONS, REVISITS)]
        return all(here is not None and there is not None and there >= here for here, there in zip(standing, online, strict=True))
