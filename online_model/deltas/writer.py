"""The learner's end of the log: puts out deltas of one base, each once, numbered without gaps, across any kill.

A delta and its number become readable in one append or not at all. After a kill the log's end says what was put out; what is learned again must be
the same, and is not put out again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from flows.log import LedgerConflictError, LedgerEntry, Log
from online_model.deltas.chain import closings, holds, last_closing
from online_model.deltas.errors import DivergedError, LostDeltasError, SecondLearnerError
from online_model.deltas.record import PARTITION, Closing, Rows, batches_of, closing_of
from online_model.registry.snapshots import Point


class DeltaWriter:
    """Puts out deltas of a base. Make one with `open`.

    Attributes
    ----------
    delta : int
        The last one that this learner has put out, or found put out when it came there again; 0: none.
    digest : str
        Of that one; of the base, if there is none.
    """

    def __init__(self, log: Log, base: int, delta: int, digest: str, ledger: LedgerEntry, repeats: deque[Closing]) -> None:
        self._log, self.base, self.delta, self.digest = log, base, delta, digest
        self._ledger, self._repeats = ledger, repeats

    @classmethod
    def open(cls, log: Log, base: int, base_digest: str, after: Point | None = None, since: int = 0) -> DeltaWriter:
        """Go on behind what the log holds.

        Parameters
        ----------
        base, base_digest : int, str
        after : Point, optional
            The delta that the learner's checkpoint reflects (`origin`: none yet). What lies behind it was put out before a kill and is learned
            again: see `due`. None: behind the last one there is; the next delta must then hold every row that may differ from what was put out.
        since : int
            No delta of this base lies before this offset.

        Raises
        ------
        LostDeltasError
            The log doesn't hold the delta that `after` names.
        """
        # First the ledger: who puts something out after this is found out when we do.
        entry = log.ledger_entry(_key(base)) or LedgerEntry(_key(base), 0)
        if after is None:
            last = last_closing(log, base, since=since)
            delta, digest = (last.delta, last.digest) if last is not None else (0, base_digest)
            return cls(log, base, delta, digest, entry, deque())
        end = log.end_position(PARTITION)
        if after.position > end or (after.delta and not holds(log, after)):
            raise LostDeltasError(
                f"log '{log.name}' doesn't hold delta {after.delta} of base {base}, which its learner has put out: it has lost records; restore it "
                f"(`tidemark replay restore --log {log.name}`), or let `tidemark replay learner` put out what differs",
                end,
            )
        repeats = deque(reversed(list(closings(log, base, since=after.position))))
        return cls(log, base, after.delta, after.digest, entry, repeats)

    @property
    def due(self) -> Closing | None:
        """The next delta that was put out before a kill: the learner comes to its positions and appends it again; None: all that follows is new."""
        return self._repeats[0] if self._repeats else None

    def append(self, rows: Rows, positions: tuple[int, ...], newest_event_time: int, ready_time: int) -> Closing:
        """Put out the next delta; durable and readable when this returns. What was put out before a kill is compared, and not put out again.

        Parameters
        ----------
        rows : Rows
            May be none.
        positions : tuple of int
            Next offset of each partition of EXAMPLES: the rows are what is learned from all before.
        newest_event_time, ready_time : int
            Of what is learned, ms; -1: nothing.

        Raises
        ------
        DivergedError
            It was put out before, and is another now.
        SecondLearnerError
            Another learner of this base is at work; nothing was put out.
        """
        closing = closing_of(self.base, self.delta + 1, rows, positions, newest_event_time, ready_time, self.digest)
        if self._repeats:
            closing = self._repeated(closing)
        else:
            ledger = replace(self._ledger, done=self._ledger.done + 1, previous=self._ledger.done)
            try:
                spans = self._log.append([(PARTITION, batch) for batch in batches_of(rows, closing)], ledger=ledger)
            except LedgerConflictError as error:
                raise SecondLearnerError(
                    f"another learner has put out deltas of base {self.base}, or has taken it over; stop one of them"
                ) from error
            self._ledger = ledger
            closing = replace(closing, position=spans[-1][2])
        self.delta, self.digest = closing.delta, closing.digest
        return closing

    def _repeated(self, closing: Closing) -> Closing:
        known = self._repeats[0]
        if replace(known, position=-1) != closing:
            what = "rows" if known.positions == closing.positions else f"positions ({closing.positions}, not {known.positions})"
            raise DivergedError(
                f"delta {known.delta} of base {self.base} was put out before, and what is learned again has other {what}: another torch, "
                "instruction set or number of threads (`tidemark models show`)? `tidemark replay learner` puts out what differs"
            )
        self._repeats.popleft()
        return known


def origin(base: int, base_digest: str, position: int) -> Point:
    """Before the first delta of a base: of a learner that begins with the base's own rows.

    Parameters
    ----------
    position : int
        An offset of EMBEDDINGS before which no delta of the base lies.
    """
    return Point(base, 0, base_digest, position, (), -1)


def fence(log: Log, base: int) -> int:
    """From now on whoever puts out deltas of a base is refused, until somebody opens a writer anew.

    Returns
    -------
    int
        Where the log ends: no delta of that base comes behind it from anyone who was at work before.
    """
    while True:
        entry = log.ledger_entry(_key(base)) or LedgerEntry(_key(base), 0)
        try:
            log.append([], ledger=replace(entry, done=entry.done + 1, previous=entry.done))
        except LedgerConflictError:
            # A delta came in between: it lies before the end that is told.
            continue
        return log.end_position(PARTITION)


def _key(base: int) -> str:
    return f"deltas of base {base}"
