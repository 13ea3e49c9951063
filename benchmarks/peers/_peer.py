"""A tool as the benchmark sees it: what there is to know of it, and one run of one of its pipelines, in a process of its environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import _environments, _kafka, _results
from benchmarks.peers._exactness import Values

_LIMIT_S = 280


class RunFailedError(Exception):
    """A tool's run ended in an error, or did not end."""


@dataclass(frozen=True)
class Peer:
    """A tool, its pipelines `{name}_{task}.py`, and how they are run."""

    name: str
    title: str
    reads: str
    durability: str
    goes_out: str
    on_kafka: bool = False
    warms_up: bool = False
    # Beside the pipeline itself, what its user writes.
    more: tuple[tuple[str, str], ...] = ()

    def files(self, task: str) -> list[Path]:
        """What the tool's user writes for a task."""
        return [_environments.HERE / f"{self.name}_{task}.py", *(_environments.HERE / file for of, file in self.more if of == task)]


@dataclass(frozen=True)
class Source:
    """Where a stream lies: as lines in files, and in a topic if there is a broker."""

    lines: Path
    warm_up_lines: Path
    servers: str = ""
    topic: str = ""


PATHWAY = Peer(
    "pathway",
    "Pathway",
    reads="file of JSON lines, by its own reader, all as one batch (mode static)",
    durability="persistence of its input to files (a start computes anew from them)",
    goes_out="each entity once, at the end",
)
PYFLINK = Peer(
    "pyflink",
    "PyFlink",
    reads="file of JSON lines, by its own reader, as a stream",
    durability="state on the heap, checkpoint to files each 10 s",
    goes_out="changes, gathered for 1 s or 5 000 records (mini-batch)",
    warms_up=True,
)
QUIX = Peer(
    "quix",
    "Quix Streams",
    reads="Kafka, JSON, 8 partitions",
    durability="RocksDB and changelog topics, commit each 5 s, at least once",
    goes_out="each change, to a topic",
    on_kafka=True,
    more=(("counters", "quix_reading.py"),),
)
PEERS = (PATHWAY, PYFLINK, QUIX)


def missing(peer: Peer) -> str:
    """Why a tool can't be run here; empty if it can."""
    try:
        _environments.python(peer.name)
    except _environments.NotInstalledError as error:
        return str(error)
    return "no java on PATH" if peer is PYFLINK and shutil.which("java") is None else ""


def run(peer: Peer, task: str, source: Source, as_of: int, directory: Path) -> tuple[dict[str, Any], Values]:
    """One run: seconds, CPU seconds, peak memory; and what it has written.

    Parameters
    ----------
    directory : Path
        A new one, whose name no other run of this broker has.

    Raises
    ------
    RunFailedError
    """
    out, state, warm, told = (directory / name for name in ("out", "state", "warm", "told.json"))
    for place in (out, state, warm):
        place.mkdir(parents=True)
    if peer.on_kafka:
        arguments: dict[str, Any] = {"servers": source.servers, "topic": source.topic, "out": directory.name}
    else:
        arguments = {"source": str(source.lines), "out": str(out)}
    given = {
        "module": str(peer.files(task)[0]),
        "arguments": arguments | {"state": str(state), "as_of": as_of},
        "warm": {"source": str(source.warm_up_lines), "out": str(warm), "state": str(warm), "as_of": as_of} if peer.warms_up else None,
        "messages": peer.on_kafka,
        "told": str(told),
    }
    _in_its_environment(peer, json.dumps(given), directory)
    measured: dict[str, Any] = json.loads(told.read_text())
    if peer.on_kafka:
        return measured, _results.of_quix(_kafka.messages(source.servers, directory.name), task, as_of)
    if peer is PYFLINK:
        return measured, _results.from_files(_results.of_pyflink, directory / "stdout", task, measured["printed"])
    return measured, _results.from_files(_results.of_pathway, out / f"{task}.jsonl", task)


def _in_its_environment(peer: Peer, given: str, directory: Path) -> None:
    # Without the directory of the script on the path: files there are named after the tools.
    command = [str(_environments.python(peer.name)), "-P", str(_environments.HERE / "_runner.py"), given]
    # The JVM else takes up to a quarter of the machine before it collects anything.
    environment = os.environ | {"JVM_ARGS": "-Xmx1g", "PATHWAY_TELEMETRY_SERVER": ""}
    with (directory / "stdout").open("wb") as stdout, (directory / "stderr").open("wb") as stderr:
        try:
            ended = subprocess.run(command, stdout=stdout, stderr=stderr, timeout=_LIMIT_S, env=environment, cwd=directory, check=False)
        except subprocess.TimeoutExpired:
            raise RunFailedError(f"not done after {_LIMIT_S} s") from None
    if ended.returncode:
        said = (directory / "stderr").read_text(errors="replace").strip().splitlines()
        raise RunFailedError(f"ended with {ended.returncode}: {said[-1] if said else 'it said nothing'}")
