"""`tidemark run` as a process, as a user starts it: its workers, what it printed, the processor time it took, and its sudden death."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks._measure import CheckFailedError
from flows.settings import ENVIRONMENT_PREFIX, Settings

_ROOT = Path(__file__).resolve().parent.parent


def environment(settings: Settings) -> dict[str, str]:
    """Of a process under some settings: the user's own must not reach what is measured, nor a Bytewax cluster that this is not a part of."""
    others = {name: value for name, value in os.environ.items() if not name.startswith((ENVIRONMENT_PREFIX, "BYTEWAX_"))}
    return {**others, **settings.environment()}


def started(settings: Settings, *words: str) -> subprocess.Popen[bytes]:
    """`tidemark WORDS --json`, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "tidemark", *words, "--json"],
        env=environment(settings),
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )


def told(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What a command that was begun says in the end.

    Raises
    ------
    CheckFailedError
        It failed.
    """
    out, _ = process.communicate()
    if process.returncode:
        raise CheckFailedError(f"{process.args!r} ended with {process.returncode}")
    found: dict[str, Any] = json.loads(out)
    return found


class Run:
    """A run over a data directory.

    Parameters
    ----------
    settings : Settings
    arguments : str
        Of `tidemark run`.
    cores : sequence of int, optional
        Processors that it and its workers may use; by default all.
    """

    def __init__(self, settings: Settings, *arguments: str, cores: Sequence[int] | None = None) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by finish, kill or check
        mine = os.sched_getaffinity(0)
        if cores is not None:
            # Before it is started, so that no thread of it has ever been elsewhere.
            os.sched_setaffinity(0, cores)
        try:
            self.started = time.perf_counter()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tidemark", "run", "--json", *arguments],
                env=environment(settings),
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,
            )
        finally:
            os.sched_setaffinity(0, mine)

    def check(self) -> None:
        """Raise if it has ended by itself."""
        if self._process.poll() is not None:
            self._fail(self._process.returncode)

    def finish(self) -> dict[str, Any]:
        """Wait for its end; what it printed, with ``wall_seconds`` and ``cpu_seconds`` of it and of its workers."""
        printed = self._process.stdout.read()  # type: ignore[union-attr]
        _, status, used = os.wait4(self._process.pid, 0)
        wall = time.perf_counter() - self.started
        self._process.returncode = code = os.waitstatus_to_exitcode(status)
        if code:
            self._fail(code)
        self._release()
        return json.loads(printed) | {"wall_seconds": wall, "cpu_seconds": used.ru_utime + used.ru_stime}

    def kill(self) -> None:
        """SIGKILL to it and its workers; returns when the last of them is dead."""
        if self._process.poll() is None:
            # Held before any is killed: a number may be given to another process once its owner is gone.
            dying = [os.pidfd_open(process) for process in self.processes()]
            for each in dying:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(each, signal.SIGKILL)
            for each in dying:
                poll = select.poll()
                poll.register(each, select.POLLIN)
                poll.poll()
                os.close(each)
            self._process.wait()
        self._release()

    def processes(self) -> list[int]:
        """It, and its workers."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return [self._process.pid, *map(int, children)]

    def _fail(self, code: int) -> None:
        self._said.seek(0)
        said = self._said.read().decode("utf-8", "replace").strip()
        self._release()
        raise CheckFailedError(f"tidemark run ended with {code}: {said or 'it said nothing'}")

    def _release(self) -> None:
        self._process.stdout.close()  # type: ignore[union-attr]
        self._said.close()
