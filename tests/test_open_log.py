"""A data directory is of embedded logs or of Kafka's topics, and never of both: positions in the one mean nothing in the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flows.errors import DataDirectoryError
from flows.open_log import open_live_log, open_log
from flows.outputs import ACTIONS, LOGS
from flows.settings import Settings

KAFKA = "127.0.0.1:1"


def test_embedded_logs_are_not_left_for_kafka(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    open_log(settings, ACTIONS, create=True).close()
    for name in LOGS:
        with pytest.raises(DataDirectoryError, match="has embedded logs, and the settings name Kafka"):
            open_live_log(replace(settings, kafka=KAFKA), name)
    open_log(settings, ACTIONS).close()


@pytest.mark.parametrize("create", [False, True])
def test_topics_are_not_left_for_embedded_logs(create: bool, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    settings.state.mkdir()
    (settings.state / "actions.topic").write_text("id\n")
    for name in LOGS:
        with pytest.raises(DataDirectoryError, match="was made over Kafka, and the settings name no brokers"):
            open_log(settings, name, create=create)
    assert not settings.logs.exists()
