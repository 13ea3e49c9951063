"""Raw values → columns: most of them in a compiled loop; those that it leaves are judged one by one in `flows.decode`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from flows.events import MAX_EVENT_TIME, MAX_RAW_BYTES, SCHEMA_VERSION, ids_of
from flows.kernels import json_rows
from flows.kernels.json_rows import ACTION, KEY, SURFACE, TOPIC

# Topics are few. A producer that sends a new one with every record must not make this table grow for ever.
_MOST_NAMES = 1 << 16
_NO_REQUEST = np.empty(0, np.int64)
_FIELDS = (
    "event_id",
    "user_id",
    "pin_id",
    "event_time",
    "duration_ms",
    "schema_version",
    "action",
    "surface",
    "topic",
    "request_id",
    "producer",
)


class JsonLane:
    """Takes what it can of raw values.

    Parameters
    ----------
    actions, surfaces : mapping of str to int
        Codes by name.
    topic_id : callable
        A topic's name → its ID, noted as seen.
    """

    def __init__(self, actions: Mapping[str, int], surfaces: Mapping[str, int], topic_id: Callable[[str], int]) -> None:
        self._codes: dict[int, Callable[[str], int]] = {
            ACTION: lambda name: actions.get(name, -1),
            SURFACE: lambda name: surfaces.get(name, -1),
            TOPIC: topic_id,
        }
        self._limits = np.array([MAX_EVENT_TIME, MAX_RAW_BYTES, SCHEMA_VERSION, surfaces["other"]], np.int64)
        # A reader ahead and its task may decode at once.
        self._lock = threading.Lock()
        self._names = _Names()
        for number, name in enumerate(_FIELDS):
            self._names.add(KEY, name.encode(), number)

    def take(self, values: pa.Array, columns: Sequence[np.ndarray], request: np.ndarray = _NO_REQUEST) -> np.ndarray:
        """Fill in what can be taken.

        Parameters
        ----------
        values : binary[n]
        columns : (event_id, user_id, pin_id, event_time, duration_ms, topic, action, surface)
            Of n rows each.
        request : int64[n] or int64[0]
            Filled in too, if it has rows: `flows.decode_values.hash_texts` of request_id, 0 for none.

        Returns
        -------
        bool[n]
            The records that are left, of which nothing was filled in.
        """
        n = len(values)
        if not (pa.types.is_binary(values.type) or pa.types.is_string(values.type)):
            return np.ones(n, np.bool_)
        left = values.is_null().to_numpy(zero_copy_only=False).copy() if values.null_count else np.zeros(n, np.bool_)
        _, bounds_buffer, data_buffer = values.buffers()
        if n == 0 or data_buffer is None:
            return left | True
        bounds = np.frombuffer(bounds_buffer, np.int32, n + 1, values.offset * 4)
        data = np.frombuffer(data_buffer, np.uint8)
        texts = np.empty((3 * n, 4), np.int64)
        numbers, coded, out = np.zeros(6, np.int64), np.zeros(3, np.int64), (*columns, request)
        row = used = 0
        while True:
            names = self._names.arrays
            row, used, kind, start, end = json_rows.scan(data, bounds, left, row, texts, used, names, self._limits, numbers, coded, out)
            if row == n:
                break
            name = data[start:end].tobytes()
            with self._lock:
                self._names.add(kind, name, self._codes[kind](name.decode()))
        for field in np.unique(texts[:used, 1]).tolist():
            rows, _, starts, ends = texts[:used][texts[:used, 1] == field].T.tolist()
            columns[field][rows] = ids_of([data[start:end].tobytes().decode() for start, end in zip(starts, ends, strict=True)])
        return left


class _Names:
    """Names with what each stands for, as arrays for the compiled loop. Grows by new arrays: those given away stay as they are."""

    def __init__(self) -> None:
        table = np.full(1024, -1, np.int64)
        none = np.empty(0, np.int64)
        self.arrays: tuple[Any, ...] = (table, np.empty(0, np.uint64), none, np.zeros(1, np.int64), np.empty(0, np.uint8), none, True)

    def add(self, kind: int, name: bytes, code: int) -> None:
        """Take up a name that may be there already."""
        table, hashes, kinds, starts, arena, codes, _ = self.arrays
        data = np.frombuffer(name, np.uint8)
        h = np.uint64(json_rows.hash_name(kind, data, 0, len(data)))
        if json_rows.find_name(kind, h, data, 0, len(data), table, hashes, kinds, starts, arena) >= 0:
            return
        hashes, kinds, codes = np.append(hashes, h), np.append(kinds, kind), np.append(codes, code)
        starts, arena = np.append(starts, starts[-1] + len(data)), np.concatenate([arena, data])
        table = np.full(len(table) * (2 if 2 * len(codes) > len(table) else 1), -1, np.int64)
        json_rows.place_names(table, hashes)
        self.arrays = table, hashes, kinds, starts, arena, codes, len(codes) < _MOST_NAMES
