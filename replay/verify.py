"""Whether what is stored is what was written: logs, archive, state, checkpoints, and how they fit.

Nothing is changed, and nobody has to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from flows.archive.archive import Archive
from flows.archive.checking import verify as verify_archive
from flows.archive.names import ARCHIVER
from flows.corrections.history import History
from flows.errors import CorruptionError, DataDirectoryError, LogError, RetentionError, TidemarkError
from flows.examples.record import EXAMPLES
from flows.examples.saved import resumed_judge
from flows.log import LocalLog, Log, read_before
from flows.open_log import log_exists, open_log
from flows.outputs import NUMBERED, REVISITS, take_next
from flows.settings import Settings
from flows.state.actions_task import FLOW, resumed
from flows.state.corrected_task import refuse_lost
from flows.state.meta import Meta
from flows.state.runs import Table
from flows.state.tables import ACTIONS_TABLES, PIN_TABLES
from flows.state.task import task_path
from flows.state.view import TaskView, check_files
from flows.vocabulary import Vocabulary
from replay.arrived import Arrived
from replay.checkpoints.check import Checker
from replay.checkpoints.manifest import UnfitError, listed, read
from replay.place import Place, PlaceError
from replay.tasks import TaskName, mark_of

_READ_RECORDS = 65_536
_TABLES: dict[str, tuple[Table, ...]] = {FLOW: ACTIONS_TABLES, REVISITS: PIN_TABLES, EXAMPLES: ()}


@dataclass(frozen=True)
class Problem:
    """Something that is wrong: of what (log, archive, model, state, behind, checkpoint), where, what, and what to do."""

    kind: str
    where: str
    what: str
    remedy: str


Advance = Callable[[int], None]


def open_sound(settings: Settings, name: str) -> tuple[Log | None, list[Problem]]:
    """A log with its archive, to be read; or what is wrong, if they can't even be opened."""
    if not log_exists(settings, name):
        return None, [Problem("log", f"log {name}", f"is gone from {settings.logs}, though it has been archived", _log_remedy(name))]
    try:
        return open_log(settings, name, read_only=True), []
    except (CorruptionError, LogError) as error:
        return None, [Problem("log", f"log {name}", str(error), _log_remedy(name))]


def verify_log(log: Log, partition: int, advance: Advance, repeated: Advance = lambda records: None) -> Iterator[Problem]:
    """Every record batch of a partition: checksums, that offsets go on without a gap, and that no task's output lacks a record.

    Parameters
    ----------
    repeated : callable, optional
        Called with numbers of records that lie there more than once: a task that was killed or put back has put them out again, and readers
        take each once.
    """
    where = f"log {log.name}/{partition}"
    applied: dict[int, int] = {}
    try:
        start, end = log.start_positions()[partition], log.end_position(partition)
        at = start
        while at < end:
            batches = read_before(log, end, partition, at, _READ_RECORDS)
            if not batches:
                raise CorruptionError(f"records from offset {at} on are missing, though it ends at {end}")
            advance(sum(batch.records.nbytes for batch in batches))
            if log.name in NUMBERED and start == 0:
                for batch in batches:
                    taken = take_next(batch.records, applied, f"log '{log.name}', partition {partition}")
                    repeated(batch.records.num_rows - taken.num_rows)
            at = batches[-1].end_offset
    except TidemarkError as error:
        yield Problem("log", where, str(error), _log_remedy(log.name))


def verify_file(log: Log) -> Iterator[Problem]:
    """An embedded log's file: its pages and indexes, which reads may never meet."""
    if isinstance(log, LocalLog):
        try:
            for what in log.faults():
                yield Problem("log", f"log {log.name}", f"its file is damaged: {what}", _log_remedy(log.name))
        except TidemarkError as error:
            yield Problem("log", f"log {log.name}", str(error), _log_remedy(log.name))


def _log_remedy(name: str) -> str:
    return f"stop what runs, then `tidemark replay restore --log {name}`"


def verify_segments(settings: Settings, log: Log, partition: int, advance: Advance) -> Iterator[Problem]:
    """Every segment of a partition's archive, and that none is gone that was there."""
    reached = log.group_positions(ARCHIVER).get(partition, 0)
    try:
        end = Archive(settings.archives, log.name, log.partitions).end(partition)
        if Archive.exists(settings.archives, log.name) and end < min(reached, log.end_position(partition)):
            what = f"ends at {end}, though it went to {reached}: a segment is gone; the log still has what it held"
            yield Problem("archive", f"archive {log.name}/{partition}", what, "`tidemark archive run`")
    except TidemarkError:
        # Told below, with what is wrong.
        pass
    for found in verify_archive(settings, log, partition):
        advance(found.bytes)
        if found.problem is not None:
            yield Problem("archive", f"archive {log.name}/{partition}", found.problem, "delete the segment, then `tidemark archive run`")


