"""A fixed number of vectors in memory, the least recently used others in RocksDB.

Which vectors are in memory follows from the sequence of calls alone: those used longest ago leave first, the lower slot before the higher. What lies
in RocksDB is scratch, gone with the table; nothing may be read from it that this table did not write.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np
from rocksdict import DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

from flows.directories import make_directory, translated
from flows.errors import CorruptionError, StorageFullError
from online_model.table.config import Spill
from online_model.table.errors import TableError
from online_model.table.vectors import aligned

_COLD = -1
# Slot 0 is the default row's, for ever.
_DEFAULT = 0
_SCANNED = 4_096
_MEMORY_TABLE = 8 << 20


class Spilled:
    """Vectors of which `spill.hot_rows` are in memory.

    Parameters
    ----------
    dimension : int
    spill : Spill

    Raises
    ------
    TableError
        Its directory is in use, or can't be made.
    """

    def __init__(self, dimension: int, spill: Spill) -> None:
        self._where = spill.directory
        size = spill.hot_rows + 1
        self.most = spill.hot_rows
        self.weights = aligned((size, dimension))
        self.accumulators = np.zeros(size, np.float32)
        # A new or free row reads as the default one, until it is written to.
        self._slot_of = np.zeros(1, np.int32)
        self._row_in = np.zeros(size, np.int64)
        self._used = np.zeros(size, np.int64)
        self._changed = np.zeros(size, np.bool_)
        self._calls = 0
        self._empty = np.arange(size - 1, 0, -1)
        self._record = np.dtype([("weights", np.float32, (dimension,)), ("accumulator", np.float32)])
        self._db = _opened(spill)

    def slots(self, rows: np.ndarray, writing: bool) -> np.ndarray:
        self._calls += 1
        slots = self._slot_of[rows].astype(np.int64)
        held = slots[slots >= 0]
        self._used[held] = self._calls
        # A free row's slot is the default's, which is another's to write to.
        missing = np.unique(rows[(slots == _COLD) | ((slots == _DEFAULT) & (rows != 0))] if writing else rows[slots == _COLD])
        if len(missing):
            self._bring(missing)
            slots = self._slot_of[rows].astype(np.int64)
        if writing:
            self._changed[slots] = True
        return slots

    def reserve(self, rows: int) -> None:
        more = rows - len(self._slot_of)
        if more > 0:
            self._slot_of = np.concatenate([self._slot_of, np.zeros(more, np.int32)])

    def forget(self, rows: np.ndarray) -> None:
        slots = self._slot_of[rows]
        hot = slots[slots > 0]
        self._empty = np.concatenate([self._empty, hot[::-1]])
        self._row_in[hot] = 0
        self._used[hot] = 0
        self._changed[hot] = False
        self._slot_of[rows] = _DEFAULT
        # Of hot rows, too, there may be an older record.
        batch = WriteBatch(raw_mode=True)
        for key in _keys(np.sort(rows)):
            batch.delete(key)
        self._write(batch)

    def read(self, rows: np.ndarray, weights: np.ndarray, accumulators: np.ndarray) -> None:
        slots = self._slot_of[rows].astype(np.int64)
        hot, cold = np.flatnonzero(slots >= 0), np.flatnonzero(slots < 0)
        weights[hot] = self.weights[slots[hot]]
        accumulators[hot] = self.accumulators[slots[hot]]
        for begin in range(0, len(cold), _SCANNED):
            part = cold[begin : begin + _SCANNED]
            records = self._records(rows[part])
            weights[part] = records["weights"]
            accumulators[part] = records["accumulator"]

    def scale_accumulators(self, factor: np.float32) -> None:
        self.accumulators *= factor
        self._changed[1:] = True
        cold = np.flatnonzero(self._slot_of == _COLD)
        for begin in range(0, len(cold), _SCANNED):
            rows = cold[begin : begin + _SCANNED]
            records = self._records(rows)
            records["accumulator"] *= factor
            self._put(rows, records)

    def close(self) -> None:
        self._db.close()
        shutil.rmtree(self._where, ignore_errors=True)

    def memory_bytes(self) -> int:
        return (
            sum(a.nbytes for a in (self.weights, self.accumulators, self._slot_of, self._row_in, self._used, self._changed))
            + 2 * _MEMORY_TABLE
        )

    def _bring(self, rows: np.ndarray) -> None:
        """Bring distinct rows into memory; those just asked for stay."""
        if len(rows) > len(self._empty):
            self._put_out(len(rows) - len(self._empty))
        slots = self._empty[len(self._empty) - len(rows) :]
        self._empty = self._empty[: len(self._empty) - len(rows)]
        cold = np.flatnonzero(self._slot_of[rows] == _COLD)
        for begin in range(0, len(cold), _SCANNED):
            part = cold[begin : begin + _SCANNED]
            records = self._records(rows[part])
            self.weights[slots[part]] = records["weights"]
            self.accumulators[slots[part]] = records["accumulator"]
        self._slot_of[rows] = slots
        self._row_in[slots] = rows
        self._used[slots] = self._calls
        self._changed[slots] = False

    def _put_out(self, needed: int) -> None:
        """Empty slots, more than are needed: to find the least recently used looks at all of them."""
        usable = np.flatnonzero((self._row_in > 0) & (self._used < self._calls))
        wanted = min(len(usable), max(needed, self.most // 8))
        # Distinct numbers, so that there is one answer: by use, then by slot.
        order = self._used[usable] * len(self._used) + usable
        slots = usable[np.argpartition(order, wanted - 1)[:wanted]]
        slots.sort()
        rows = self._row_in[slots]
        changed = slots[self._changed[slots]]
        for begin in range(0, len(changed), _SCANNED):
            part = changed[begin : begin + _SCANNED]
            records = np.empty(len(part), self._record)
            records["weights"] = self.weights[part]
            records["accumulator"] = self.accumulators[part]
            self._put(self._row_in[part], records)
        self._slot_of[rows] = _COLD
        self._row_in[slots] = 0
        self._empty = np.concatenate([self._empty, slots[::-1]])

    def _records(self, rows: np.ndarray) -> np.ndarray:
        advice = "load the table again from its last checkpoint"
        try:
            found = self._db.get(list(_keys(rows)))
        except Exception as error:
            raise CorruptionError(f"embedding table: cold rows in {self._where} can't be read ({error}); {advice}") from error
        for row, record in zip(rows.tolist(), found, strict=True):
            if record is None or len(record) != self._record.itemsize:
                raise CorruptionError(f"embedding table: row {row} is not as it was put into {self._where}; {advice}")
        return np.frombuffer(b"".join(found), self._record).copy()

    def _put(self, rows: np.ndarray, records: np.ndarray) -> None:
        order = np.argsort(rows)
        batch, data, size = WriteBatch(raw_mode=True), records[order].tobytes(), self._record.itemsize
        for i, key in enumerate(_keys(rows[order])):
            batch.put(key, data[i * size : (i + 1) * size])
        self._write(batch)

    def _write(self, batch: WriteBatch) -> None:
        try:
            self._db.write(batch)
        except Exception as error:
            raise StorageFullError(
                f"embedding table: {self._where} can't be written ({error}); free space there and load the table again"
            ) from error


def _keys(rows: np.ndarray) -> Iterator[bytes]:
    data = rows.astype(">i8").tobytes()
    return (data[i : i + 8] for i in range(0, len(data), 8))


def _opened(spill: Spill) -> Rdict:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.none())
    options.set_write_buffer_size(_MEMORY_TABLE)
    options.set_max_write_buffer_number(2)
    try:
        with translated(f"embedding table: {spill.directory}"):
            if spill.directory.is_dir() and any(spill.directory.iterdir()):
                if not (spill.directory / "CURRENT").is_file():
                    raise TableError("it holds something else")
                # RocksDB itself refuses where another table has it open.
                Rdict.destroy(str(spill.directory), options)
                shutil.rmtree(spill.directory, ignore_errors=True)
            make_directory(spill.directory.absolute())
        db = Rdict(str(spill.directory), options)
    except Exception as error:
        raise TableError(f"embedding table: cold rows can't be kept in {spill.directory} ({error}); give another directory") from error
    write = WriteOptions()
    # Scratch: after a crash the table is loaded from its checkpoint.
    write.disable_wal = True
    db.set_write_options(write)
    return db
