"""A version's users, inferred: those whose actions have changed since the table before, merged over it. `tidemark embed infer` from day to day.

A table is a function of its version and of the prefix of the logs that it reflects. What a run is to do is fixed before it begins; killed anywhere
and run again it goes on, and ends in the same bytes. A vector is never kept beyond what it was made of: each row bears a digest of its actions.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from feature_repo.embedding_history import read_run, run_numbers, users_until
from feature_repo.embedding_table import EmbeddingTable, open_table, places_of, read_table_manifest, table_numbers
from feature_repo.errors import DamagedEmbeddingError, NoEmbeddingError
from flows.directories import make_directory, translated
from flows.errors import CorruptionError
from flows.sealed import sealed, unsealed
from flows.settings import Settings
from flows.state.task_lock import holding
from online_model.embedding.actions import LogPrefix, read_actions
from online_model.embedding.embedding_model import EmbeddingModel
from online_model.embedding.errors import NoActionsError, OtherTimeError
from online_model.embedding.sequences import UserSequences
from online_model.embedding.table import KEPT, Rows, merged, sweep_tables, write_history, write_table
from online_model.embedding.version import VersionManifest
from online_model.registry import durable, tensors

PART_USERS = 4_096
"""So many users are kept together while a run is at work: what a kill costs at most."""
POPULAR = 1_000
_WORK, _PLAN, _LOCK = "work", "plan.json", "INFER"
Stages = Callable[[str, int, int], None]
"""Told of a stage how much is done, and of how much."""


@dataclass(frozen=True)
class Asked:
    """What somebody has asked a run for: `infer` has what it means. One that was cut off is gone on with only for whoever asks the same."""

    full: bool
    since: tuple[int, ...] | None
    as_of: int | None

    @classmethod
    def of(cls, said: dict[str, Any]) -> Asked:
        """What `asdict` made a document of."""
        return cls(said["full"], None if said["since"] is None else tuple(said["since"]), said["as_of"])


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    Attributes
    ----------
    version : int
    version_digest : str
    number : int
        Of the table that it makes.
    parent : int or None
        The table that it is merged over; None: everyone is inferred.
    until : LogPrefix
    as_of : int
        ms.
    since : tuple of int or None
        Users with a record of these positions or behind are inferred, whether their actions have changed or not.
    asked : Asked or None
        None: an older Tidemark began it, and did not keep that.
    """

    version: int
    version_digest: str
    number: int
    parent: int | None
    until: LogPrefix
    as_of: int
    since: tuple[int, ...] | None
    asked: Asked | None

    @classmethod
    def of(cls, said: dict[str, Any]) -> Plan:
        """What `asdict` made a document of."""
        until = LogPrefix(tuple(said["until"]["actions"]), tuple(said["until"]["corrected_to"]))
        since = None if said["since"] is None else tuple(said["since"])
        asked = Asked.of(said["asked"]) if "asked" in said else None
        return cls(said["version"], said["version_digest"], said["number"], said["parent"], until, said["as_of"], since, asked)


@dataclass(frozen=True)
class _Before:
    """What there is before a run.

    Attributes
    ----------
    number : int
        The greatest that a table or a run of this version has ever had: examples name it, so it never comes to mean another. 0: none.
    table : int or None
        The newest table, if it is of that number; over an older one nothing is merged, for the history has more.
    as_of : int
        The newest time of any, ms; -1: there is none.
    """

    number: int
    table: int | None
    as_of: int

    @classmethod
    def of(cls, settings: Settings, manifest: VersionManifest) -> _Before:
        """As it is on the disk.

        Raises
        ------
        DamagedEmbeddingError
        """
        tables, runs = table_numbers(settings.data, manifest.version), run_numbers(settings.offline, manifest.version)
        number = max([*tables, *runs], default=0)
        if number in runs:
            run = read_run(settings.offline, manifest.version, number)
            # A version of that number may have been another one.
            as_of = run.as_of if run.is_of(manifest.digest) else -1
        else:
            as_of = read_table_manifest(settings.data, manifest.version, number).as_of if tables else -1
        return cls(number, number if number in tables else None, as_of)


@dataclass(frozen=True, eq=False)
class Inferred:
    """What a run has done.

    Attributes
    ----------
    table : EmbeddingTable
    inferred, kept, gone : int
        Users whose vector was made, was kept, and is no more.
    resumed : bool
        It went on with a run that was cut off, and reflects what that one was to reflect.
    given_up : str or None
        Why it did not go on with one.
    new : bool
        False: the table was there, and reflects all that is asked for.
    seconds : float
        That the model took.
    """

    table: EmbeddingTable
    inferred: int
    kept: int
    gone: int
    resumed: bool
    new: bool
    seconds: float
    given_up: str | None


@contextmanager
def alone(version: Path) -> Iterator[None]:
    """One run at a time changes what a version has beside itself.

    Raises
    ------
    LockedError
    """
    with holding(
        version / _LOCK, lambda who: f"embedding version {version} is being inferred by another command ({who}); wait until it is done"
    ):
        yield


