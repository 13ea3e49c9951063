"""The processes of one run of the flows: started, watched, struck, and gathered."""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import _chaos_schedule as schedule
from tests.processes import ROOT, kill, workers_of

PATIENCE_S = 120.0  # for what must come
_POLL_S = 0.005


class FailedError(Exception):
    """What must come did not, or what nothing disturbs went wrong."""


class Process:
    """A process in a session of its own, whose last words are kept.

    Parameters
    ----------
    command : list of str
    environ : dict of str to str
    room : int
        Bytes to which a file may grow; 0 for no limit.
    """

    def __init__(self, command: list[str], environ: dict[str, str], room: int = 0) -> None:
        self._said = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115 - closed by `end`
        self.popen: subprocess.Popen[str] = subprocess.Popen(
            command,
            env=environ,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            text=True,
            start_new_session=True,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))) if room else None,
        )

    def said(self) -> str:
        """What it wrote to standard error so far."""
        self._said.seek(0)
        return self._said.read()

    def close(self) -> None:
        self._said.close()


class Run:
    """The processes that were started together, and those that they started."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes = list(processes)
        self._seen: dict[int, str] = {}

    def alive(self) -> bool:
        """Whether any of those that were started lives."""
        return any(process.popen.poll() is None for process in self._processes)

    def members(self) -> list[int]:
        """All that live, workers first."""
        started = [process.popen for process in self._processes if process.popen.poll() is None]
        workers = {worker: born for one in started for worker in workers_of(one) if (born := _born(worker))}
        self._seen.update(workers)
        return [*workers, *(one.pid for one in started)]

    def await_true(self, condition: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
        """Wait until something holds; False if the run ended before, or so many seconds have passed."""
        deadline = time.monotonic() + seconds
        while self.alive() and time.monotonic() < deadline:
            asked = time.monotonic()
            if condition():
                return True
            # Who looks must not take the time of those looked at.
            time.sleep(max(_POLL_S, time.monotonic() - asked))
        return False

    def pause(self, seconds: float) -> bool:
        """Let every process stand still for a while; returns whether there was one."""
        members = self.members()
        for one in members:
            kill(one, signal.SIGSTOP)
        time.sleep(seconds)
        for one in members:
            kill(one, signal.SIGCONT)
        return bool(members)

    def stop(self) -> bool:
        """Ask it to end; returns whether anything was there to be asked."""
        alive = [process.popen for process in self._processes if process.popen.poll() is None]
        for one in alive:
            one.terminate()
        return bool(alive)

    def strike(self, victim: str, choice: float = 0.0) -> bool:
        """SIGKILL; returns whether it hit a process that lived, as the process itself or the run's last words say.

        Parameters
        ----------
        victim : str
            Of the schedule.
        choice : float
            Which worker, in [0, 1).
        """
        members = self.members()
        if not members:
            return False
        workers = [one for one in members if one in self._seen] or members
        struck = {schedule.ALL: members, schedule.LEADER: members[-1:], schedule.WORKER: [workers[int(choice * len(workers))]]}[victim]
        for one in struck:
            kill(one)
        for process in self._processes:
            if process.popen.pid in struck and process.popen.wait(PATIENCE_S) == -signal.SIGKILL:
                return True
        if len(self._processes) > 1:
            return False
        # A worker of `tidemark run`, which is no child of ours; where all were struck, its end may have ended the run before its own blow.
        self.await_end()
        return "killed by signal 9" in self._processes[0].said()

    def await_end(self) -> None:
        """Wait until those that were started have ended.

        Raises
        ------
        FailedError
            They don't.
        """
        deadline = time.monotonic() + PATIENCE_S
        for process in self._processes:
            try:
                process.popen.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise FailedError(f"a run has not ended within {PATIENCE_S:.0f} s: {process.said()[-2000:]}") from None

    def await_gone(self) -> None:
        """Wait until the workers have gone too.

        Raises
        ------
        FailedError
            They don't.
        """
        deadline = time.monotonic() + PATIENCE_S
        while left := self._left():
            if time.monotonic() > deadline:
                raise FailedError(f"workers {left} live on {PATIENCE_S:.0f} s after their run has ended")
            time.sleep(_POLL_S)

    def codes(self) -> list[int]:
        """The exit codes of those that were started."""
        return [process.popen.wait(PATIENCE_S) for process in self._processes]

    def said(self) -> str:
        """What they wrote to standard error."""
        return "".join(process.said() for process in self._processes)

    def end(self) -> None:
        """Kill what was started and is left of it; workers are left to find that out, unless all are to be gone."""
        for process in self._processes:
            if process.popen.poll() is None:
                kill(process.popen.pid)
                process.popen.wait()
            process.close()

    def end_all(self) -> None:
        """Kill everything."""
        for one in {*self.members(), *self._left()}:
            kill(one)
        self.end()

    def _left(self) -> list[int]:
        return [one for one, born in self._seen.items() if _born(one) == born]


def _born(process: int) -> str:
    """When a process began, which with its number names it; nothing if it doesn't live."""
    with contextlib.suppress(OSError):
        state, *others = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return others[18] if state not in "ZX" else ""
    return ""
