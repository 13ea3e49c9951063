"""An environment of each tool's own, `.peers/NAME`, outside Tidemark's: made once, by command, and never by a measurement."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from flows.errors import TidemarkError

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


class NotInstalledError(TidemarkError):
    """A tool can't be run here, and why."""


def install(name: str) -> None:
    """Make a tool's environment with the version that its requirements pin; nothing to do if it is there."""
    place, wanted = _place(name), _wanted(name)
    if _installed(name):
        return
    shutil.rmtree(place, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(place)],
        [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-r", str(wanted)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise NotInstalledError(f"{name}: {' '.join(command[1:4])} failed: {said[-1] if said else done.returncode}")
    shutil.copy(wanted, place / "installed.txt")


def python(name: str) -> Path:
    """The interpreter of a tool's environment.

    Raises
    ------
    NotInstalledError
        It isn't there, or holds another version.
    """
    if not _installed(name):
        raise NotInstalledError(f"not installed; python -m benchmarks.peers --install --peer {name}")
    return _place(name) / "bin" / "python"


def version(name: str) -> str:
    """What the requirements pin."""
    return _wanted(name).read_text("utf-8").strip()


def _installed(name: str) -> bool:
    stamp = _place(name) / "installed.txt"
    return stamp.exists() and stamp.read_bytes() == _wanted(name).read_bytes()


def _place(name: str) -> Path:
    return ROOT / ".peers" / name


def _wanted(name: str) -> Path:
    return HERE / f"requirements-{name}.txt"
