"""A process that is asked to stop while its brokers are away ends soon, however patient it is; once they are back, nothing is lost or doubled."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flows.outputs import ACTIONS
from flows.settings import Settings
from tests.kafka.broker import Broker
from tests.kafka.conftest import options
from tests.kafka.outcome import assert_as_embedded
from tests.kafka.test_outages import SLOWLY, applied, committed, in_pieces, position, running
from tests.processes import Simulated, await_true, ended, tidemark

pytestmark = pytest.mark.kafka

# Far beyond what these tests wait for anything.
PATIENT = {"kafka_patience_ms": 86_400_000}


@contextmanager
def killed(broker: Broker) -> Iterator[None]:
    """Connections break, and no new one can be made."""
    broker.stop(kill=True)
    try:
        yield
    finally:
        broker.start()


@contextmanager
def silent(broker: Broker) -> Iterator[None]:
    """Connections stay, and nothing is ever answered."""
    broker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        broker.signal(signal.SIGCONT)


def assert_ends(process: subprocess.Popen[str], number: int, codes: tuple[int, ...]) -> None:
    """Asked to stop it does, and says in one line why, if that is not what was meant to be."""
    process.send_signal(number)
    done = ended(process)
    assert done.code in codes, done
    if done.code:
        # A line of its own after the ^C that a terminal shows.
        [line] = done.err.strip().splitlines()
        assert line.startswith(("tidemark: Kafka topic", "interrupted; ")), line
        assert "what was committed is safe, run" in line


@pytest.mark.parametrize(
    ("arguments", "away", "number"),
    [
        pytest.param(("--follow", "--workers", 2), killed, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(("--follow",), silent, signal.SIGINT, marks=pytest.mark.soak),
        pytest.param(("--until-end", "--workers", 2), silent, signal.SIGTERM, marks=pytest.mark.soak),
        pytest.param(("--until-end",), killed, signal.SIGINT, marks=pytest.mark.soak),
    ],
    ids=["follow, killed", "follow, silent", "bounded, silent", "bounded, killed"],
)
def test_a_run_that_is_asked_to_stop_ends(
    on_kafka: Settings,
    simulated: Simulated,
    shared_broker: Broker,
    arguments: tuple[object, ...],
    away: Callable[[Broker], Iterator[None]],
    number: int,
    tmp_path: Path,
) -> None:
    *most, last = simulated.files
    tidemark("ingest", *most, data=on_kafka.data, **options(on_kafka))
    with running("run", *arguments, settings=on_kafka, **SLOWLY, **PATIENT) as run:
        applied(on_kafka, 0, run)
        with away(shared_broker):
            assert_ends(run, number, (0, 1))
    assert position(on_kafka) > 0
    # There is something left to do, however far it came.
    tidemark("ingest", last, data=on_kafka.data, **options(on_kafka))
    tidemark("run", data=on_kafka.data, **options(on_kafka))
    assert_as_embedded(on_kafka, simulated, tmp_path / "got")


@pytest.mark.soak
def test_an_ingest_that_is_interrupted_ends(on_kafka: Settings, simulated: Simulated, shared_broker: Broker, tmp_path: Path) -> None:
    *parts, last = simulated.files
    most = in_pieces(parts, tmp_path / "pieces")
    with running("ingest", *most, settings=on_kafka, **PATIENT) as ingest:
        await_true(lambda: committed(on_kafka), "the first file is in")
        with silent(shared_broker):
            assert_ends(ingest, signal.SIGINT, (130,))
    tidemark("ingest", *most, last, data=on_kafka.data, **options(on_kafka))
    tidemark("run", data=on_kafka.data, **options(on_kafka))
    assert_as_embedded(on_kafka, simulated, tmp_path / "got")


@pytest.mark.soak
def test_an_archiver_that_is_asked_to_stop_ends(on_kafka: Settings, simulated: Simulated, shared_broker: Broker) -> None:
    archive = {"data": on_kafka.data, **options(on_kafka)}
    tidemark("ingest", *simulated.files[:-1], **archive)
    with running("archive", "run", "--follow", "--max-delay", 1, settings=on_kafka, **PATIENT) as archiver:
        await_true(lambda: waiting(archive) == 0, "something is archived")
        with silent(shared_broker):
            assert_ends(archiver, signal.SIGTERM, (0, 1))
    tidemark("ingest", *simulated.files, **archive)
    tidemark("archive", "run", **archive)
    assert waiting(archive) == 0
    said = tidemark("archive", "verify", "--log", ACTIONS, "--compare", "--json", **archive).json()
    assert said["problems"] == []
    assert said["records"] == simulated.records


def waiting(archive: dict[str, Any]) -> int:
    """Offsets of ACTIONS that are not archived yet."""
    return sum(row["lag"] for row in tidemark("archive", "status", "--log", ACTIONS, "--json", **archive).json()["partitions"])
