"""A contestant in a process of its own, so that its memory is its own; told what to do by JSON lines, so that runs can take turns.

Not to be called by hand: `Worker` starts it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks import _measure, _outcome
from flows.settings import ENVIRONMENT_PREFIX, Settings


class Worker:
    """The parent's side of a contestant.

    Parameters
    ----------
    module : str
        Module of this package with a class `Contestant`.
    settings : Settings
        A data directory with a filled log; only read.
    scratch : Path
        Where the contestant may write.
    """

    def __init__(self, module: str, settings: Settings, scratch: Path) -> None:
        self._scratch = scratch / module
        self._scratch.mkdir(parents=True)
        task = {
            "module": module,
            "settings": {f.name: str(v) if isinstance(v := getattr(settings, f.name), Path) else v for f in fields(settings)},
            "scratch": str(self._scratch),
        }
        # The user's own settings must not reach what is measured.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._worker", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parent.parent,
        )
        self._answer()

    def run(self, **options: Any) -> dict[str, Any]:
        """One run: events, seconds, rates, memory, and what else the contestant tells."""
        return self._ask("run", options)

    def outcome(self) -> _outcome.Outcome:
        """What the last run led to."""
        with np.load(self._ask("outcome", {})["path"]) as tables:
            return dict(tables)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]

    def _ask(self, what: str, options: dict[str, Any]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps({"do": what, "options": options}) + "\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"the benchmark's process ended with {self._process.wait()}; its last words stand above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _serve(task: dict[str, Any], answers: int) -> None:
    scratch = Path(task["scratch"])
    paths = {name: Path(task["settings"][name]) for name in ("data", "vocabulary") if task["settings"][name]}
    module = importlib.import_module(f"benchmarks.{task['module']}")
    contestant = module.Contestant(Settings(**task["settings"] | paths), scratch)
    _tell(answers, {})
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "outcome":
            np.savez(scratch / "outcome.npz", **contestant.outcome())
            _tell(answers, {"path": str(scratch / "outcome.npz")})
        else:
            before = _measure.forget_peak()
            told = contestant.run(**asked["options"])
            rates = {"events_per_s": contestant.events / told["seconds"], "events_per_cpu_s": contestant.events / told["cpu_seconds"]}
            _tell(answers, told | rates | {"events": contestant.events, "rss_before_mb": before, "peak_rss_mb": _measure.peak()})


def _tell(answers: int, message: dict[str, Any]) -> None:
    os.write(answers, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    # What anything prints goes to stderr; the pipe is for answers.
    own = os.dup(1)
    os.dup2(2, 1)
    _serve(json.loads(sys.argv[1]), own)
