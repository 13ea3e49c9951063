"""What a task's database holds, cut into pieces that stay the same while their part of it does.

A run of rows is never changed, only merged away, so a run is a piece of its own (or some, if it is large); what is left, the meta record, the
outbox and the names of topics, is small and makes one more. A piece is an Arrow IPC file of keys and values, compressed, which anything that
reads Arrow can open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from flows.errors import CorruptionError
from flows.state.runs import PREFIX
from replay.checkpoints.manifest import Piece, checksum

# Of keys and values, before compression: what a writer and a reader hold.
PIECE_BYTES = 32 << 20
# A value so large, as the saved working set is, is a piece of its own: the others change more often.
_LARGE = 1 << 18
_RUN_KEY = len(PREFIX) + 8
_SCHEMA = pa.schema([pa.field("key", pa.binary(), nullable=False), pa.field("value", pa.large_binary(), nullable=False)])
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
_ALONE = pa.ipc.IpcReadOptions(use_threads=False)

Pair = tuple[bytes, bytes]


@dataclass(frozen=True)
class Part:
    """Keys and values that become a piece."""

    pairs: list[Pair]

    def name(self) -> str:
        """Of its file."""
        total = hashlib.blake2b(digest_size=16)
        for key, value in self.pairs:
            total.update(len(key).to_bytes(4, "little") + len(value).to_bytes(8, "little") + key)
            total.update(value)
        return f"{total.hexdigest()}.arrow"

    def piece(self, data: bytes) -> Piece:
        """What a manifest says of it, given its file's content."""
        return Piece(self.name(), len(self.pairs), sum(len(key) + len(value) for key, value in self.pairs), checksum(data))

    def to_bytes(self) -> bytes:
        """The file's content."""
        keys, values = zip(*self.pairs, strict=True)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, _SCHEMA, options=_COMPRESSED) as writer:
            writer.write_batch(pa.record_batch([pa.array(keys, pa.binary()), pa.array(values, pa.large_binary())], schema=_SCHEMA))
        return sink.getvalue().to_pybytes()


def cut(pairs: Iterable[Pair]) -> Iterator[Part]:
    """Parts of a database whose pairs come in the order of their keys."""
    rest: list[Pair] = []
    run: list[Pair] = []
    size = 0
    for key, value in pairs:
        if not key.startswith(PREFIX):
            if len(value) >= _LARGE:
                yield Part([(key, value)])
            else:
                rest.append((key, value))
            continue
        if run and (run[0][0][:_RUN_KEY] != key[:_RUN_KEY] or size >= PIECE_BYTES):
            yield Part(run)
            run, size = [], 0
        run.append((key, value))
        size += len(value)
    if run:
        yield Part(run)
    if rest:
        yield Part(rest)


def pairs_of(piece: Piece, data: bytes, where: str) -> list[Pair]:
    """The keys and values of a piece's file.

    Raises
    ------
    CorruptionError
        It is not what was written.
    """
    if checksum(data) != piece.file:
        raise CorruptionError(f"{where} is not what was written: its checksum is another")
    with pa.ipc.open_file(pa.py_buffer(data), options=_ALONE) as reader:
        table = reader.read_all()
    return list(zip(table.column("key").to_pylist(), table.column("value").to_pylist(), strict=True))
