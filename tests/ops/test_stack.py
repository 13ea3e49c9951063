"""The commands of docker-compose.yml as processes, against a real Kafka, Redis and Prometheus: `make stack-test`.

Ports and addresses alone are others than in the file. An alert's `for` is cut short; the rest of rules and configuration is as it is deployed.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.run.warm_up import warm_up
from tests.kafka.broker import Broker
from tests.online.redis_server import RedisServer
from tests.ops.queries import panels
from tests.ops.stack import Prometheus, Stack, await_within, got
from tests.processes import await_true

USERS = 60
# Ten processes start at once, on a machine that may have other things to do.
STARTS_S = 1_200.0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    # Or every process would compile the loops by itself.
    warm_up(print)
    with contextlib.ExitStack() as ends:
        broker = Broker(tmp_path / "kafka")
        ends.callback(broker.stop)
        redis = RedisServer(tmp_path)
        ends.callback(redis.stop)
        running = Stack(tmp_path, broker.servers, redis.url)
        ends.callback(running.end)
        yield running


def events(path: Path) -> Path:
    """A few actions of each user, now."""
    now = int(time.time() * 1000)
    actions = ("impression", "closeup", "save", "click")
    rows = [
        (user, pin, action, now - 5_000 + i)
        for user in range(USERS)
        for i, (pin, action) in enumerate(zip(range(7, 11), actions, strict=True))
    ]
    names = ("user_id", "pin_id", "action", "event_time")
    lines = [json.dumps(dict(zip(names, row, strict=True)) | {"event_id": i, "surface": "homefeed"}) for i, row in enumerate(rows)]
    path.write_text("\n".join([*lines, "no event"]) + "\n")
    return path


@pytest.mark.soak
@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.promtool
@pytest.mark.timeout(3600)
def test_the_stack_serves_is_watched_and_tells_of_a_fault(stack: Stack, tmp_path: Path) -> None:
    stack.call(*stack.command(stack.services["topics"]))
    stack.call("ingest", events(tmp_path / "events.jsonl"))
    waiting = [name for name in stack.services if name not in ("topics", "learner")]
    for name in waiting:
        stack.start(name)
    stack.start("learner")
    await_within(lambda: all(stack.healthy(name) for name in waiting), STARTS_S, "every service is healthy")
    assert stack.running.pop("learner").wait(STARTS_S) == 1
    assert "no model is served yet" in stack.said("learner")

    row = f"{stack.url('serving')}/v1/features/user/7"
    await_within(lambda: {one["pin_id"] for one in sequence(got(row))} == {8, 9, 10}, STARTS_S, "what was ingested is served")
    # The learner has nothing to do before there is a base; see docs/deploy.md.
    prometheus = Prometheus(tmp_path / "prometheus", stack, without={"learner"})
    try:
        jobs = {name for name in stack.ports if name != "learner"} | {"prometheus"}
        await_true(lambda: {one["metric"]["job"] for one in prometheus.query("up == 1")} == jobs, "all are scraped")
        records = 'sum(tidemark_flow_records_total{flow="actions", outcome="records"})'
        await_true(lambda: value(prometheus.query(records)) == 4 * USERS + 1, "records are counted")
        assert value(prometheus.query("sum(tidemark_flow_deadletters_total)")) == 1
        assert value(prometheus.query('sum(tidemark_flow_lag_records{flow="actions"})')) == 0
        for _, query in panels():
            prometheus.query(query)
        assert not prometheus.firing("TidemarkDown")

        stack.stop("serving", signal.SIGKILL)
        await_true(lambda: prometheus.firing("TidemarkDown") == {"serving"}, "the alert fires")
        stack.start("serving")
        await_within(lambda: stack.healthy("serving"), STARTS_S, "serving is back")
        await_true(lambda: not prometheus.firing("TidemarkDown"), "the alert clears")
        assert {one["pin_id"] for one in sequence(got(row))} == {8, 9, 10}
    finally:
        prometheus.stop()
    ends = {name: stack.stop(name) for name in list(stack.running)}
    assert ends == dict.fromkeys(ends, 0), {name: stack.said(name)[-500:] for name, code in ends.items() if code}


def sequence(answer: Any) -> list[Any]:
    """A user's, as served."""
    return list((answer or {}).get("sequence", ()))


def value(found: list[dict[str, Any]]) -> float | None:
    return float(found[0]["value"][1]) if found else None
