"""A report over topics: a period that ends within a message, and a topic that keeps the broker's time beside that of records."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.settings import HOUR_MS, Settings
from flows.trends import told
from flows.trends.gathering import Progress, gather
from flows.trends.sums import Counting, Period
from tests import driving
from tests.examples.playing import DAY, HOUR, START
from tests.kafka.test_others import by_the_brokers_clock
from tests.oracles import trends as oracle
from tests.oracles.partition import partition_of
from tests.trends.sites import EVEN, PARTITIONS, events_between

pytestmark = pytest.mark.kafka

UNTIL = START + DAY // 3


@pytest.mark.parametrize("brokers_clock", [False, True], ids=["the producer's time", "the broker's time"])
def test_a_period_ends_with_a_record_and_not_with_a_message(on_kafka: Settings, brokers_clock: bool) -> None:
    if brokers_clock:
        by_the_brokers_clock(on_kafka)
    settings = replace(on_kafka, batch_records=2)
    frame = events_between(1, 600, START, START + DAY, EVEN, [0] * PARTITIONS).assign(bad=False)
    frame["partition"] = [partition_of(user, settings.partitions) for user in frame["user_id"].tolist()]
    rows: list[tuple[int, str]] = []
    within = 0
    with open_log(settings, ACTIONS) as log:
        for partition, of in frame.groupby("partition"):
            times = oracle.arrivals((0, time) for time in of["timestamp"].tolist())
            rows += zip(times, of["action"].tolist(), strict=True)
            for at in range(0, len(of), 25):
                log.append([(int(partition), driving.typed(of.iloc[at : at + 25].to_dict("records")))])
                within += times[at] < UNTIL <= times[min(at + 25, len(of)) - 1]
    assert within, "a message that holds both"
    read, there = [], []
    progress = Progress(lambda log, offsets: there.append(offsets), lambda log, offsets: read.append(offsets))
    found = told.as_json(gather(settings, Counting(Period(None, UNTIL), size_ms=HOUR_MS), progress))
    want = oracle.by_stretch(rows, HOUR, until=UNTIL)
    assert {one["from"]: Counter(one["records"]) for one in found["actions"]["over_time"]} == want
    assert sum(read) < sum(there), "what lies behind is left unread"
    found = told.as_json(gather(settings, Counting(Period(UNTIL), Period(None, UNTIL), HOUR_MS)))
    sides = (oracle.within(time, None, UNTIL) for time, _ in rows)
    assert Counter(found["actions"]["reference"]) == Counter(action for (_, action), before in zip(rows, sides, strict=True) if before)
    assert sum(found["actions"]["now"].values()) + sum(found["actions"]["reference"].values()) == len(rows)
