"""A base's learner: micro-batches in, deltas and snapshots out. Its rows at a position are those of every other learner of this base and course.

A snapshot is its checkpoint: tables with accumulators, counts and candidates, positions, and the delta that was put out last, whole or not there. A
kill loses what was learned since, which is learned again; what was put out meanwhile is then compared, and not put out twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from flows.errors import TidemarkError
from flows.examples.store import Examples
from flows.log import Log
from online_model.deltas.chain import holds, last_closing
from online_model.deltas.errors import DivergedError
from online_model.deltas.record import Closing
from online_model.deltas.writer import DeltaWriter, origin
from online_model.learner.config import LearnerConfig
from online_model.learner.course import Course, path_of, read_course, write_course
from online_model.learner.difference import change_of, difference, named, put_out
from online_model.learner.errors import LearnerError
from online_model.learner.reading import Batches, Ready, between
from online_model.learner.step import Learned, Step
from online_model.model.config import ModelConfig
from online_model.model.dense import load_dense
from online_model.model.served_vectors import ServedVectors
from online_model.registry.bases import Base
from online_model.registry.build import build_of
from online_model.registry.manifest import DENSE
from online_model.registry.registry import Registry
from online_model.registry.snapshots import Point, Snapshot, sound, write_snapshot
from online_model.table import EmbeddingTable
from online_model.training.tables import Tables


@dataclass(frozen=True)
class Site:
    """Where a learner works.

    Attributes
    ----------
    registry : Registry
    examples : Examples
    embeddings : Log
    """

    registry: Registry
    examples: Examples
    embeddings: Log

    @property
    def models(self) -> Path:
        return self.registry.directory


class Learner:
    """Learns a base on. Make one with `open`; one process at a time for a base.

    Attributes
    ----------
    base : Base
    course : Course
    positions : tuple of int
        Of EXAMPLES: all before is learned.
    ready_time : int
        When the last record that is learned became known, ms; -1: none.
    delta : int
        The last one that was put out.
    """

    def __init__(
        self, site: Site, base: Base, course: Course, step: Step, positions: tuple[int, ...], writer: DeltaWriter, until: Closing | None
    ) -> None:
        self._site, self.base, self.course, self._step, self._writer = site, base, course, step, writer
        self.positions, self.ready_time = positions, -1
        # What was put out before ends here, and is not compared: what differs is put out once learning has come there.
        self._until = until
        self._published = positions
        self._last: Closing | None = None
        self._kept = -1

    @classmethod
    def open(cls, site: Site, course: Course, device: torch.device | None = None) -> Learner:
        """Go on where the course of a base says that one can.

        Parameters
        ----------
        site : Site
        course : Course
            Of `course_of`.
        device : torch.device, optional
            The CPU by default.

        Raises
        ------
        NoModelError, DamagedModelError, OtherFeaturesError, OtherVocabularyError
            The base is of no use.
        LogError, CorruptionError
            EMBEDDINGS can't be read.
        """
        device = device or torch.device("cpu")
        base = site.registry.base(course.base)
        log = site.embeddings
        point, tables = _begun(site, base, course)
        about = base.manifest.about.config
        ranker = load_dense(ModelConfig.from_dict(about["model"]), base.path / DENSE, device)
        vectors = ServedVectors.of(about, site.models.parent, f"base {base.number}")
        step = Step(ranker, tables, course.config, point.newest_event_time, vectors)
        since = _since(site, base)
        last = last_closing(log, base.number, since=since)
        build = _build(device)
        behind = last is not None and last.delta > point.delta
        if behind and (course.unfinished > point.delta or dict(course.build) != build):
            assert last is not None
            # Rows that another build has put out are no more what comes next than those of a span that is left out.
            course = course.again(point.delta, last.delta, build=build) if not course.is_void(last.delta) else replace(course, build=build)
            writer = DeltaWriter.open(log, base.number, base.digest, since=since)
        else:
            last = None
            course = replace(course, build=build)
            writer = DeltaWriter.open(log, base.number, base.digest, after=point, since=since)
        write_course(site.models, course)
        return cls(site, base, course, step, point.positions, writer, last)

    @property
    def tables(self) -> Tables:
        return self._step.tables

    @property
    def model(self) -> ModelConfig:
        """Of the base."""
        return self._step.ranker.config

    @property
    def vectors(self) -> ServedVectors | None:
        """For a base that takes user embeddings; looked at where batches are made ready."""
        return self._step.vectors

    @property
    def newest_event_time(self) -> int:
        """Of what is learned, ms; -1: nothing."""
        return self._step.time

    @property
    def delta(self) -> int:
        return self._writer.delta

    @property
    def again(self) -> bool:
        """Whether what is learned was learned and put out before."""
        return self._until is not None or self._writer.due is not None

    @property
    def pending(self) -> bool:
        """Whether something is learned that is not put out."""
        return self.positions != self._published

    def batches(self, read_records: int | None = None) -> Batches:
        """What it learns next, from here on."""
        sizes = {} if read_records is None else {"read_records": read_records}
        return Batches(self._site.examples, self.positions, self.model, self.course, vectors=self.vectors, **sizes)

    def learn(self, ready: Ready) -> Learned:
        """Learn a micro-batch, the one that follows, and put out what was put out there before.

        Raises
        ------
        UnlearnableError
            Gradients or loss are no numbers: this learner is of no use any more, another one begins at its last snapshot.
        DivergedError
            What was put out before is another.
        """
        try:
            learned = self._step.learn_prepared(ready.batch)
        except TidemarkError as error:
            raise type(error)(f"{between(self.positions, ready.positions)}: {error}") from error
        self.positions, self.ready_time = ready.positions, ready.last_ready
        if self._until is not None:
            if _reached(self.positions, self._until.positions):
                self._put_out_difference()
        elif (due := self._writer.due) is not None and _reached(self.positions, due.positions):
            if self.positions != due.positions:
                raise DivergedError(
                    f"delta {due.delta} of base {self.base.number} was put out before at positions {due.positions}, and learning again goes past "
                    f"them to {self.positions}: its records have changed, or other settings were in force; "
                    "`tidemark replay learner` puts out what differs"
                )
            self.publish()
        return learned

    def publish(self) -> Closing | None:
        """Put out what has changed as the next delta; None while what was put out before is learned again, or nothing new is.

        Raises
        ------
        SecondLearnerError
            Another learner is at work on this base, or it is no longer served.
        DivergedError
        """
        due = self._writer.due
        if not self.pending or self._until is not None or (due is not None and due.positions != self.positions):
            return None
        return self._append(change_of(self.tables))

    def snapshot(self) -> Snapshot | None:
        """Keep all that the learner is; None where nothing was put out since the last one, or something is learned that is not put out."""
        if self._last is None or self.pending or self._kept == self._last.delta:
            return None
        kept = write_snapshot(self.base, self._last.point(), {name: table.state() for name, table in named(self.tables).items()})
        self._kept = self._last.delta
        return kept

    def _put_out_difference(self) -> None:
        assert self._until is not None
        rows = difference(put_out(self.base, self._site.embeddings, _since(self._site, self.base)), self.tables)
        change_of(self.tables)
        self._until = None
        self._append(rows)
        # What lies before is void: from now on one goes on here.
        self.snapshot()

    def _append(self, rows: Any) -> Closing:
        self._last = self._writer.append(rows, self.positions, self._step.time, self.ready_time)
        self._published = self.positions
        return self._last


def course_of(
    site: Site,
    number: int,
    begin: Callable[[Base], tuple[int, ...]],
    asked: Mapping[str, Any] = MappingProxyType({}),
    fingerprint: str | None = None,
) -> Course:
    """The course of a base: the one that is kept, or a new one; nothing is written.

    Parameters
    ----------
    site : Site
    number : int
    begin : callable
        Where learning begins with the base's own rows.
    asked : mapping
        Of `LearnerConfig`, by name; the others are as they are kept, or as they are by default.
    fingerprint : str, optional
        Of the examples' features; by default what the base was trained under.

    Raises
    ------
    LearnerError
        What is kept is of another base, or of other settings.
    NoModelError, DamagedModelError, OtherFeaturesError, OtherVocabularyError
    """
    base = site.registry.bases.open(number)
    kept = read_course(site.models, number)
    about = base.manifest.about
    if kept is None:
        build = _build(torch.device("cpu"))
        return Course(number, base.digest, LearnerConfig(**asked), build, begin(base), fingerprint or about.feature_fingerprint)
    path = path_of(site.models, number)
    if kept.base_digest != base.digest:
        raise LearnerError(
            f"base {number} is another than the one that was learned on before ({base.digest}, not {kept.base_digest}); "
            f"put the right one back, or delete {path}"
        )
    for name, value in asked.items():
        if getattr(kept.config, name) == value:
            continue
        raise LearnerError(
            f"base {number} is learned on with {name} {getattr(kept.config, name)}, and {value} is asked for: rows at a position would "
            "not be what they are; leave it as it is until the next base"
        )
    return kept if fingerprint is None else replace(kept, fingerprint=fingerprint)


def begin_of(base: Base, partitions: int) -> tuple[int, ...]:
    """Where learning begins with a base's own rows, as its manifest says: behind what it was trained on.

    Raises
    ------
    LearnerError
        It doesn't say.
    """
    found = base.manifest.about.cut.get("positions") if isinstance(base.manifest.about.cut, Mapping) else None
    if isinstance(found, list | tuple) and len(found) == partitions and all(type(one) is int and one >= 0 for one in found):
        return tuple(found)
    raise LearnerError(
        f"base {base.number} doesn't say up to which positions of EXAMPLES it was trained ({partitions} partitions here); "
        "say where learning begins: --from"
    )


def _begun(site: Site, base: Base, course: Course) -> tuple[Point, Tables]:
    """The newest snapshot that the course and the log have, or the base itself."""
    own = Tables.load(base.path)
    end = site.embeddings.end_position(0)
    for snapshot in sound(base):
        point = snapshot.point
        if course.usable(point) and point.position <= end and holds(site.embeddings, point):
            with suppress(TidemarkError):
                return point, Tables(*(EmbeddingTable.from_state(table.config, snapshot.table(name)) for name, table in named(own).items()))
    for table in named(own).values():
        # What a training has changed is the base itself.
        table.take_changed()
    return replace(origin(base.number, base.digest, _since(site, base)), positions=course.begin), own


def _since(site: Site, base: Base) -> int:
    """An offset of EMBEDDINGS before which no delta of a base lies."""
    with suppress(TidemarkError):
        found = site.registry.current().origin(base.number, base.digest)
        if found is not None:
            return min(found.position, site.embeddings.end_position(0))
    return site.embeddings.start_positions()[0]


def _build(device: torch.device) -> dict[str, Any]:
    return {name: value for name, value in asdict(build_of(0, device)).items() if name != "seed"}


def _reached(positions: tuple[int, ...], until: tuple[int, ...]) -> bool:
    return all(here >= there for here, there in zip(positions, until, strict=True))
