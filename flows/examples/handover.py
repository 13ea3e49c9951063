"""Where a backfill has ended in EXAMPLES, as its ledger says: from there on the join goes on, and neither puts out what the other has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows.errors import DataDirectoryError
from flows.examples.record import EXAMPLES
from flows.log import LedgerEntry, Log


@dataclass(frozen=True)
class Backfilled:
    """What a backfill has put into a partition.

    Attributes
    ----------
    records : int
        The partition's first ones.
    until : int or None
        When the last of them became known, ms; None: there is none.
    """

    records: int
    until: int | None


def rows_key(partition: int) -> str:
    """Of the ledger: how many records of a partition are there, and how many there will be."""
    return f"backfilled:{partition}"


def until_entries(until: Sequence[int]) -> list[LedgerEntry]:
    """For the ledger: when the last record of each partition will have become known, ms; -1 for none."""
    return [LedgerEntry(until_key(partition), 0, time) for partition, time in enumerate(until)]


def backfilled(examples: Log, partition: int) -> Backfilled:
    """What was backfilled into a partition of EXAMPLES.

    Raises
    ------
    DataDirectoryError
        The backfill was stopped.
    """
    rows, until = examples.ledger_entry(rows_key(partition)), examples.ledger_entry(until_key(partition))
    if rows is None or until is None or not rows.total:
        return Backfilled(0, None)
    if rows.done < rows.total:
        raise DataDirectoryError(
            f"log '{EXAMPLES}', partition {partition}: a backfill was stopped after {rows.done:,} of {rows.total:,} records; run the same "
            "`tidemark backfill` again to its end, then `tidemark examples run` goes on from there"
        )
    return Backfilled(rows.total, until.total)


def until_key(partition: int) -> str:
    """Of the ledger: `total` is when the last backfilled record of a partition became known."""
    return f"backfilled:{partition}:until"
