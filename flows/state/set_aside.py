"""What a run says of a task that it does without, for whoever asks where tasks stand: beside the task's directory, for as long as the run is on.

Of damage that lies where readers don't look (a saved working set, a table that only the next merge needs) nobody else could know.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from flows.state.task_lock import beside

_ASIDE = ".aside"


def note(path: Path, why: str) -> None:
    """Have others know that a task is set aside. Where there is no room for it, they don't: the run says it itself, too."""
    with suppress(OSError):
        beside(path, _ASIDE).write_text(why, "utf-8")


def forget(path: Path) -> None:
    """A task is there (again), or nobody knows yet."""
    with suppress(OSError):
        beside(path, _ASIDE).unlink()


def noted(path: Path) -> str | None:
    """Why a task is set aside; None if it isn't. Of a run that was killed it says what was so then."""
    with suppress(OSError):
        return beside(path, _ASIDE).read_text("utf-8", "replace")
    return None