def verify_state(
    settings: Settings, vocabulary: Vocabulary, task: TaskName, logs: Mapping[str, Log], arrived: Arrived, advance: Advance
) -> Iterator[Problem]:
    """A task's state: its files' checksums, its meta record, that its runs are whole and sorted, its saved working set, its place in the logs."""
    path, fingerprint = task_path(settings, task.flow, task.partition), mark_of(settings, vocabulary, task.flow)
    log = logs[task.source]
    where, remedy = f"state {task}", f"`tidemark replay restore --task {task}`"
    # Told after the commit, so what is read of the state afterwards can't be behind it, unless something was lost.
    reached = log.group_positions(task.flow).get(task.partition, 0)
    if not (path / "CURRENT").exists():
        if reached:
            yield Problem("state", where, f"is gone from {path}, though the task has been at position {reached}", remedy)
        return
    try:
        check_files(path, advance)
        view = TaskView(path)
        try:
            meta = view.meta or Meta(task.flow, task.partition, fingerprint)
            if meta.position < reached:
                what = f"is at position {meta.position}, though it has been at {reached}: commits were lost"
                again = "`tidemark examples run`" if task.flow == EXAMPLES else "`tidemark run`"
                yield Problem("behind", where, what, f"{again} applies them anew")
            if meta.fingerprint != fingerprint:
                yield Problem(
                    "state",
                    where,
                    f"made under other features or settings (fingerprint {meta.fingerprint}, now {fingerprint})",
                    f"put the settings back; if they are right, {remedy}",
                )
                return
            history = History.of(settings, task.partition) if task.flow == FLOW else History()
            if task.flow == FLOW and REVISITS in logs:
                refuse_lost(history, logs[REVISITS], task.partition)
            right = history.right_up_to(meta.corrected_to)
            if meta.position > right:
                what = f"is without correction {history.generation}, which changes records from offset {right} on"
                yield Problem("state", where, what, remedy)
                return
            for what in _faults(view, meta, _TABLES[task.flow]):
                yield Problem("state", where, what, remedy)
            ahead = list(ahead_of(meta, log, logs))
            for what in ahead:
                yield Problem("state", where, what, remedy)
            if task.source == FLOW and not ahead:
                judge = (resumed_judge if task.flow == EXAMPLES else resumed)(settings, vocabulary, view, meta, log)
                if judge.working_set.watermark != meta.watermark:
                    yield Problem("state", where, f"the log up to position {meta.position} doesn't lead to its watermark", remedy)
            for what in arrived.missing(view, meta):
                yield Problem("state", where, what, remedy)
        finally:
            view.close()
    except RetentionError as error:
        yield Problem("state", where, str(error), "bring back the archive's segments")
    except (CorruptionError, DataDirectoryError) as error:
        yield Problem("state", where, str(error), remedy)


def ahead_of(meta: Meta, source: Log, logs: Mapping[str, Log]) -> Iterator[str]:
    """Of which of its inputs a state reflects more than there is, in words."""
    end = source.end_position(meta.partition)
    if meta.position > end:
        yield f"is at position {meta.position}, but its log ends at {end}"
    for name, (position, _) in meta.inputs.items():
        end = logs[name].end_position(meta.partition) if name in logs else 0
        if position > end:
            yield f"is at position {position} of log '{name}', which ends at {end}"


def _faults(view: TaskView, meta: Meta, tables: tuple[Table, ...]) -> Iterator[str]:
    for table in tables:
        for run in meta.manifest.get(table.name, []):
            index = view.runs.index(run)
            total, last = 0, None
            for block in range(len(index)):
                rows = view.runs.blocks(table, run, block, block)
                total += len(rows)
                first = rows[0] if last is None else last
                if rows[0, 0] != index[block] or not _sorted(np.vstack([first, rows]), table.keys):
                    yield f"block {block} of run {run.id} of table {table.name} is out of order"
                last = rows[-1]
            if total != run.rows:
                yield f"run {run.id} of table {table.name} has {total} rows, and should have {run.rows}"


def _sorted(rows: np.ndarray, keys: int) -> bool:
    later, earlier = rows[1:, :keys], rows[:-1, :keys]
    differs = later != earlier
    first = differs.argmax(axis=1)
    at = np.arange(len(first))
    return bool((later[at, first] >= earlier[at, first]).all())


def verify_checkpoints(place: Place, task: TaskName, logs: Mapping[str, Log], advance: Advance) -> Iterator[Problem]:
    """Every checkpoint of a task, the newest first."""
    checker = Checker(place, advance)
    damaged: list[tuple[str, str, int]] = []
    sound = 0
    for named in listed(place, task.flow, task.partition):
        where = f"checkpoint {task} at {named.position}"
        try:
            end = logs[task.source].end_position(task.partition) if task.source in logs else None
            checker.check(read(place, named), end)
        except PlaceError as error:
            yield Problem("checkpoint", where, str(error), "see to it that it can be read, then verify again")
        except (CorruptionError, UnfitError) as error:
            damaged.append((where, str(error), sound))
        else:
            sound += 1
    for where, what, newer in damaged:
        usable = "older ones stay" if sound > newer else "newer ones stay" if newer else "no other is"
        begin = "" if sound else ", so a restore goes through the log from its beginning"
        remedy = f"{usable} usable{begin}; `tidemark replay checkpoint --mend` deletes it and makes a new one"
        yield Problem("checkpoint", where, what, remedy)
