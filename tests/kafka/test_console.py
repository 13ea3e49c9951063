"""The console over topics: the same figures as over embedded logs, and words where brokers are away."""

from __future__ import annotations

import dataclasses
import json

import pytest

from flows import deadletters
from flows.settings import Settings
from replay.console.letters import SHOWN, LettersSection
from replay.console.models import ModelsSection
from replay.console.replays import ReplaysSection
from replay.console.stands import StandsSection
from tests.kafka.conftest import options
from tests.ports import free_ports
from tests.processes import Simulated, tidemark

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def test_it_says_what_commands_say_and_goes_on_without_brokers(on_kafka: Settings, simulated: Simulated) -> None:
    of = options(on_kafka)
    tidemark("ingest", *simulated.files, data=on_kafka.data, **of)
    stands = StandsSection(on_kafka)
    before = stands.look()
    tidemark("run", data=on_kafka.data, **of)
    status = json.loads(tidemark("status", "--json", data=on_kafka.data, **of).out)
    after = stands.look()
    stands.close()
    assert before.flows[0].lag == sum(task["end"] for task in status["tasks"] if task["flow"] == "actions") > 0
    assert before.flows[0].waiting_since is not None
    told = [(flow.flow, t.partition, t.position, t.end, t.lag, t.watermark, t.problem) for flow in after.flows for t in flow.tasks]
    assert told == [tuple(task.values()) for task in status["tasks"]]
    assert (after.counts, after.problems, after.logs) == (status["counts"], [], on_kafka.kafka)
    assert [flow.waiting_since for flow in after.flows] == [None, None]
    letters = LettersSection(on_kafka).look()
    assert [one.id for one in reversed(letters.dead)] == [one.id for one in deadletters.newest(on_kafka, SHOWN)]
    replays = ReplaysSection(on_kafka).look()
    assert sum(task.to_replay or 0 for task in replays.tasks) == sum(task["end"] for task in status["tasks"])

    away = dataclasses.replace(on_kafka, kafka=f"127.0.0.1:{free_ports(1)[0]}")
    lost = StandsSection(away)
    said = lost.look()
    lost.close()
    assert [flow.position for flow in said.flows] == [flow.position for flow in after.flows]
    assert [flow.lag for flow in said.flows] == [None, None]
    assert said.problems
    assert ModelsSection(away).look().note
