"""Where a state that is made beside the live one puts out its records: nowhere, for the live one has put them out, or will."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from flows.errors import LogError
from flows.log import LedgerEntry, LogBatch

_ENDLESS = 2**62


class SilentLog:
    """A log that takes everything, keeps nothing, and looks as if it had all of it.

    Parameters
    ----------
    name : str
        Of the one in whose place it stands.
    partitions : int
    """

    dense = True

    def __init__(self, name: str, partitions: int) -> None:
        self.name = name
        self.partitions = partitions

    def append(
        self, batches: Sequence[tuple[int, pa.RecordBatch]], *, ledger: LedgerEntry | Sequence[LedgerEntry] | None = None
    ) -> list[tuple[int, int, int]]:
        """Nothing."""
        return [(partition, _ENDLESS, _ENDLESS) for partition, _ in batches]

    def expect_appends(self) -> None:
        """Nothing."""

    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]:
        """It can't be read."""
        raise LogError(f"log '{self.name}' is not read here")

    def start_positions(self) -> list[int]:
        """As if all were there."""
        return [0] * self.partitions

    def expect(self, partition: int, position: int) -> None:
        """Nothing."""

    def end_positions(self) -> list[int]:
        """As if all were there."""
        return [_ENDLESS] * self.partitions

    def end_position(self, partition: int) -> int:
        """As if all were there."""
        return _ENDLESS

    def position_for_time(self, partition: int, timestamp_ms: int) -> int:
        """It can't be read."""
        raise LogError(f"log '{self.name}' is not read here")

    def ledger_entry(self, key: str) -> LedgerEntry | None:
        """None."""
        return None

    def commit_group(self, group: str, positions: Mapping[int, int]) -> None:
        """Nothing."""

    def group_positions(self, group: str) -> dict[int, int]:
        """None."""
        return {}

    def close(self) -> None:
        """Nothing."""

    def __enter__(self) -> SilentLog:
        return self

    def __exit__(self, *_: object) -> None:
        return None
