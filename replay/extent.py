"""How much there is to read for whoever reads all that is stored: what `verify` shows its time to go by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flows.archive.names import partition_directory
from flows.log import LocalLog, Log
from flows.settings import Settings
from flows.state.task import task_path
from replay.checkpoints.manifest import readable
from replay.place import Place, PlaceError
from replay.tasks import TaskName

# Of a record whose log can't say what it takes.
_RECORD_BYTES = 64


def of_log(log: Log, partition: int) -> int:
    """Bytes of a partition, about: what the log's file takes, by the partition's share of its records."""
    starts, ends = log.start_positions(), log.end_positions()
    records = ends[partition] - starts[partition]
    if isinstance(log, LocalLog):
        return _size(log.path) * records // max(1, sum(ends) - sum(starts))
    return records * _RECORD_BYTES


def of_segments(settings: Settings, name: str, partition: int) -> int:
    """Bytes of a partition's archive."""
    return _sizes(partition_directory(settings.archives, name, partition))


def of_state(settings: Settings, task: TaskName) -> int:
    """Bytes of a task's database."""
    return _sizes(task_path(settings, task.flow, task.partition))


def of_checkpoints(place: Place, task: TaskName) -> int:
    """Bytes of keys and values of a task's checkpoints; a piece that several share counts once. 0 where their place can't say."""
    try:
        return sum(piece.bytes for piece in {piece for manifest in readable(place, task.flow, task.partition) for piece in manifest.pieces})
    except PlaceError:
        return 0


class Extent:
    """What there is to read, by name, and a bar that goes through it.

    Parameters
    ----------
    sizes : mapping of str to int
        Bytes, about, of each part.
    show : callable
        Called with bytes.
    """

    def __init__(self, sizes: Mapping[str, int], show: Callable[[int], None]) -> None:
        self._sizes = sizes
        self._show = show
        self.read = 0

    @contextmanager
    def part(self, name: str) -> Iterator[Callable[[int], None]]:
        """Gives what to call with bytes that were read; once the part is left, all of its size has been shown, and never more."""
        left = self._sizes.get(name, 0)

        def advance(size: int) -> None:
            nonlocal left
            self.read += size
            shown = min(size, left)
            left -= shown
            self._show(shown)

        yield advance
        self._show(left)


def _sizes(directory: Path) -> int:
    return sum(_size(path) for path in directory.glob("*"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        # A writer has taken it away.
        return 0