def infer(
    settings: Settings,
    model: EmbeddingModel,
    manifest: VersionManifest,
    path: Path,
    *,
    full: bool = False,
    since: tuple[int, ...] | None = None,
    as_of: int | None = None,
    stages: Stages = lambda stage, done, total: None,
) -> Inferred:
    """Make a version's next table, within `alone`.

    Parameters
    ----------
    model, manifest, path
        The version.
    full : bool
        Infer everyone, whatever the table before says.
    since : tuple of int, optional
        A position of each partition of ACTIONS: users with an accepted record there or behind are inferred too.
    as_of : int, optional
        No later action counts, ms; by default the newest that there is.

    Raises
    ------
    NoActionsError
        Nobody has ever done anything: there is no table before either.
    OtherTimeError
        A run before is of a later time.
    CorruptionError
        What a run that was cut off has left is not what was written.
    """
    work, asked = _Work(path), Asked(full, since, as_of)
    plan, given_up = _gone_on_with(settings, manifest, work.plan(), asked)
    if plan is None:
        work.end()
        sweep_tables(settings, manifest.version)
    resumed = plan is not None
    until = LogPrefix.now(settings) if plan is None else plan.until
    sequences = read_actions(settings, until=until, progress=lambda done, total: stages("actions", done, total))
    if plan is None:
        before_it = _Before.of(settings, manifest)
        # A correction may have taken out the newest action, or all; what was known at a time stays.
        latest = max(int(sequences.time_ms.max(initial=-1)), before_it.as_of)
        if latest < 0:
            raise NoActionsError("the log holds no action that an embedding could be made of; `tidemark ingest` puts some there")
        until_ms = latest if as_of is None else min(as_of, latest)
        # Where everyone is inferred, a table that is damaged is not looked at.
        newest = None if full or before_it.table is None else open_table(settings.data, manifest.version, before_it.table)
        plan = _planned(manifest, until, until_ms, newest, before_it, asked)
        if newest is not None and since is None and _reflected(newest, plan):
            return Inferred(newest, 0, len(newest), 0, False, False, 0.0, given_up)
        work.begin(plan)
    before = None if plan.parent is None else open_table(settings.data, manifest.version, plan.parent)
    sequences = sequences.until(plan.as_of)
    popular = _popular(sequences, plan.as_of - model.config.window_ms, model)
    sequences = sequences.newest(model.config.length)
    sequences = sequences.take(np.flatnonzero(sequences.lengths))
    inputs = inputs_of(sequences)
    due = _due(settings, sequences, inputs, before, plan)
    began = time.perf_counter()
    some = sequences.take(due)
    rows = Rows(some.user_ids, _vectors(model, some, work, stages), inputs[due], some.time_ms[some.offsets[1:] - 1])
    seconds = time.perf_counter() - began
    gone = np.empty(0, np.int64) if before is None else np.setdiff1d(before.user_ids, sequences.user_ids)
    said: dict[str, Any] = {name: getattr(plan, name) for name in ("version", "version_digest", "number", "parent", "as_of")}
    said |= {"actions": plan.until.actions, "corrected_to": plan.until.corrected_to}
    said |= {"inferred": len(rows), "gone": len(gone), "popular": popular}
    # Also where everyone is inferred anew: who has had a vector and is not in this table has one no more.
    had = before.user_ids if before is not None else users_until(settings.offline, plan.version, plan.version_digest, plan.number)
    write_history(settings, said, rows, np.setdiff1d(had, sequences.user_ids))
    table = write_table(settings, merged(before, rows, gone), said)
    work.end()
    # Whoever infers everyone has a table that is damaged, as a rule; what it said stands in the history.
    sweep_tables(settings, plan.version, KEPT if before is not None else 1)
    return Inferred(table, len(rows), len(table) - len(rows), len(gone), resumed, True, seconds, given_up)


def inputs_of(sequences: UserSequences) -> np.ndarray:
    """A digest of each user's actions, of which the vector is a function: uint8[n, 16]."""
    columns = (sequences.pin_ids[sequences.pin], sequences.action, sequences.surface, sequences.duration_ms, sequences.time_ms)
    data = np.column_stack([column.astype("<i8") for column in columns]).tobytes()
    width = 8 * len(columns)
    offsets = (sequences.offsets * width).tolist()
    digests = [hashlib.blake2b(data[begin:end], digest_size=16).digest() for begin, end in pairwise(offsets)]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def _gone_on_with(settings: Settings, manifest: VersionManifest, plan: Plan | None, asked: Asked) -> tuple[Plan | None, str | None]:
    """A run that was cut off, if it can be gone on with and is what is asked for; else why it is given up, where anybody must know."""
    if plan is None or plan.version_digest != manifest.digest or plan.number in table_numbers(settings.data, manifest.version):
        # It was done, but for taking its plan away; or the version is another one of that number.
        return None, None
    if plan.asked != asked:
        return None, "other options were given then"
    if plan.until.beyond(LogPrefix.now(settings)):
        return None, "the log has been restored to before what it was to reflect"
    if plan.parent is not None:
        try:
            open_table(settings.data, manifest.version, plan.parent)
        except (NoEmbeddingError, DamagedEmbeddingError):
            # If that is the newest table, planning anew meets it again, and says what to do.
            return None, f"table {plan.parent}, over which it was to be merged, can't be read"
    return plan, None


