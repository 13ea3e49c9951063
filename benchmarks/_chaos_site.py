"""Where a chaos run takes place: a data directory, the stream that is fed to it part by part, and the processes that run the flows there."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks import _chaos_schedule as schedule
from benchmarks._chaos_clock import WallClock
from benchmarks._chaos_processes import PATIENCE_S, Process, Run
from flows.errors import TidemarkError
from flows.ingest.options import IngestOptions
from flows.ingest.producer import check_file, ingest_file
from flows.log import Log
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS
from flows.reading import FeatureReader
from flows.settings import Settings
from flows.simulate import simulate
from tests.ports import free_ports
from tests.processes import environment

TIDEMARK = (sys.executable, "-m", "tidemark")
RATES = {"late_rate": 0.02, "out_of_order_rate": 0.2, "duplicate_rate": 0.02, "bad_rate": 0.02}


def parts_of(directory: Path, events: int, parts: int, seed: int, partitions: int) -> tuple[list[Path], int]:
    """A simulated stream in files, and how many records they hold."""
    users = max(events // 60, 20)
    truth = simulate(directory, users=users, pins=2 * users, days=15, events=events, seed=seed, partitions=partitions, **RATES)  # type: ignore[arg-type]
    [stream] = sorted(directory.glob("events-*.parquet"))
    table = pq.read_table(stream)
    size = -(-table.num_rows // parts)
    files: list[Path] = []
    for at in range(0, table.num_rows, size):
        files.append(directory / f"part-{len(files):04d}.parquet")
        pq.write_table(table.slice(at, size), files[-1])
    # Malformed lines, in the middle of the stream.
    files.insert(len(files) // 2, directory / "events-bad.jsonl")
    return files, int(truth["records"]["total"])


class Site:
    """A data directory under attack.

    Parameters
    ----------
    settings : Settings
    files : sequence of Path
        The stream, in order.
    clock : WallClock
        Of all processes here.
    program : sequence of str
        What is called for `tidemark`.
    """

    def __init__(self, settings: Settings, files: Sequence[Path], clock: WallClock, program: Sequence[str] = TIDEMARK) -> None:
        self.settings = settings
        self.clock = clock
        self._left = list(files)
        self._program = program
        self._options = IngestOptions.parse(settings.load_vocabulary())

    # The stream --------------------------------------------------------------------------------------------------------------------

    def feed(self, most: int = 1) -> None:
        """Ingest the next files; what a broker refuses is tried again until it takes it."""
        for path in self._left[:most]:
            deadline = time.monotonic() + PATIENCE_S
            while True:
                try:
                    with open_log(self.settings, ACTIONS, create=True) as log:
                        ingest_file(log, check_file(path, self._options), self._options)
                    break
                except TidemarkError:
                    if not self.settings.kafka or time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
            self._left.remove(path)

    def feed_all(self) -> None:
        """Ingest what is left."""
        self.feed(len(self._left))

    def feed_killed(self, delay_s: float) -> bool:
        """An ingest of the next file that is killed, then ingested after all; returns whether the kill hit."""
        hit = False
        if self._left:
            ingest = Run([self._start([*self._program, "ingest", str(self._left[0])])])
            ingest.await_true(lambda: False, delay_s)
            hit = ingest.strike(schedule.ALL)
            ingest.end()
        self.feed()
        return hit

    @contextmanager
    def feeding(self) -> Iterator[None]:
        """Ingest the next file meanwhile."""
        failures: list[BaseException] = []

        def work() -> None:
            try:
                self.feed()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            thread.join()
        if failures:
            raise failures[0]

    # The processes -----------------------------------------------------------------------------------------------------------------

    def run(self, engine: str, workers: int, batch_records: int = 0, anchor_records: int = 0, room: int = 0) -> Run:
        """Start the flows by an engine of the schedule."""
        own = {"batch_records": batch_records, "anchor_records": anchor_records}
        given = {name: value for name, value in own.items() if value}
        if engine in (schedule.RUN, schedule.FOLLOW):
            how = "--follow" if engine == schedule.FOLLOW else "--until-end"
            commands = [[*self._program, "run", how, "--workers", str(workers)]]
        else:
            flows = [sys.executable, "-m", "bytewax.run", "flows.all:flow"]
            addresses = ";".join(f"127.0.0.1:{port}" for port in free_ports(2))
            commands = [[*flows, "-w", "2"]] if engine == schedule.THREADS else [[*flows, "-i", str(i), "-a", addresses] for i in range(2)]
        return Run([self._start(command, room, **given) for command in commands])

    def _start(self, command: list[str], room: int = 0, **given: int) -> Process:
        environ = environment() | replace(self.settings, **given).environment() | self.clock.environment  # type: ignore[arg-type]
        if self.clock.path is not None:
            environ["PYTHONPATH"] = f"{self.clock.path}{os.pathsep}{environ['PYTHONPATH']}"
        return Process(command, environ, room)

    # How far it is -----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def watched(self) -> Iterator[Watch]:
        """The committed positions, as any reader sees them."""
        with FeatureReader(self.settings) as reader, ExitStack() as logs:
            yield Watch(self.settings, reader, logs)


class Watch:
    """How far the flows are, seen from outside."""

    def __init__(self, settings: Settings, reader: FeatureReader, stack: ExitStack) -> None:
        self._settings = settings
        self._reader = reader
        self._stack = stack
        self._logs: dict[str, Log] = {}

    def committed(self) -> int:
        """Where ACTIONS is committed, summed over its partitions."""
        self._reader.refresh()
        return sum(self._reader.positions()[ACTIONS])

    def end(self) -> int:
        """Where ACTIONS ends."""
        return self._end(ACTIONS)

    def published(self) -> int:
        """Records that have left by way of the outbox."""
        return sum(self._end(name) for name in (REVISITS, LATE, DEADLETTERS))

    def _end(self, name: str) -> int:
        if name not in self._logs:
            if not log_exists(self._settings, name):
                return 0
            self._logs[name] = self._stack.enter_context(open_log(self._settings, name, read_only=True))
        return sum(self._logs[name].end_positions())
