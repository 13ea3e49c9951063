"""What a rebuild is to do, and the directory in which it does it: ``<data>/rebuild``, so that it can be gone on with after a kill.

``plan.json`` says what was asked and found; ``corrections/`` holds, by partition, what the correction will be; ``actions/`` and ``revisits/``
hold the states that are being made.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import pyarrow as pa

from flows.corrections.record import SCHEMA, Correction, Made, correction_of
from flows.directories import make_directory, sync
from flows.errors import CorruptionError, DataDirectoryError
from flows.outputs import ACTIONS
from flows.settings import Settings
from replay.tasks import TaskName

FORMAT = 1
_PLAN, _CORRECTIONS = "plan.json", "corrections"


@dataclass(frozen=True)
class Part:
    """A task that is made anew.

    Attributes
    ----------
    span : (int, int)
        Offsets that were searched for events to change.
    excluded, patched, users : int
        How many events don't count, count otherwise, and of how many users they are.
    before : int or None
        No later state may be begun from.
    """

    flow: str
    partition: int
    span: tuple[int, int]
    excluded: int = 0
    patched: int = 0
    users: int = 0
    before: int | None = None

    @property
    def task(self) -> TaskName:
        """Its task."""
        return TaskName(self.flow, self.partition)


@dataclass(frozen=True)
class Plan:
    """A rebuild.

    Attributes
    ----------
    generation : int
        Number of the correction.
    reason : str
        What it is, in words.
    undoes : tuple of int
        Corrections that it takes back.
    author : str
    made_at : int
        ms.
    parts : tuple of Part
        The tasks that it makes anew.
    """

    generation: int
    reason: str
    undoes: tuple[int, ...]
    author: str
    made_at: int
    parts: tuple[Part, ...]
    format: int = FORMAT

    def made(self) -> Made:
        """The correction, without its records, before it takes effect."""
        return Made(self.generation, self.reason, undoes=self.undoes, author=self.author, made_at=self.made_at)


@dataclass(frozen=True)
class Workplace:
    """The directory of a rebuild.

    Parameters
    ----------
    directory : Path
    """

    directory: Path

    @classmethod
    def of(cls, settings: Settings) -> Workplace:
        """The one of a data directory."""
        return cls(settings.data / "rebuild")

    def plan(self) -> Plan | None:
        """The rebuild that is under way, None if there is none.

        Raises
        ------
        CorruptionError, DataDirectoryError
            It can't be read, or is another version's.
        """
        path = self.directory / _PLAN
        try:
            content = orjson.loads(path.read_bytes())
            if content.get("format") != FORMAT:
                raise DataDirectoryError(f"{path} has format {content.get('format')}; this Tidemark reads format {FORMAT}: --discard it")
            parts = tuple(Part(**{**part, "span": tuple(part["span"])}) for part in content["parts"])
            return Plan(**{**content, "parts": parts, "undoes": tuple(content["undoes"])})
        except FileNotFoundError:
            return None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CorruptionError(f"{path} can't be read ({error!r}): --discard it and begin again") from error

    def begin(self, plan: Plan, corrections: dict[int, Correction]) -> None:
        """Write down what is to be done: the plan last, so that with it all is there."""
        # A kill in the middle of a discard leaves states of another plan.
        self.discard()
        make_directory((self.directory / _CORRECTIONS).absolute())
        for partition, correction in corrections.items():
            path = self._correction(partition)
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
                for batch in correction.to_records():
                    writer.write_batch(batch)
            sync(path)
        sync(self.directory / _CORRECTIONS)
        draft = self.directory / f"{_PLAN}.draft"
        draft.write_bytes(orjson.dumps(asdict(plan), option=orjson.OPT_INDENT_2))
        sync(draft)
        draft.rename(self.directory / _PLAN)
        sync(self.directory)

    def correction(self, part: Part) -> Correction | None:
        """What the correction is in a partition; none of a task that isn't of the actions flow."""
        if part.flow != ACTIONS:
            return None
        try:
            with pa.memory_map(str(self._correction(part.partition))) as file:
                records = pa.ipc.open_file(file).read_all().to_pylist()
            return correction_of(records, f"rebuild in {self.directory}")
        except (OSError, LookupError, TypeError, ValueError, CorruptionError) as error:
            raise CorruptionError(
                f"{self._correction(part.partition)} can't be read ({error}): --discard the rebuild and begin again"
            ) from error

    def _correction(self, partition: int) -> Path:
        return self.directory / _CORRECTIONS / f"{partition:04d}.arrow"

    def discard(self) -> None:
        """Delete everything: the plan first, so that a kill leaves nothing that would be gone on with."""
        (self.directory / _PLAN).unlink(missing_ok=True)
        for name in (_CORRECTIONS, "actions", "revisits"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