def _planned(
    manifest: VersionManifest,
    until: LogPrefix,
    as_of: int,
    parent: EmbeddingTable | None,
    before: _Before,
    asked: Asked,
) -> Plan:
    if as_of < before.as_of:
        raise OtherTimeError(
            f"table {before.number} of embedding version {manifest.version} is of {before.as_of}, later than {as_of}; "
            "what was known at a time must not change: leave the time out, or give a later one"
        )
    over = None if parent is None else parent.manifest.number
    return Plan(manifest.version, manifest.digest, before.number + 1, over, until, as_of, asked.since, asked)


def _reflected(table: EmbeddingTable, plan: Plan) -> bool:
    said = table.manifest
    return (said.actions, said.corrected_to, said.as_of) == (plan.until.actions, plan.until.corrected_to, plan.as_of)


def _due(settings: Settings, sequences: UserSequences, inputs: np.ndarray, before: EmbeddingTable | None, plan: Plan) -> np.ndarray:
    """Places of the users to infer: those of whom the table before has no row, or one of other actions; and those that were asked for."""
    if before is None:
        return np.arange(len(sequences))
    rows = before.rows_of(sequences.user_ids)
    due = rows < 0
    due[~due] = (before.inputs[rows[~due]] != inputs[~due]).any(axis=1)
    if plan.since is not None:
        touched = read_actions(settings, until=plan.until, since=plan.since).user_ids
        due |= places_of(touched, sequences.user_ids) >= 0
    return np.flatnonzero(due)


def _popular(sequences: UserSequences, after: int, model: EmbeddingModel) -> tuple[int, ...]:
    """Pins with a vector that were acted on the most, of late; of as many, the lowest ID first."""
    counted = (sequences.time_ms > after) & (sequences.action != sequences.actions["hide"])
    counts = np.bincount(sequences.pin[counted], minlength=len(sequences.pin_ids))
    counts[model.vectors.rows_of(sequences.pin_ids) < 0] = 0
    order = np.lexsort((sequences.pin_ids, -counts))[:POPULAR]
    return tuple(sequences.pin_ids[order[counts[order] > 0]].tolist())


def _vectors(model: EmbeddingModel, sequences: UserSequences, work: _Work, stages: Stages) -> np.ndarray:
    """Vectors of users, a part at a time; parts that are there are taken."""
    out = np.empty((len(sequences), model.config.output_dim), np.float32)
    for number, begin in enumerate(range(0, len(sequences), PART_USERS)):
        places = np.arange(begin, min(begin + PART_USERS, len(sequences)))
        found = work.part(number, sequences.user_ids[places])
        if found is None:
            found = model.users(sequences.take(places))
            work.keep(number, sequences.user_ids[places], found)
        out[places] = found
        stages("users", int(places[-1]) + 1, len(sequences))
    return out


class _Work:
    """What a run has done so far, in a directory beside the version's tables."""

    def __init__(self, version: Path) -> None:
        self._directory = (version / _WORK).absolute()

    def plan(self) -> Plan | None:
        path = self._directory / _PLAN
        if not path.exists():
            return None
        try:
            return Plan.of(unsealed(durable.read(path)))
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptionError(f"{path} is not what was written ({error}); delete {self._directory} and infer again") from error

    def begin(self, plan: Plan) -> None:
        self.end()
        with translated(f"can't write to {self._directory}"):
            make_directory(self._directory)
        durable.replace(self._directory / _PLAN, sealed(asdict(plan)))

    def part(self, number: int, user_ids: np.ndarray) -> np.ndarray | None:
        path = self._directory / f"{number}.safetensors"
        if not path.exists():
            return None
        held = tensors.from_bytes(durable.read(path), str(path))
        if not np.array_equal(held["user_ids"], user_ids):
            raise CorruptionError(f"{path} is of other users than it should be; delete {self._directory} and infer again")
        return held["vectors"]

    def keep(self, number: int, user_ids: np.ndarray, vectors: np.ndarray) -> None:
        durable.replace(self._directory / f"{number}.safetensors", tensors.to_bytes({"user_ids": user_ids, "vectors": vectors}))

    def end(self) -> None:
        with translated(f"can't delete {self._directory}"):
            # The plan first: without it, what is left belongs to nothing.
            (self._directory / _PLAN).unlink(missing_ok=True)
            if self._directory.exists():
                shutil.rmtree(self._directory)
