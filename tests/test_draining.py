"""A run that is asked to stop ends in order, wherever it is: what it has judged is committed, outboxes are empty, nothing is left to replay."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from flows.log import LocalLog
from flows.outputs import ACTIONS, REVISITS
from flows.state.meta import Meta
from flows.state.task import task_path
from flows.state.view import TaskView
from tests.processes import (
    PARTITIONS,
    Simulated,
    assert_same,
    await_true,
    end_all,
    ended,
    outcome,
    settings_of,
    start,
    tidemark,
    watching,
)
from tests.sparing import first


def assert_drained(data: Path) -> None:
    settings = settings_of(data)
    with (
        LocalLog.open(settings.logs, ACTIONS, read_only=True) as actions,
        LocalLog.open(settings.logs, REVISITS, read_only=True) as revisits,
    ):
        told, ends = {ACTIONS: actions.group_positions(ACTIONS), REVISITS: revisits.group_positions(REVISITS)}, revisits.end_positions()
    sent = [0] * PARTITIONS
    for flow in (ACTIONS, REVISITS):
        for partition in range(PARTITIONS):
            view = TaskView(task_path(settings, flow, partition))
            meta = view.meta or Meta(flow, partition, "")
            assert view.prefixed(b"O") == []
            assert told[flow][partition] == meta.position
            if flow == ACTIONS:
                assert meta.anchor == meta.position
                sent = [a + b for a, b in zip(sent, meta.sequences.get(REVISITS, [0] * PARTITIONS), strict=True)]
            view.close()
    assert ends == sent, "each change was appended, and once"


@pytest.mark.parametrize(
    ("number", "workers", "share"),
    first(2, [(signal.SIGINT, 2, 0.3), (signal.SIGINT, 1, 1.0), (signal.SIGTERM, 1, 0.3)]),
    ids=["SIGINT to two workers", "SIGINT while REVISITS is applied", "SIGTERM in the middle"],
)
def test_asked_twice_it_ends_in_order(simulated: Simulated, number: int, workers: int, share: float, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    process = start("run", "--json", "--workers", workers, data=data, batch_records=10)
    try:
        with watching(settings_of(data)) as watch:
            await_true(lambda: watch.position() >= share * simulated.records or process.poll() is not None, "it has come so far")
        process.send_signal(number)
        process.send_signal(number)
        done = ended(process)
    finally:
        end_all(process)
    assert done.code == 0, done.err
    assert_drained(data)
    with watching(settings_of(data)) as watch:
        assert watch.position() >= share * simulated.records
        assert done.json()["events"] == watch.position()
    tidemark("run", data=data)
    assert_same(outcome(settings_of(data), tmp_path / "exports"), simulated.clean)
