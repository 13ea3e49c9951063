"""Examples as the model reads them: plain columns, sequences of requests end to end, made once and cut into batches as often as needed.

Numpy alone, so that whoever trains, learns and serves makes the same numbers of the same rows. Labels never enter a feature.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from flows.errors import InputError
from flows.examples.rows import ExampleRows, FeatureRows, rows_of
from flows.vocabulary import LAST_CODE
from online_model.model.padding import logs_of_small, padded

if TYPE_CHECKING:
    from online_model.model.served_vectors import ServedVectors

CODES = LAST_CODE + 2
"""Actions and surfaces are 1 + their code; 0 is padding, or that none was named."""
COUNTER_LIMIT = 16.0
"""log1p of a counter is at most this: nine million."""
NO_EMBEDDING = {"embedding": np.empty(0, np.int32), "embeddings": np.empty((0, 0), np.float32)}
"""Of `ExampleColumns`, for a model that takes no user embeddings."""
HOUR_MS = 3_600_000
_DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True, eq=False)
class Features:
    """A batch of n candidates of c requests, with what stays to be looked up: the vectors of IDs.

    Attributes
    ----------
    user_id, pin_id : int64[n]
    context : int64[n]
        Which of the requests a candidate belongs to.
    sequence_pin_id : int64[c, l]
        Newest first; 0 where the mask says that there is none.
    sequence_action, sequence_surface : int64[c, l]
        1 + code; 0 is padding.
    sequence_age : float32[c, l]
        Hours from the action to the request, at least 0.
    sequence_mask : bool[c, l]
        Whether there is an action.
    user_counters : float32[c, 24]
        log1p of features.USER_COUNTERS, at most COUNTER_LIMIT.
    pin_counters : float32[n, 24]
        log1p of features.PIN_COUNTERS.
    surface : int64[n]
        1 + code of the surface of the request, 0 for none.
    hour, weekday : int64[c]
        Of the request, UTC; Monday is 0.
    slot : int64[n]
        As it was shown; -1: not known.
    user_embedding : float32[n, D + 1]
        As of `served_vectors.as_input`; of width 0 for a model that takes none.
    """

    user_id: np.ndarray
    pin_id: np.ndarray
    context: np.ndarray
    sequence_pin_id: np.ndarray
    sequence_action: np.ndarray
    sequence_surface: np.ndarray
    sequence_age: np.ndarray
    sequence_mask: np.ndarray
    user_counters: np.ndarray
    pin_counters: np.ndarray
    surface: np.ndarray
    hour: np.ndarray
    weekday: np.ndarray
    slot: np.ndarray
    user_embedding: np.ndarray

    def __len__(self) -> int:
        return len(self.pin_id)

    def part(self, low: int, high: int, first: int, behind: int) -> Features:
        """Candidates low to high, which are those of the requests first to behind; nothing but `context` is copied."""
        requests = {"user_counters", "hour", "weekday"}
        whole = {field.name: getattr(self, field.name) for field in fields(self)}
        cut = {
            name: values[first:behind] if name in requests or name.startswith("sequence_") else values[low:high]
            for name, values in whole.items()
        }
        return Features(**cut | {"context": cut["context"] - first})


@dataclass(frozen=True, eq=False)
class ExampleColumns:
    """n examples of c requests with s actions, in the order of their rows; some 150 bytes an example and 18 an action.

    Attributes
    ----------
    user_id, pin_id, request : int64[n], int64[n], int64[n]
    surface, slot : int16[n]
    pin_counters : float32[n, 24]
        log1p.
    user_counters, request_time : float32[c, 24], int64[c]
    offsets : int64[c + 1]
        Actions of request i are offsets[i] to offsets[i + 1] of the next four.
    action_pin_id, action_time, action, action_surface : int64[s], int64[s], uint8[s], uint8[s]
    embedding, embeddings : int32[n], float32[u, D + 1]
        The row of the second that is each example's `Features.user_embedding`; both are empty for a model that takes none.
    """

    user_id: np.ndarray
    pin_id: np.ndarray
    request: np.ndarray
    surface: np.ndarray
    slot: np.ndarray
    pin_counters: np.ndarray
    user_counters: np.ndarray
    request_time: np.ndarray
    offsets: np.ndarray
    action_pin_id: np.ndarray
    action_time: np.ndarray
    action: np.ndarray
    action_surface: np.ndarray
    embedding: np.ndarray
    embeddings: np.ndarray

    def __len__(self) -> int:
        return len(self.pin_id)

    @classmethod
    def of(cls, chunks: Iterable[FeatureRows], vectors: ServedVectors | None = None) -> Self:
        """Rows, one chunk after another.

        Parameters
        ----------
        chunks : iterable of FeatureRows
            With `vectors`, of ExampleRows: of others it isn't known what they were served with.
        vectors : ServedVectors, optional
            For a model that takes user embeddings.

        Raises
        ------
        InputError
            An action or a surface has no code of a vocabulary, or a slot or a counter can't be.
        """
        tables: list[np.ndarray] = []
        times: list[np.ndarray] = []

        def one(rows: FeatureRows) -> dict[str, np.ndarray]:
            if vectors is not None:
                assert isinstance(rows, ExampleRows)
                tables.append(vectors.tables(rows))
                times.append(rows.request_time)
            return _columns(rows)

        columns = cls._joined([one(rows) for rows in chunks] or [one(rows_of([], "no chunk"))])
        if vectors is None:
            return columns
        # All at once, for each run of a version is a file.
        given = vectors.given(columns.user_id, np.concatenate(times), np.concatenate(tables))
        return replace(columns, embedding=given.row, embeddings=given.vectors)

    @classmethod
    def _joined(cls, parts: list[dict[str, np.ndarray]]) -> Self:
        if len(parts) == 1:
            return cls(**parts[0])
        requests = np.cumsum([0, *(len(part["request_time"]) for part in parts)])
        entries = np.cumsum([0, *(len(part["action"]) for part in parts)])
        for part, first_request, first_entry in zip(parts, requests[:-1], entries[:-1], strict=True):
            part["request"] = part["request"] + first_request
            part["offsets"] = part["offsets"][1:] + first_entry
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return cls(**whole | {"offsets": np.concatenate([[0], whole["offsets"]])})

    def features(self, index: np.ndarray, length: int) -> Features:
        """Some of the examples as a batch.

        Parameters
        ----------
        index : int64[n]
        length : int
            So many of the newest actions; shorter sequences are padded.
        """
        used, context = np.unique(self.request[index], return_inverse=True)
        return self._batch(index, used, context.astype(np.int64), length)

    def all_features(self, length: int) -> Features:
        """All of them as a batch, as `features`."""
        return self._batch(slice(None), np.arange(len(self.request_time)), self.request, length)

    def _batch(self, index: np.ndarray | slice, used: np.ndarray, context: np.ndarray, length: int) -> Features:
        time = self.request_time[used]
        pin, action, surface = np.empty((3, len(used), length), np.int64)
        age, mask = np.empty((len(used), length), np.float32), np.empty((len(used), length), np.bool_)
        actions = (self.action_pin_id, self.action_time, self.action, self.action_surface)
        padded(self.offsets, used, time, *actions, np.float64(HOUR_MS), pin, action, surface, age, mask)
        return Features(
            user_id=self.user_id[index],
            pin_id=self.pin_id[index],
            context=context,
            sequence_pin_id=pin,
            sequence_action=action,
            sequence_surface=surface,
            sequence_age=age,
            sequence_mask=mask,
            user_counters=self.user_counters[used],
            pin_counters=self.pin_counters[index],
            surface=self.surface[index].astype(np.int64) + 1,
            hour=time // HOUR_MS % 24,
            weekday=(time // _DAY_MS + 3) % 7,  # 1970 began on a Thursday
            slot=self.slot[index].astype(np.int64),
            user_embedding=self._embeddings(index),
        )

    def _embeddings(self, index: np.ndarray | slice) -> np.ndarray:
        if self.embeddings.shape[1]:
            return self.embeddings[self.embedding[index]]
        return np.empty((len(self.pin_id[index]), 0), np.float32)

    def nbytes(self) -> int:
        """Memory that the columns take."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))


