"""What an operator would type: the ordinary commands, each as a process of its own."""

from __future__ import annotations

import json
import os
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
    inherited = {name: value for name, value in os.environ.items() if not name.startswith((ENVIRONMENT_PREFIX, "BYTEWAX_"))}
    # The user's own config file must not reach the copy.
    config = settings.data.parent / "drill.toml"
    config.touch()
    done = subprocess.run(
        [sys.executable, "-m", "tidemark", *map(str, words)],
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
