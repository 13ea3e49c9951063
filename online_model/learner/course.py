"""What rows of a base are a function of, besides the base and the log: settings, build, where learning begins, and what is left out.

One small file for each base, replaced whole. Whoever goes on learning a base goes on by it; without it rows at a position would not be what they
were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from flows.errors import SettingsError
from online_model.learner.config import LearnerConfig
from online_model.learner.errors import LearnerStateError
from online_model.registry import durable
from online_model.registry.errors import DamagedModelError
from online_model.registry.manifest import checked, digest_of
from online_model.registry.snapshots import Point

FORMAT = 1
_DIRECTORY = "learners"


@dataclass(frozen=True)
class Span:
    """Records of EXAMPLES that are left out: of each partition, the offsets [begin, end)."""

    begin: tuple[int, ...]
    end: tuple[int, ...]

    def holds(self, partition: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Which records are in it: int32[n], int64[n] to bool[n]."""
        return np.asarray((offset >= np.array(self.begin)[partition]) & (offset < np.array(self.end)[partition]))


@dataclass(frozen=True)
class Remade:
    """Rows were learned again from delta `after` on: those that deltas behind it, up to `until`, had put out are void."""

    after: int
    until: int


@dataclass(frozen=True)
class Course:
    """How a base is learned on.

    Attributes
    ----------
    base, base_digest : int, str
    config : LearnerConfig
    build : mapping
        torch, instruction_set, threads, device: equal ones compute equal bits.
    begin : tuple of int
        Positions of EXAMPLES where learning begins with the base's own rows.
    fingerprint : str
        Of the examples' features.
    skipped : tuple of Span
    remade : tuple of Remade
    """

    base: int
    base_digest: str
    config: LearnerConfig
    build: Mapping[str, Any]
    begin: tuple[int, ...]
    fingerprint: str
    skipped: tuple[Span, ...] = ()
    remade: tuple[Remade, ...] = ()

    def is_void(self, delta: int) -> bool:
        """Whether rows at a delta are not what this course leads to."""
        return any(one.after < delta <= one.until for one in self.remade)

    def usable(self, point: Point) -> bool:
        """Whether one may go on from a snapshot."""
        return not self.is_void(point.delta)

    @property
    def unfinished(self) -> int:
        """The last delta that is void; 0: none is. Until there is a snapshot behind it, rows that differ have yet to be put out."""
        return max((one.until for one in self.remade), default=0)

    def again(self, after: int, until: int, skipped: Sequence[Span] = (), build: Mapping[str, Any] | None = None) -> Course:
        """The course on which rows behind a delta are learned again."""
        remade = (*self.remade, Remade(after, until)) if until > after else self.remade
        return replace(self, remade=remade, skipped=(*self.skipped, *skipped), build=self.build if build is None else build)


def path_of(models: Path, base: int) -> Path:
    """Where the course of a base lies."""
    return models / _DIRECTORY / f"{base}.json"


def read_course(models: Path, base: int) -> Course | None:
    """The course of a base; None if nobody has learned on it.

    Raises
    ------
    LearnerStateError
    """
    path = path_of(models, base)
    if not path.exists() and not path.is_symlink():
        return None
    advice = "put it back from a copy, or delete it to learn on with the settings of today"
    try:
        content = checked(durable.read(path), str(path), FORMAT)
        course = Course(
            content["base"],
            content["base_digest"],
            LearnerConfig.from_dict(content["config"]),
            content["build"],
            tuple(content["begin"]),
            content["fingerprint"],
            tuple(Span(tuple(one["begin"]), tuple(one["end"])) for one in content["skipped"]),
            tuple(Remade(**one) for one in content["remade"]),
        )
    except (DamagedModelError, KeyError, TypeError, SettingsError) as error:
        raise LearnerStateError(f"learner of base {base}: {path} can't be used ({error}); {advice}") from error
    if course.base != base:
        raise LearnerStateError(f"learner of base {base}: {path} is of base {course.base}; {advice}")
    return course


def write_course(models: Path, course: Course) -> None:
    """Keep it, in place of what was kept before, at once and durably; one process at a time: the base's learner."""
    content = asdict(course) | {"config": course.config.to_dict(), "build": dict(course.build), "format": FORMAT}
    content = orjson.loads(orjson.dumps(content))
    content["digest"] = digest_of(content)
    durable.replace(path_of(models, course.base), orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
