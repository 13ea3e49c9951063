"""What a view says of entities: columns of arrays, as the reader gives them, and Python's or Feast's values of them when somebody asks.

A value becomes an object once, at the very end, and in whole columns: to make objects value by value, row by row, was most of the time of a read
through Feast. Nothing here reads anything by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from feast.protos.feast.types.Value_pb2 import FloatList, Int64List, StringList, Value

from feature_repo import views
from feature_repo.embedding_reads import embeddings_at
from feature_repo.readers import SharedReader
from flows import features
from flows.errors import SettingsError
from flows.outputs import ACTIONS, REVISITS

if TYPE_CHECKING:
    from flows.answers import SequenceRows

Keys = npt.NDArray[np.int64] | list[str]
_NOTHING = Value()


class Columns(Protocol):
    """What one view says of n entities.

    Attributes
    ----------
    found : bool[n]
    """

    @property
    def found(self) -> npt.NDArray[np.bool_]: ...

    def python(self, name: str) -> list[Any]:
        """The values of a feature, one for each entity; None where it has nothing to say."""

    def protos(self, name: str) -> list[Value]:
        """The same as Feast's values; an empty one where it has nothing to say."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """A view of single numbers: values of n entities and k features, which may hold whole numbers as floats."""

    found: npt.NDArray[np.bool_]
    values: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    kinds: dict[str, str]

    @cached_property
    def _lists(self) -> dict[str, list[Any]]:
        everything = bool(self.found.all())
        told = self.found.tolist()
        lists = {}
        for (name, kind), column in zip(self.kinds.items(), self.values.T, strict=True):
            values = column.astype(kind, copy=False).tolist()
            lists[name] = values if everything else [value if found else None for value, found in zip(values, told, strict=True)]
        return lists

    def python(self, name: str) -> list[Any]:
        """See Columns."""
        return list(self._lists[name])

    def protos(self, name: str) -> list[Value]:
        """See Columns."""
        values = self._lists[name]
        if self.kinds[name] == "float64":
            return [_NOTHING if value is None else Value(double_val=value) for value in values]
        # Feast copies values into its response, so equal ones can be one object: most counters are a few small numbers.
        made = {value: _NOTHING if value is None else Value(int64_val=value) for value in set(values)}
        return [made[value] for value in values]


