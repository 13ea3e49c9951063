"""Whether what was served is what the log says: every row recomputed at its own position and time, every difference with its cause.

A difference is a bug and no noise, for the same prefix gives the same bits. So a check has found something unless each difference has a
cause that the row states itself and that makes no value wrong (`causes.Cause.benign`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from flows.log import Log
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.settings import Settings
from flows.skew.causes import BY_NAME, CAUSES, NOT_LOOKED_INTO, Cause, Mistake, chosen
from flows.skew.explaining import EXAMPLES, Difference, Explaining
from flows.skew.names import EVERY, KINDS, Feature
from flows.skew.recomputing import Apart, Recomputing
from flows.skew.served import Chosen, Question
from flows.skew.tallies import Figures
from flows.state.actions_task import state_fingerprint


@dataclass
class Found:
    """What was put down to one cause.

    Attributes
    ----------
    cause : Cause
    rows : Counter
        By kind of row.
    details : Counter
        Rows by what exactly was wrong, where a cause leaves that open.
    columns : Counter
        Values that differ, by kind and column.
    examples : list
        A few rows, of every kind in turn: `Difference`, or `Apart` for rows that could not be compared.
    """

    cause: Cause
    rows: Counter[str] = field(default_factory=Counter)
    details: Counter[str] = field(default_factory=Counter)
    columns: Counter[tuple[str, int]] = field(default_factory=Counter)
    examples: list[Difference | Apart] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Rows of all kinds."""
        return sum(self.rows.values())


@dataclass(frozen=True)
class Checked:
    """The outcome of a check.

    Attributes
    ----------
    question : Question
    records : int
        Of SERVED.
    first, last : int or None
        Times of the first and the last request among them, ms.
    rows : dict of str to int
        Entity rows that were compared, by kind.
    apart : int
        Those that could not be.
    figures : tuple of Figures
        Of each feature that was asked for.
    entries : (int, int)
        Inserted and deleted entries of sequences, as wholes.
    causes : tuple of Found
        Those that occur, in the order of `causes.CAUSES`.
    seconds : float
    log_records : int
        Read for recomputing and explaining.
    fingerprint : str
        Under which was recomputed.
    ends : tuple of int
        Of each partition of SERVED, where it ended.
    """

    question: Question
    records: int
    first: int | None
    last: int | None
    rows: dict[str, int]
    apart: int
    figures: tuple[Figures, ...]
    entries: tuple[int, int]
    causes: tuple[Found, ...]
    seconds: float
    log_records: int
    fingerprint: str
    ends: tuple[int, ...]

    @property
    def compared(self) -> int:
        """Entity rows that were compared."""
        return sum(self.rows.values())

    @property
    def unproved(self) -> str:
        """Why nothing is proved, where no row was compared; otherwise empty."""
        if self.compared:
            return ""
        if not self.records:
            return "nothing was served in that time, so nothing is proved"
        return "no row could be compared, so nothing is proved"

    @property
    def differing(self) -> int:
        """Entity rows that were compared and differ."""
        return sum(found.total for found in self.causes) - self.apart

    @property
    def findings(self) -> int:
        """Rows with a cause that says that something is wrong."""
        return sum(found.total for found in self.causes if not found.cause.benign)


@dataclass(frozen=True)
class Progress:
    """What to call as a check goes on: with served records, and with log records, just read; and with how many of the former there are."""

    total: Callable[[int], None] = lambda n: None
    served: Callable[[int], None] = lambda n: None
    log: Callable[[int], None] = lambda n: None


def check(
    settings: Settings,
    served: Log,
    question: Question = Question(),  # noqa: B008 - frozen
    features: tuple[Feature, ...] = EVERY,
    progress: Progress = Progress(),
    explained: int | None = None,
    since: Sequence[int] | None = None,
) -> Checked:
    """Check served rows.

    Parameters
    ----------
    served : Log
        SERVED.
    question : Question
        Which of its records.
    features : tuple of Feature
        Which columns are compared.
    explained : int, optional
        Of at most so many users, pins and topics of each stretch of SERVED it is told why their rows differ; without it, of all.
    since : sequence of int, optional
        `Checked.ends` of the check before: only what was appended since is looked at.

    Raises
    ------
    DataDirectoryError
        There is no ACTIONS log.
    """
    began = time.monotonic()
    read = records = 0
    first: int | None = None
    last: int | None = None

    def log_read(n: int) -> None:
        nonlocal read
        read += n
        progress.log(n)

    vocabulary = settings.load_vocabulary()
    fingerprint = state_fingerprint(settings, vocabulary)
    # Before ACTIONS is looked at: what is served by then reflects no more than it holds.
    of_question = Chosen(served, question, since)
    with (
        open_log(settings, ACTIONS, read_only=True) as actions,
        Recomputing(settings, actions, fingerprint, features, log_read) as recomputing,
    ):
        explaining = Explaining(settings, vocabulary, actions, explained, question.seed, progress=log_read)
        progress.total(of_question.to_read)
        for stretch in of_question.stretches(progress.served):
            records += len(stretch)
            first = min(int(stretch.timestamp.min()), first if first is not None else 2**63 - 1)
            last = max(int(stretch.timestamp.max()), last if last is not None else -(2**63))
            explaining.add(recomputing.compare(stretch))
        explaining.flush()
    tallies = recomputing.tallies
    return Checked(
        question=question,
        records=records,
        first=first,
        last=last,
        rows=dict(recomputing.rows),
        apart=sum(recomputing.apart.values()),
        figures=tallies.figures(),
        entries=(int(tallies.entries[0]), int(tallies.entries[1])),
        causes=_found(recomputing, explaining),
        seconds=time.monotonic() - began,
        log_records=read,
        fingerprint=fingerprint,
        ends=tuple(of_question.ends),
    )


def _found(recomputing: Recomputing, explaining: Explaining) -> tuple[Found, ...]:
    found: dict[str, Found] = {}

    def of(cause: Cause) -> Found:
        return found.setdefault(cause.name, Found(cause))

    for (name, kind), rows in recomputing.apart.items():
        of(BY_NAME[name]).rows[kind] += rows
    for name, examples in recomputing.examples.items():
        of(BY_NAME[name]).examples += examples
    patterns = explaining.patterns
    put_down: dict[bytes, Mistake] = chosen({pattern: sum(one.rows.values()) for pattern, one in patterns.items()})
    for pattern, mistake in put_down.items():
        one, into = patterns[pattern], of(mistake.cause)
        into.rows += one.rows
        into.columns += one.columns
        if mistake.detail:
            into.details[mistake.detail] += sum(one.rows.values())
        into.examples += one.examples
    if explaining.left.rows:
        left, into = explaining.left, of(NOT_LOOKED_INTO)
        into.rows, into.columns, into.examples = left.rows, left.columns, [*left.examples]
    for one_cause in found.values():
        one_cause.examples = _in_turn(one_cause.examples)[:EXAMPLES]
    return tuple(found[cause.name] for cause in CAUSES if cause.name in found)


def _in_turn(rows: list[Difference | Apart]) -> list[Difference | Apart]:
    """The first of each kind, then the second of each, and so on."""
    by_kind = [[row for row in rows if row.kind == kind] for kind in KINDS]
    return [row for turn in zip_longest(*by_kind) for row in turn if row is not None]
