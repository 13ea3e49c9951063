"""Feast's response over columns of arrays: what `to_dict` gives is made from them at once, and the protobuf only if somebody asks for it.

It must say in every form what Feast's own response over the same values says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from feast import FeatureView, ValueType
from feast.infra.online_stores.online_store import OnlineStore
from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.columns import Columns, Keys


@dataclass(frozen=True, eq=False)
class Answered:
    """What one view says: the features that were asked for (name in the response, of the feature), and its columns; None: nothing of anybody."""

    wanted: list[tuple[str, str]]
    columns: Columns | None


class ArrayResponse(OnlineResponse):
    """An `OnlineResponse` whose protobuf is made when it is first looked at.

    Parameters
    ----------
    keys : dict
        The entities, by join key.
    answers : list of Answered
    as_of : int or None
        Of the values, ms: the event timestamp of whatever was found.
    tables : list of (FeatureView, list of str)
        For the types of features, which Feast's own response knows too.
    """

    def __init__(
        self,
        keys: dict[str, Keys],
        answers: list[Answered],
        as_of: int | None,
        tables: list[tuple[FeatureView, list[str]]],
    ) -> None:
        # Not the base's: it wants the protobuf.
        self._keys = keys
        self._answers = answers
        self._as_of = as_of
        self._tables = tables
        self._rows = len(next(iter(keys.values())))

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:
        """As Feast's: values by name, and by ``<name>__ts`` the seconds of their event timestamps."""
        out: dict[str, Any] = {}
        for key, values in self._keys.items():
            out[key] = list(values) if isinstance(values, list) else values.tolist()
            if include_event_timestamps:
                out[key + TIMESTAMP_POSTFIX] = [0] * self._rows
        seconds = (self._as_of or 0) // 1000
        for answer in self._answers:
            for name, feature in answer.wanted:
                out[name] = [None] * self._rows if answer.columns is None else answer.columns.python(feature)
                if include_event_timestamps:
                    out[name + TIMESTAMP_POSTFIX] = [seconds if found else 0 for found in _found(answer, self._rows)]
        return out

    @cached_property
    def proto(self) -> GetOnlineFeaturesResponse:  # type: ignore[override]
        """As Feast's server sends it."""
        response = GetOnlineFeaturesResponse()
        never, then = Timestamp(), Timestamp()
        then.FromMilliseconds(self._as_of or 0)

        def add(name: str, values: list[Value], found: list[bool], stamps: list[Timestamp]) -> None:
            response.metadata.feature_names.val.append(name)
            statuses = [FieldStatus.PRESENT if told else FieldStatus.NOT_FOUND for told in found]
            response.results.append(GetOnlineFeaturesResponse.FeatureVector(values=values, statuses=statuses, event_timestamps=stamps))

        for key, entities in self._keys.items():
            if isinstance(entities, list):
                values = [Value(string_val=entity) for entity in entities]
            else:
                values = [Value(int64_val=entity) for entity in entities.tolist()]
            add(key, values, [True] * self._rows, [never] * self._rows)
        for answer in self._answers:
            found = _found(answer, self._rows)
            stamps = [then if told else never for told in found]
            for name, feature in answer.wanted:
                add(name, [Value()] * self._rows if answer.columns is None else answer.columns.protos(feature), found, stamps)
        return response

    @cached_property
    def _feature_types(self) -> dict[str, ValueType]:  # type: ignore[override]
        return OnlineStore._build_feature_types(self._tables)


def _found(answer: Answered, rows: int) -> list[bool]:
    return [False] * rows if answer.columns is None else answer.columns.found.tolist()
