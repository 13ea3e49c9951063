"""What an operator would type: the ordinary commands, each as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.errors import TidemarkError
from flows.settings import ENVIRONMENT_PREFIX, Settings


class DrillError(TidemarkError):
    """What the drill itself needs could not be done."""


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON object that it printed."""
        return json.loads(self.out)


Type = Callable[..., Answer]
"""Called with settings and the words of a command line."""


def type_it(settings: Settings, *words: object) -> Answer:
    """Run `tidemark` with these words over a data directory, to its end."""
    return _run(settings, "tidemark", *words)


def killed_at(number: int, settings: Settings, *words: object) -> None:
    """The same, killed before the command's n-th change of the disk.

    Raises
    ------
    DrillError
        It came to its end.
    """
    done = _run(settings, "replay.drill.killed", number, *words)
    if done.code != -signal.SIGKILL:
        raise DrillError(f"tidemark {' '.join(map(str, words))} was not killed at its change {number}: {(done.err or done.out).strip()}")


def _run(settings: Settings, module: str, *words: object) -> Answer:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith((ENVIRONMENT_PREFIX, "BYTEWAX_"))}
    # The user's own config file must not reach the copy.
    config = settings.data.parent / "drill.toml"
    config.touch()
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        env={**inherited, **settings.environment(), f"{ENVIRONMENT_PREFIX}CONFIG": str(config.absolute())},
        cwd=Path(sys.prefix),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def must(answer: Answer, what: str) -> Answer:
    """An answer of a command that must succeed.

    Raises
    ------
    DrillError
        It didn't.
    """
    if answer.code:
        raise DrillError(f"{what} ended with {answer.code}: {(answer.err or answer.out).strip()}")
    return answer