def logged(counters: np.ndarray) -> np.ndarray:
    """log1p of counters, float32, at most COUNTER_LIMIT."""
    out = np.empty(counters.shape, np.float32)
    # Most are small, and looked up.
    if logs_of_small(_LOGGED, counters.reshape(-1), out.reshape(-1)) < counters.size:
        large = (counters < 0) | (counters >= len(_LOGGED))
        out[large] = _logged(counters[large])
    return out


def _logged(counters: np.ndarray) -> np.ndarray:
    return np.minimum(np.log1p(counters.astype(np.float64)), COUNTER_LIMIT).astype(np.float32)


_LOGGED = _logged(np.arange(4_096))


def _columns(rows: FeatureRows) -> dict[str, np.ndarray]:
    users = rows.users
    _refuse_beyond("the surface", rows.surface, -1)
    _refuse_below_zero("pin", rows.pin_counters)
    _refuse_below_zero("user", users.counters)
    which, request = _requests(rows)
    shared = users.take(rows.request[which])
    pins, times, action, surface = (np.ascontiguousarray(shared.sequence[name]) for name in ("pin_id", "event_time", "action", "surface"))
    _refuse_beyond("the action of a step in the sequence", action, 0)
    _refuse_beyond("the surface of a step in the sequence", surface, 0)
    return {
        "user_id": rows.user_id,
        "pin_id": rows.pin_id,
        "request": request,
        "surface": rows.surface,
        "slot": rows.slot,
        "pin_counters": logged(rows.pin_counters),
        "user_counters": logged(shared.counters),
        "request_time": rows.request_time[which],
        "offsets": shared.offsets,
        "action_pin_id": pins,
        "action_time": times,
        "action": action,
        "action_surface": surface,
        **NO_EMBEDDING,
    }


def _requests(rows: FeatureRows) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each request, and which request each row is of.

    User features are stored once where they are equal, so requests of several times may share them, and those of several users without actions.
    """
    first = np.full(len(rows.users), -1)
    first[rows.request[::-1]] = np.arange(len(rows))[::-1]
    if (first >= 0).all() and np.array_equal(rows.request_time[first][rows.request], rows.request_time):
        # Each is of one time, and all are used.
        return first, rows.request.astype(np.int64)
    order = np.lexsort((rows.request_time, rows.request))
    code, time = rows.request[order], rows.request_time[order]
    first = np.ones(len(order), bool)
    first[1:] = (code[1:] != code[:-1]) | (time[1:] != time[:-1])
    request = np.empty(len(order), np.int64)
    request[order] = np.cumsum(first) - 1
    return order[first], request


def _refuse_below_zero(what: str, counters: np.ndarray) -> None:
    if counters.size and counters.min() < 0:
        where = int(np.argwhere(counters < 0)[0, 0])
        raise InputError(
            f"examples: a {what} counter of row {where} is {counters[where].min()}; counters never are; make the examples anew"
        )


def _refuse_beyond(what: str, codes: np.ndarray, least: int) -> None:
    if len(codes) and not least <= codes.min() <= codes.max() <= LAST_CODE:
        wrong = (codes > LAST_CODE) | (codes < least)
        raise InputError(f"examples: {what} has code {int(codes[wrong][0])}; codes are {least} to {LAST_CODE}, make the examples anew")
