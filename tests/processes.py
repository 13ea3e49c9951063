"""Drives the real command line, here or in processes that are killed at chosen positions, and gathers all that a data directory says."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows import deadletters
from flows.errors import TidemarkError
from flows.export import ENTITIES, export_features, export_labels
from flows.log import LocalLog
from flows.outputs import ACTIONS, REVISITS
from flows.reading import FeatureReader
from flows.settings import Settings
from flows.status_command import digest_of
from tidemark import command_line

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 120.0  # for what must come; no test's outcome depends on how long it takes
PARTITIONS = 4


@dataclass(frozen=True)
class Ended:
    """What a process printed, and its exit code."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def environment(**settings: object) -> dict[str, str]:
    """The environment of a child: this checkout, and no settings but those given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEMARK_", "BYTEWAX_"))}
    return {**inherited, "PYTHONPATH": str(ROOT), **{f"TIDEMARK_{name.upper()}": str(value) for name, value in settings.items()}}


def settings_of(data: Path, **settings: Any) -> Settings:
    """As the children of these tests have them."""
    return Settings(data=data, **{"partitions": PARTITIONS, **settings})


def start(*arguments: object, data: Path, limits: Callable[[], None] | None = None, **settings: object) -> subprocess.Popen[str]:
    """Start `tidemark` in a session of its own."""
    return _start("tidemark", arguments, data, limits, settings)


def start_bytewax(*arguments: object, data: Path, module: str = "bytewax.run", **settings: object) -> subprocess.Popen[str]:
    """Start a flow by Bytewax's own command, in a session of its own."""
    return _start(module, arguments, data, None, settings)


def _start(
    module: str, arguments: tuple[object, ...], data: Path, limits: Callable[[], None] | None, settings: dict[str, object]
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment(**{"partitions": PARTITIONS, **settings, "data": data}),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=limits,
    )


def ended(process: subprocess.Popen[str]) -> Ended:
    """Wait for a process; one that hangs fails the test."""
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        end_all(process)
        pytest.fail(f"{process.args} has not ended within {PATIENCE_S:.0f} s")
    assert "Traceback" not in err, err
    return Ended(process.returncode, out, err)


def ends_within(process: subprocess.Popen[str], seconds: float) -> bool:
    """Wait for a process for so long at most; whether it has ended."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def tidemark_process(
    *arguments: object, data: Path, code: int | None = 0, limits: Callable[[], None] | None = None, **settings: object
) -> Ended:
    """Run `tidemark` in a process of its own to its end and check its exit code, unless that is None."""
    return _checked(ended(start(*arguments, data=data, limits=limits, **settings)), arguments, code)


def tidemark(*arguments: object, data: Path, code: int | None = 0, **settings: object) -> Ended:
    """The same in this process, without the second that Python, numba and Feast take to start; workers of a run are processes all the same."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return front_door(*arguments, monkeypatch=monkeypatch, code=code, data=data, **settings)


def front_door(*arguments: object, monkeypatch: pytest.MonkeyPatch, code: int | None = 0, **settings: object) -> Ended:
    """`tidemark` in this process, where the environment stays as the command had it until the test ends."""
    out, err = io.StringIO(), io.StringIO()
    for name in [name for name in os.environ if name.startswith(("TIDEMARK_", "BYTEWAX_"))]:
        monkeypatch.delenv(name)
    for name, value in environment(**{"partitions": PARTITIONS, **settings}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["tidemark", *map(str, arguments)])
    # Some commands listen to these until their process ends.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exit_:
            command_line()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return _checked(Ended(int(exit_.value.code or 0), out.getvalue(), err.getvalue()), arguments, code)


def _checked(done: Ended, arguments: tuple[object, ...], code: int | None) -> Ended:
    if code is not None:
        assert done.code == code, f"{arguments}: exit code {done.code}\n{done.out}{done.err}"
    return done


def refused(*arguments: object, data: Path, limits: Callable[[], None] | None = None, **settings: object) -> str:
    """Run `tidemark`, which must fail with one line on standard error; returns it. In a process of its own if that has limits."""
    if limits is None:
        done = tidemark(*arguments, data=data, code=None, **settings)
    else:
        done = tidemark_process(*arguments, data=data, code=None, limits=limits, **settings)
    assert done.code > 0, f"{arguments}: exit code {done.code}\n{done.out}"
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("tidemark: "), done.err
    return lines[0]


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Its worker processes."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [int(child) for child in children]


def end_all(process: subprocess.Popen[str]) -> None:
    """Kill a run and its workers, unless it has ended: its PID may be another's by now."""
    if process.poll() is not None:
        return
    # Stopped, it waits for none of its workers, so that their PIDs stay theirs too.
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    for worker in workers_of(process):
        kill(worker)
    process.kill()


