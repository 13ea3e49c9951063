"""A damaged task is set aside, restored and handed over beside a live run over a real broker, as over the embedded log."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.outputs import ACTIONS
from flows.settings import Settings
from flows.state.handover import task_taken
from tests.kafka.conftest import options
from tests.kafka.outcome import assert_as_embedded
from tests.processes import Simulated, tidemark
from tests.replay.test_aside import living, lose_a_table, position

pytestmark = pytest.mark.kafka


def test_one_task_is_away_and_others_go_on(on_kafka: Settings, simulated: Simulated, tmp_path: Path) -> None:
    settings = {**options(on_kafka), "batch_records": 100, "anchor_records": 150}
    first, second, third, *rest = simulated.files
    for command in (("ingest", first), ("run",), ("replay", "checkpoint"), ("ingest", second), ("run",)):
        tidemark(*command, data=on_kafka.data, **settings)
    lose_a_table(on_kafka.data, ACTIONS, 1)
    with living(on_kafka.data, "--follow", "--workers", 2, **settings) as live:
        live.says(f"{ACTIONS}/1 is set aside")
        live.goes_on(third, away=((ACTIONS, 1),))
        done = tidemark("replay", "restore", "--json", data=on_kafka.data, **settings).json()
        assert [row["task"] for row in done["restored"]] == [f"{ACTIONS}/1"]
        assert (done["beside_run"], done["ran"]) == (True, None)
        with task_taken(live.settings, ACTIONS, 2):
            before = position(live.settings, ACTIONS, 2)
            live.goes_on(rest[0], away=((ACTIONS, 2),))
            assert position(live.settings, ACTIONS, 2) == before
        for file in rest[1:]:
            live.goes_on(file)
        live.stop()
    tidemark("run", data=on_kafka.data, **settings)
    assert_as_embedded(on_kafka, simulated, tmp_path / "got")
