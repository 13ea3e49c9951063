"""Faults that are induced in the running stack, and the alerts that a real Prometheus raises for them and takes back: `make stack-test`.

Rules are the deployed ones with all durations cut short, and what takes minutes or masses to come about with a lower bound; what they ask, and of
whom, is as it is deployed. That each fires at its own bounds is what test_alerts.py shows, with series of promtool's.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from benchmarks._learner_live import publish
from flows.outputs import ACTIONS
from flows.run.warm_up import warm_up
from flows.settings import Settings, load_settings
from flows.state.task import task_path
from online_model.model.config import ModelConfig
from online_model.registry.registry import Registry
from tests.kafka.broker import Broker
from tests.online.redis_server import RedisServer
from tests.ops.queries import ALERTS
from tests.ops.stack import Prometheus, Stack, await_within
from tests.processes import workers_of

SERVICES = ("flows", "online", "checkpoints", "archiver", "serving")
PATIENCE_S = 300.0
# Bounds that a test would take too long to reach.
BOUNDS = {
    "TidemarkFlowBehind": ("> 500000", "> 5"),
    "TidemarkFeaturesStale": ("> 60", "> 5"),
    "TidemarkOnlineOld": ("> 60", "> 5"),
}
OPTIONS = {"checkpoints": {"--every": "1"}, "archiver": {"--max-delay": "1"}}
LATE_MS = 2 * 3_600_000


def hurried() -> str:
    """The rules, with every duration cut short."""
    rules = yaml.safe_load(ALERTS.read_text("utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            bound, lower = BOUNDS.get(rule["alert"], ("", ""))
            assert bound in rule["expr"], rule["alert"]
            rule["expr"] = re.sub(r"\[\w+\]", "[30s]", rule["expr"].replace(bound, lower) if bound else rule["expr"])
            rule["for"] = "1s"
    return yaml.safe_dump(rules)


class Site:
    """The stack with those of its parts that the faults are about, and somebody who acts and asks all the time."""

    def __init__(self, directory: Path, stack: Stack, broker: Broker, redis: RedisServer) -> None:
        self.directory, self.stack, self.broker, self.redis = directory, stack, broker, redis
        self.settings: Settings = load_settings(environment=stack.settings)
        self.path = "/v1/features/user/7"
        self.body: bytes | None = None
        self._number = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="asking")

    def ingest(self, lines: int, **other: object) -> None:
        """Append so many closeups of now, or of what is said otherwise."""
        now = int(time.time() * 1000)
        rows = []
        for i in range(self._number, self._number + lines):
            row = {"event_id": i, "user_id": i % 97, "pin_id": i % 101, "action": "closeup", "surface": "homefeed", "event_time": now}
            rows.append(json.dumps(row | other))
        self._number += lines
        file = self.directory / f"events-{self._number}.jsonl"
        file.write_text("\n".join(rows) + "\n")
        self.stack.call("ingest", "--arrival", "now", file)

    def _ask(self) -> None:
        while not self._ended.wait(0.2):
            with contextlib.suppress(OSError, http.client.HTTPException):
                request = urllib.request.Request(self.stack.url("serving") + self.path, self.body)
                urllib.request.urlopen(request, timeout=30).read()

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def standing_still(self, name: str) -> Iterator[None]:
        """The workers of a service stand still; the service itself goes on."""
        workers = workers_of(self.stack.running[name])
        assert workers
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            for worker in workers:
                os.kill(worker, signal.SIGCONT)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    warm_up(lambda _: None)
    with ExitStack() as ends:
        broker = Broker(tmp_path / "kafka")
        ends.callback(broker.stop)
        redis = RedisServer(tmp_path)
        ends.callback(redis.stop)
        stack = Stack(tmp_path, broker.servers, redis.url, options=OPTIONS)
        ends.callback(stack.end)
        made = Site(tmp_path, stack, broker, redis)
        stack.call(*stack.command(stack.services["topics"]))
        made.ingest(500)
        for name in SERVICES:
            stack.start(name)
        for name in SERVICES:
            await_within(lambda name=name: stack.healthy(name), 1_200.0, f"{name} is healthy")  # type: ignore[misc]
        yield ends.enter_context(made)


@dataclass(frozen=True)
class Fault:
    """What is done, which alerts it raises, and how it is put right."""

    alerts: tuple[str, ...]
    induced: Callable[[Site], contextlib.AbstractContextManager[None]]
    # Raised only once it is put right: what had waited tells of itself then.
    after: tuple[str, ...] = ()


@contextmanager
def serving_is_killed(site: Site) -> Iterator[None]:
    site.stack.stop("serving", signal.SIGKILL)
    yield
    site.stack.start("serving")
    await_within(lambda: site.stack.healthy("serving"), PATIENCE_S, "serving is back")


@contextmanager
def flows_stand_still(site: Site) -> Iterator[None]:
    with site.standing_still("flows"):
        site.ingest(1_000)
        time.sleep(6)
        yield


@contextmanager
def records_are_malformed(site: Site) -> Iterator[None]:
    site.ingest(100)
    site.ingest(100, action="sneeze")
    yield


@contextmanager
def events_are_late(site: Site) -> Iterator[None]:
    site.ingest(100)
    site.ingest(100, event_time=int(time.time() * 1000) - LATE_MS)
    yield


@contextmanager
def redis_is_away(site: Site) -> Iterator[None]:
    site.redis.stop()
    yield
    site.redis.start()


@contextmanager
def redis_does_not_answer(site: Site) -> Iterator[None]:
    site.redis.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        site.redis.signal(signal.SIGCONT)


@contextmanager
def the_archiver_stands_still(site: Site) -> Iterator[None]:
    with site.standing_still("archiver"):
        site.ingest(300)
        yield


@contextmanager
def checkpoints_have_no_place(site: Site) -> Iterator[None]:
    place, aside = Path(site.settings.checkpoint_place), site.directory / "aside"
    await_within(place.is_dir, PATIENCE_S, "there are checkpoints")
    place.rename(aside)
    place.write_text("no directory")
    site.ingest(300)
    yield
    place.unlink()
    aside.rename(place)


@contextmanager
def kafka_is_away(site: Site) -> Iterator[None]:
    site.broker.stop(kill=True)
    yield
    site.broker.start()


@contextmanager
def a_task_is_damaged(site: Site) -> Iterator[None]:
    assert site.stack.stop("flows") == 0
    # What names all other files. There may be no table yet: what was written lately is in RocksDB's log alone.
    for manifest in task_path(site.settings, ACTIONS, 1).glob("MANIFEST-*"):
        manifest.unlink()
    site.stack.start("flows")
    yield
    site.stack.call("replay", "restore", "--task", f"{ACTIONS}/1")


@contextmanager
def no_model_is_served(site: Site) -> Iterator[None]:
    site.path, site.body = "/v1/rank", b'{"user":7,"surface":"homefeed","candidates":[1,2,3]}'
    yield
    registry = Registry.of(site.settings)
    base = publish(registry, ModelConfig(), site.settings.partitions)
    registry.switch(registry.start_for(base, 0), 0, "test")
    site.path, site.body = "/v1/features/user/7", None


FAULTS: Mapping[str, Fault] = {
    "serving is killed": Fault(("TidemarkDown",), serving_is_killed),
    "flows stand still": Fault(("TidemarkFlowStuck", "TidemarkFlowBehind"), flows_stand_still, ("TidemarkFeaturesStale",)),
    "records are malformed": Fault(("TidemarkDeadLetters",), records_are_malformed),
    "events are late": Fault(("TidemarkLateEvents",), events_are_late),
    "Redis is away": Fault(("TidemarkOnlineOld", "TidemarkServingErrors"), redis_is_away),
    "Redis does not answer": Fault(("TidemarkServingSlow",), redis_does_not_answer),
    "the archiver stands still": Fault(("TidemarkArchiveBehind",), the_archiver_stands_still),
    "checkpoints have no place": Fault(("TidemarkCheckpointFails",), checkpoints_have_no_place),
    "Kafka is away": Fault(("TidemarkCannotRead",), kafka_is_away),
    "a task is damaged": Fault(("TidemarkTaskAside",), a_task_is_damaged),
    "no model is served": Fault(("TidemarkModelOld",), no_model_is_served),
}


@pytest.mark.soak
@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.promtool
@pytest.mark.timeout(3600)
def test_an_alert_fires_for_each_fault_and_clears_after(site: Site, tmp_path: Path) -> None:
    others = set(site.stack.ports) - set(SERVICES)
    prometheus = Prometheus(tmp_path / "prometheus", site.stack, others, hurried())

    def await_alerts(alerts: tuple[str, ...], firing: bool, what: str) -> None:
        for alert in alerts:
            await_within(lambda: bool(prometheus.firing(alert)) is firing, PATIENCE_S, f"{what}: {alert} {'fires' if firing else 'clears'}")  # noqa: B023

    try:
        await_within(lambda: len(prometheus.query("up == 1")) == len(SERVICES) + 1, PATIENCE_S, "all are scraped")
        for name, fault in FAULTS.items():
            await_alerts((*fault.alerts, *fault.after), False, f"before '{name}'")
            began = time.monotonic()
            with fault.induced(site):
                await_alerts(fault.alerts, True, name)
                fired = time.monotonic() - began
            await_alerts(fault.after, True, name)
            await_alerts((*fault.alerts, *fault.after), False, f"after '{name}'")
            print(
                f"{name}: {', '.join((*fault.alerts, *fault.after))}; fired after {fired:.0f} s, cleared after {time.monotonic() - began:.0f} s"
            )
    finally:
        prometheus.stop()