def kill(process: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def await_true(condition: Callable[[], bool], what: str) -> None:
    """Poll until a condition holds."""
    deadline = (asked := time.monotonic()) + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE_S:.0f} s in vain until {what}")
        # Looks that take long, at many tasks, must not take the processor from what is waited for.
        time.sleep(max(0.01, min(0.1, time.monotonic() - asked)))
        asked = time.monotonic()


class Watch:
    """Follows the committed positions of a data directory from outside, as any reader may."""

    def __init__(self, settings: Settings) -> None:
        self.reader = FeatureReader(settings)

    def position(self) -> int:
        """Records of ACTIONS that are committed, over all partitions."""
        self.reader.refresh()
        return sum(self.reader.positions()[ACTIONS])

    def lag(self) -> int:
        """Records of both flows' logs that are not committed: pins come after their users."""
        self.reader.refresh()
        return lag(self.reader.settings, self.reader.positions())


@contextmanager
def watching(settings: Settings) -> Iterator[Watch]:
    watch = Watch(settings)
    try:
        yield watch
    finally:
        watch.reader.close()


@dataclass(frozen=True)
class Outcome:
    """All that a data directory says: what must not depend on its history."""

    exports: dict[str, bytes]
    digests: dict[str, str]
    counts: dict[str, int]
    deadletters: list[deadletters.DeadLetter]
    lag: int


def outcome(settings: Settings, scratch: Path, as_of: int | None = None) -> Outcome:
    scratch.mkdir(parents=True, exist_ok=True)
    exports = {}
    with FeatureReader(settings) as reader:
        time = as_of if as_of is not None else reader.default_as_of() or 0
        for entity in ENTITIES:
            export_features(reader, entity, time, scratch / entity)
            exports[entity] = (scratch / entity).read_bytes()
        export_labels(reader, time, scratch / "labels")
        exports["labels"] = (scratch / "labels").read_bytes()
        counts, positions = reader.counts(), reader.positions()
    digests = {f"{flow}-{p}": digest_of(settings, flow, p) for flow in (ACTIONS, REVISITS) for p in range(settings.partitions)}
    letters = sorted(deadletters.deadletters(settings), key=lambda letter: (letter.partition, letter.offset))
    return Outcome(exports, digests, counts, letters, lag(settings, positions))


def lag(settings: Settings, positions: Mapping[str, Sequence[int]]) -> int:
    """Records that lie behind the positions of flows."""
    return sum(ends(settings, flow) - sum(positions[flow]) for flow in positions)


def ends(settings: Settings, name: str) -> int:
    """Records of a log."""
    try:
        with LocalLog.open(settings.logs, name, read_only=True) as log:
            return sum(log.end_positions())
    except TidemarkError:
        return 0


def assert_same(got: Outcome, want: Outcome) -> None:
    assert got.lag == 0
    assert got.digests == want.digests
    assert got.counts == want.counts
    assert got.deadletters == want.deadletters
    assert [name for name in want.exports if got.exports[name] != want.exports[name]] == []


@dataclass(frozen=True)
class Simulated:
    """A simulated stream: its files, a data directory with all of it in the log and nothing applied, and what a clean run makes of it."""

    files: list[Path]
    directory: Path
    ingested: Path
    records: int
    truth: dict[str, Any]
    run: Path
    clean: Outcome

    def copy(self, to: Path) -> Path:
        """A data directory that has everything before it."""
        shutil.copytree(self.ingested, to)
        return to


_simulated: list[Simulated] = []


def simulated_once(factory: pytest.TempPathFactory) -> Simulated:
    """The stream that all tests of this process share; they copy what they change."""
    if not _simulated:
        _simulated.append(simulate(factory.mktemp("simulated")))
    return _simulated[0]


def simulate(directory: Path, events: int = 4_000, files: int = 5) -> Simulated:
    """Simulate a small disorderly stream, ingest it and run it, all through the command line."""
    made, ingested, ran = directory / "simulated", directory / "ingested", directory / "ran"
    rates = ("--late-rate", 0.02, "--duplicate-rate", 0.02, "--bad-rate", 0.02)
    tidemark("simulate", "--out", made, "--users", 80, "--pins", 150, "--days", 15, "--events", events, "--seed", 3, *rates, data=ingested)
    [events_file] = sorted(made.glob("events-*.parquet"))
    table = pq.read_table(events_file)
    size = -(-table.num_rows // files)
    parts = []
    for i in range(files):
        parts.append(directory / f"part-{i}.parquet")
        pq.write_table(table.slice(i * size, size), parts[-1])
    parts.append(made / "events-bad.jsonl")
    tidemark("ingest", *parts, data=ingested)
    shutil.copytree(ingested, ran)
    tidemark("run", data=ran)
    truth = json.loads((made / "truth.json").read_text())
    clean = outcome(settings_of(ran), directory / "clean")
    return Simulated(parts, made, ingested, truth["records"]["total"], truth, ran, clean)
