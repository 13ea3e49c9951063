"""Records of several stretches in an order of their own, of which nothing is copied until it is asked for.

A batch of an online learner is a few rows of many stretches: columns that nobody reads and user features of other rows stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from flows.examples.joining import joined
from flows.examples.record import SEQUENCE_ENTRY
from flows.examples.rows import ExampleRows, FeatureRows, UserFeatures
from flows.kernels.requests import number_by_first_use


@dataclass(frozen=True, eq=False)
class Picked:
    """n records.

    Attributes
    ----------
    stretches : sequence of (ExampleRows, int, int)
        Rows, and which of them: from the first number up to the second one.
    index : int64[n]
        Each record's place, counted through these rows, one stretch after another.
    """

    stretches: Sequence[tuple[ExampleRows, int, int]]
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def of(cls, rows: ExampleRows) -> Self:
        """All rows of a stretch, in their order."""
        return cls([(rows, 0, len(rows))], np.arange(len(rows)))

    @classmethod
    def joined(cls, parts: Sequence[Picked]) -> Picked:
        """Several, one after the other; what they have picked from alike is looked at once."""
        if len(parts) == 1:
            return parts[0]
        spans: dict[int, tuple[ExampleRows, int, int]] = {}
        for rows, low, high in (one for part in parts for one in part.stretches):
            _, first, behind = spans.get(id(rows), (rows, low, high))
            spans[id(rows)] = rows, min(first, low), max(behind, high)
        begin, before = {}, 0
        for key, (_, low, high) in spans.items():
            begin[key], before = before - low, before + high - low
        index = []
        for part in parts:
            sizes = [high - low for _, low, high in part.stretches]
            moved = [begin[id(rows)] + low for rows, low, _ in part.stretches] - (np.cumsum(sizes) - sizes)
            index.append(part.index + np.repeat(moved, sizes)[part.index])
        return cls(list(spans.values()), np.concatenate(index))

    def some(self, which: np.ndarray) -> Self:
        """Some of them: indices or a mask."""
        return type(self)(self.stretches, self.index[which])

    def column(self, name: str) -> np.ndarray:
        """A column that is an array."""
        return self.made(lambda rows, low, high: np.asarray(getattr(rows, name)[low:high]))

    def made(self, of: Callable[[ExampleRows, int, int], np.ndarray]) -> np.ndarray:
        """A column that is made of each stretch: of its rows from the first number up to the second one."""
        return self._whole([of(*stretch) for stretch in self.stretches])[self.index]

    def rows(self) -> ExampleRows:
        """All their columns."""
        return joined([rows.take(np.arange(low, high)) for rows, low, high in self.stretches]).at(self.index)

    def features(self) -> FeatureRows:
        """What a model is given of them; user features are numbered by first use."""
        request, users = self._users()
        names = ("user_id", "pin_id", "surface", "slot", "request_time", "pin_counters")
        return FeatureRows(**{name: self.column(name) for name in names}, request=request, users=users)

    def _users(self) -> tuple[np.ndarray, UserFeatures]:
        first = np.cumsum([0, *(len(rows.users) for rows, _, _ in self.stretches)])
        codes = [rows.request[low:high] + before for (rows, low, high), before in zip(self.stretches, first[:-1], strict=True)]
        code = self._whole(codes)[self.index]
        request, distinct = np.empty(len(code), np.int32), np.empty(len(code), np.int64)
        used = distinct[: number_by_first_use(code, np.zeros(first[-1], np.int32), request, distinct)]
        starts, stops = np.empty(len(used), np.int64), np.empty(len(used), np.int64)
        of = np.searchsorted(first, used, "right") - 1
        places = [np.flatnonzero(of == k) for k in range(len(self.stretches))]
        for place, (rows, _, _), before in zip(places, self.stretches, first[:-1], strict=True):
            own = used[place] - before
            starts[place], stops[place] = rows.users.offsets[own], rows.users.offsets[own + 1]
        offsets = np.concatenate([[0], np.cumsum(stops - starts)])
        counters = np.empty((len(used), *self.stretches[0][0].users.counters.shape[1:]), np.int64)
        sequence = np.empty(offsets[-1], SEQUENCE_ENTRY)
        for place, (rows, _, _), before in zip(places, self.stretches, first[:-1], strict=True):
            counters[place] = rows.users.counters[used[place] - before]
            rows.users.copy_sequences(starts[place], stops[place], sequence, offsets[place])
        return request, UserFeatures(counters, offsets, sequence)

    def _whole(self, parts: list[np.ndarray]) -> np.ndarray:
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