@dataclass(frozen=True, eq=False)
class Sequences:
    """The view of action sequences; names of codes by code, None where the vocabulary has none."""

    rows: SequenceRows
    names: dict[str, npt.NDArray[np.object_]]

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """See Columns."""
        return self.rows.found

    def python(self, name: str) -> list[Any]:
        """See Columns."""
        field = name.removeprefix(views.SEQUENCE_PREFIX)
        column = getattr(self.rows, field)
        values = (self._words(field, column) if field in self.names else column).tolist()
        offsets = self.rows.offsets.tolist()
        return [
            values[start:end] if found else None
            for found, start, end in zip(self.rows.found.tolist(), offsets[:-1], offsets[1:], strict=True)
        ]

    def protos(self, name: str) -> list[Value]:
        """See Columns."""
        if name.removeprefix(views.SEQUENCE_PREFIX) in self.names:
            return [_NOTHING if words is None else Value(string_list_val=StringList(val=words)) for words in self.python(name)]
        return [_NOTHING if numbers is None else Value(int64_list_val=Int64List(val=numbers)) for numbers in self.python(name)]

    def _words(self, field: str, codes: npt.NDArray[np.int16]) -> npt.NDArray[np.object_]:
        words: npt.NDArray[np.object_] = self.names[field][codes]
        unknown = words == np.array(None, object)
        if unknown.any():
            raise SettingsError(
                f"task state holds {field} code {int(codes[unknown][0])}, which the vocabulary does not name; "
                "set `vocabulary` to the file that the flows run with"
            )
        return words


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The view of user embeddings.

    Attributes
    ----------
    found : bool[n]
    vectors : float32[n, D]
    numbers : dict of str to int64[n]
    """

    found: npt.NDArray[np.bool_]
    vectors: npt.NDArray[np.float32]
    numbers: dict[str, npt.NDArray[np.int64]]

    def python(self, name: str) -> list[Any]:
        """See Columns."""
        values = (self.vectors if name == "embedding" else self.numbers[name]).tolist()
        return [value if found else None for found, value in zip(self.found.tolist(), values, strict=True)]

    def protos(self, name: str) -> list[Value]:
        """See Columns."""
        if name == "embedding":
            return [_NOTHING if value is None else Value(float_list_val=FloatList(val=value)) for value in self.python(name)]
        return [_NOTHING if value is None else Value(int64_val=value) for value in self.python(name)]


@dataclass(frozen=True, eq=False)
class Repeated:
    """Columns of distinct entities, in the places where they were asked for: a user beside 500 pins is read once."""

    columns: Columns
    places: npt.NDArray[np.int64]

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """See Columns."""
        return self.columns.found[self.places]

    def python(self, name: str) -> list[Any]:
        """See Columns."""
        values = self.columns.python(name)
        if any(isinstance(value, list) for value in values):
            # Each row's is its own, as Feast's are.
            return [value if (value := values[place]) is None else list(value) for place in self.places.tolist()]
        return [values[place] for place in self.places.tolist()]

    def protos(self, name: str) -> list[Value]:
        """See Columns."""
        values = self.columns.protos(name)
        return [values[place] for place in self.places.tolist()]


@dataclass(frozen=True)
class View:
    """How a view is read.

    Attributes
    ----------
    key : type
        Of its join key's values, int or str.
    flow : str
        Whose tasks hold it.
    names : tuple of str
        Its features, as task state has them.
    read : callable
        Takes the reader, distinct entities, and the as_of.
    """

    key: type
    flow: str
    names: tuple[str, ...]
    read: Callable[[SharedReader, Any, int], Columns]


def read_columns(view: View, shared: SharedReader, keys: Keys, as_of: int) -> Columns:
    """What a view says of entities, however often each is named."""
    distinct, places = np.unique(keys, return_inverse=True)
    if len(distinct) == len(keys):
        return view.read(shared, keys, as_of)
    return Repeated(view.read(shared, distinct.tolist() if view.key is str else distinct, as_of), places)


def _sequences(shared: SharedReader, users: npt.NDArray[np.int64], as_of: int) -> Columns:
    return Sequences(shared.reader.user_sequences(users, as_of), {"action": shared.action_names, "surface": shared.surface_names})


def _user_counters(shared: SharedReader, users: npt.NDArray[np.int64], as_of: int) -> Columns:
    rows = shared.reader.user_counters(users, as_of)
    return Numbers(rows.found, rows.values, dict.fromkeys(features.USER_COUNTERS, "int64"))


def _pin_counters(shared: SharedReader, pins: npt.NDArray[np.int64], as_of: int) -> Columns:
    rows = shared.reader.pin_counters(pins, as_of)
    return Numbers(rows.found, rows.values, dict.fromkeys(features.PIN_COUNTERS, "int64"))


def _topic_stats(shared: SharedReader, topics: list[str], as_of: int) -> Columns:
    rows = shared.reader.topic_stats(topics, as_of)
    return Numbers(rows.found, rows.values, dict(features.TOPIC_STATS))


def _embeddings(shared: SharedReader, users: npt.NDArray[np.int64], as_of: int) -> Columns:
    found = embeddings_at(shared.settings, users, as_of)
    return Embeddings(found.found, found.vectors, {"embedding_version": found.version, "embedding_position": found.position})


# The views that are task state, and the one of user embeddings. Whatever is named here is read-only through Feast.
VIEWS: dict[str, View] = {
    views.USER_ACTION_SEQUENCE: View(int, ACTIONS, tuple(views.SEQUENCE_PREFIX + name for name in features.SEQUENCE_FIELDS), _sequences),
    views.USER_REVISIT_COUNTERS: View(int, ACTIONS, features.USER_COUNTERS, _user_counters),
    views.PIN_REVISIT_COUNTERS: View(int, REVISITS, features.PIN_COUNTERS, _pin_counters),
    views.TOPIC_REVISIT_STATS: View(str, ACTIONS, tuple(name for name, _ in features.TOPIC_STATS), _topic_stats),
    views.USER_EMBEDDING: View(int, ACTIONS, views.EMBEDDING_FEATURES, _embeddings),
}
