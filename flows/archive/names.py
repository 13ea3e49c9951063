"""What a segment is called: the offsets that it covers and the checksum of its bytes. Knows no records."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"([0-9]{20})-([0-9]{20})-([0-9a-f]{32})\.parquet")
ARCHIVER = "archive"
"""The consumer group that tells how far the archiver is. Only for lag tools, and to miss a segment: where it is, the segments say."""
# What a writer that was killed leaves behind; no name of a segment.
DRAFT = ".draft"


@dataclass(frozen=True, order=True)
class SegmentName:
    """A segment of one partition.

    Attributes
    ----------
    start, end : int
        It holds what lies at the offsets [start, end).
    checksum : str
        Of the file's bytes, as `new_checksum` makes it.
    """

    start: int
    end: int
    checksum: str

    @classmethod
    def parse(cls, name: str) -> SegmentName | None:
        """The segment that a file's name names, None if it names none."""
        found = _NAME.fullmatch(name)
        if found is None or int(found[1]) >= int(found[2]):
            return None
        return cls(int(found[1]), int(found[2]), found[3])

    def __str__(self) -> str:
        # Padded, so that the names sort as the offsets do.
        return f"{self.start:020d}-{self.end:020d}-{self.checksum}.parquet"


def partition_directory(archives: Path, log: str, partition: int) -> Path:
    """Where the segments of a partition lie."""
    return archives / log / f"{partition:04d}"


def new_checksum() -> hashlib.blake2b:
    """What goes over a segment's bytes."""
    return hashlib.blake2b(digest_size=16)
