"""Starts worker processes, follows what they tell, and ends them all together.

A worker is `python -m bytewax.run flows.X:flow` with its plan in the environment; nothing here knows what a flow does.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import orjson

from flows.dataflow.plan import Plan
from flows.errors import TidemarkError
from flows.settings import Settings

Listener = Callable[[dict[str, Any]], None]

# By file, and with -P: a directory "flows" that happens to lie in the user's working directory must not be taken for ours.
_FLOWS = Path(__file__).resolve().parent.parent


class WorkerError(TidemarkError):
    """A worker process failed; the message is the one it gave."""


class Workers:
    """The worker processes of one run.

    Parameters
    ----------
    settings : Settings
    flow : str
        Module of `flows` whose `flow` they run.
    plan : Plan
        With `workers` set; each gets its own number.
    lock : int
        Descriptor of the data directory's lock, which every worker holds too.
    arguments : mapping, optional
        For `flow`: literals.
    """

    def __init__(self, settings: Settings, flow: str, plan: Plan, lock: int, arguments: Mapping[str, object] | None = None) -> None:
        given = ", ".join(f"{name}={value!r}" for name, value in (arguments or {}).items())
        self._selector = selectors.DefaultSelector()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._outputs: list[IO[bytes]] = []
        self._error: tuple[str, int] | None = None
        self.stopping = False
        for worker in range(plan.workers):
            reading, writing = os.pipe()
            own = replace(plan, worker=worker, progress=writing)
            output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in _end
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bytewax.run", f"{_FLOWS / flow}.py:flow({given})"],
                env={**_inherited(), **settings.environment(), **own.to_environment(), "RUST_BACKTRACE": "0"},
                pass_fds=(writing, lock),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A Ctrl-C at the terminal reaches this process alone, which passes it on once.
                start_new_session=True,
            )
            os.close(writing)
            self._selector.register(reading, selectors.EVENT_READ, bytearray())
            self._processes.append(process)
            self._outputs.append(output)

    def stop(self) -> None:
        """Ask all workers to commit, drain and end."""
        self.stopping = True
        self._signal(signal.SIGTERM)

    def follow(self, listener: Listener, tick: Callable[[], None]) -> None:
        """Hand on what workers tell until all have ended.

        Raises
        ------
        WorkerError
            One failed; the others have been ended too.
        """
        try:
            while self._selector.get_map():
                for key, _ in self._selector.select(timeout=0.2):
                    self._take(key, listener)
                if any(map(self._failed, self._processes)):
                    self._fail(listener)
                tick()
            for process in self._processes:
                process.wait()
            if any(map(self._failed, self._processes)):
                self._fail(listener)
        finally:
            self._end()

    def _failed(self, process: subprocess.Popen[bytes]) -> bool:
        # A worker that is asked to stop before it listens for that ends by the signal; it had begun nothing.
        return process.poll() not in (None, 0) and not (self.stopping and process.returncode == -signal.SIGTERM)

    def _take(self, key: selectors.SelectorKey, listener: Listener) -> None:
        descriptor, held = key.fd, key.data
        data = os.read(descriptor, 1 << 16)
        if not data:
            self._selector.unregister(descriptor)
            os.close(descriptor)
            return
        held += data
        *lines, rest = bytes(held).split(b"\n")
        held[:] = rest
        for line in lines:
            message = orjson.loads(line)
            if "error" in message:
                # The first is the cause; others may follow from it.
                self._error = self._error or (message["error"], message["exit_code"])
            elif "stopping" in message:
                # One alone was asked to stop. The others would wait for its partitions for ever.
                self.stop()
            else:
                listener(message)

    def _fail(self, listener: Listener) -> None:
        """End everything and say why."""
        # Before the others are asked to stop: what they then say would make this one look as if it had been asked too.
        number, process = next((i, p) for i, p in enumerate(self._processes) if self._failed(p))
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while self._selector.get_map() and time.monotonic() < deadline:
            for key, _ in self._selector.select(timeout=0.1):
                self._take(key, listener)
        if self._error is not None:
            error = WorkerError(self._error[0])
            error.exit_code = self._error[1]
            raise error
        self._outputs[number].seek(0)
        last = [line for line in self._outputs[number].read().decode("utf-8", "replace").splitlines() if line.strip()][-1:]
        said = f"its last words: {last[0]}" if last else "it said nothing"
        how = f"killed by signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        raise WorkerError(f"worker {number} failed ({how}); {said}; what was committed is safe, run again to continue")

    def _signal(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def _end(self) -> None:
        self._signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for output in self._outputs:
            output.close()
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fd)
            os.close(key.fd)
        self._selector.close()


def _inherited() -> dict[str, str]:
    """The environment, without what would make Bytewax take a worker for a part of some other cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BYTEWAX_")}
