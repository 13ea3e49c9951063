"""What a historical read is made of: from feature references to queries of the engine, and from its answers to columns.

All views of a read go through the log together, once. Values are those that the online store gives: null where it says NOT_FOUND.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from feast import FeatureView

from feature_repo import views
from feature_repo.asking import check_fingerprint
from feature_repo.columns import VIEWS
from feature_repo.embedding_reads import Embedded, embeddings_at
from feature_repo.entity_frame import EntityFrame
from feature_repo.errors import HistoricalReadError
from feature_repo.shelf import Shelf
from flows import features
from flows.errors import SettingsError
from flows.point_in_time import Asked, PointInTime
from flows.point_in_time.collecting import Collector
from flows.point_in_time.pins import PinPart
from flows.point_in_time.topics import TopicPart
from flows.point_in_time.users import UserPart, Users
from flows.settings import Settings
from flows.state import scratch
from flows.state.actions_task import state_fingerprint

# Rows that leave together where memory is bounded.
BATCH_ROWS = 16_384

_LISTS = {
    f"{views.SEQUENCE_PREFIX}{name}": pa.list_(pa.string() if name in ("action", "surface") else pa.int64())
    for name in features.SEQUENCE_FIELDS
}
_TYPES: dict[str, dict[str, pa.DataType]] = {
    views.USER_ACTION_SEQUENCE: _LISTS,
    views.USER_REVISIT_COUNTERS: dict.fromkeys(features.USER_COUNTERS, pa.int64()),
    views.PIN_REVISIT_COUNTERS: dict.fromkeys(features.PIN_COUNTERS, pa.int64()),
    views.TOPIC_REVISIT_STATS: {name: pa.type_for_alias(kind) for name, kind in features.TOPIC_STATS},
    views.USER_EMBEDDING: {name: pa.list_(pa.float32()) if name == "embedding" else pa.int64() for name in views.EMBEDDING_FEATURES},
}
_KINDS = {
    views.USER_ACTION_SEQUENCE: "user",
    views.USER_REVISIT_COUNTERS: "user",
    views.PIN_REVISIT_COUNTERS: "pin",
    views.TOPIC_REVISIT_STATS: "topic",
    views.USER_EMBEDDING: "embedding",
}


@dataclass
class Group:
    """Features of one kind of entity, by one column of the entity frame.

    Attributes
    ----------
    kind, key : str
        user, pin, topic, or embedding (of a user); the column.
    columns : dict
        Name of an output column → view and feature.
    """

    kind: str
    key: str
    columns: dict[str, tuple[str, str]] = field(default_factory=dict)

    def schema(self) -> pa.Schema:
        """Of its columns."""
        return pa.schema([(name, _TYPES[view][feature]) for name, (view, feature) in self.columns.items()])


class Historical:
    """A historical read, checked and ready to be made.

    Parameters
    ----------
    settings : Settings
    frame : EntityFrame
    wanted : mapping of FeatureView to list of str
        Features of each view.
    full_feature_names : bool
        Whether ``view__feature`` names a column, instead of the feature alone.

    Attributes
    ----------
    fingerprint : str
        Of the definitions and settings that values are made under.

    Raises
    ------
    HistoricalReadError
    """

    def __init__(
        self, settings: Settings, frame: EntityFrame, wanted: Mapping[FeatureView, Sequence[str]], full_feature_names: bool
    ) -> None:
        self._settings, self._frame = settings, frame
        self.fingerprint = state_fingerprint(settings, settings.load_vocabulary())
        frame.refuse_other(self.fingerprint)
        self._groups: dict[tuple[str, str], Group] = {}
        for view, names in wanted.items():
            self._add(view, names, full_feature_names)
        columns = [name for group in self._groups.values() for name in group.columns]
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise HistoricalReadError(f"two views of the read have a feature '{twice[0]}'; ask for full feature names")
        self._entities = {of: self._entities_of(group) for of, group in self._groups.items()}

    @contextmanager
    def batches(self, progress: Callable[[int, int], None] | None = None, spill: bool = True) -> Iterator[Iterator[pa.Table]]:
        """The result in stretches of rows, in the frame's order.

        Parameters
        ----------
        progress : callable, optional
            Called with how many log records have been read, and of how many.
        spill : bool
            Put answers aside in a temporary directory, so that memory holds the frame, one partition's rows, and a stretch.
        """
        directory = Path(scratch.take()) if spill else None
        try:
            yield self._made(self._shelves(directory, progress))
        finally:
            if directory is not None:
                shutil.rmtree(directory, ignore_errors=True)

    def table(self, progress: Callable[[int, int], None] | None = None) -> pa.Table:
        """The whole result."""
        with self.batches(progress, spill=False) as batches:
            return pa.concat_tables(batches)

    def _add(self, view: FeatureView, names: Sequence[str], full_feature_names: bool) -> None:
        if view.name not in VIEWS:
            raise HistoricalReadError(
                f"feature view '{view.name}' doesn't follow from the log of actions; the offline store has the history of {', '.join(VIEWS)}"
            )
        check_fingerprint(view)
        kind = _KINDS[view.name]
        key = view.join_keys[0]
        key = view.projection.join_key_map.get(key, key)
        group = self._groups.setdefault((kind, key), Group(kind, key))
        for feature in names:
            if feature not in _TYPES[view.name]:
                raise HistoricalReadError(f"feature view '{view.name}' has no feature '{feature}'")
            column = f"{view.projection.name_to_use()}__{feature}" if full_feature_names else feature
            if column in self._frame.table.column_names:
                raise HistoricalReadError(
                    f"the entity frame has a column '{column}', and so has the result; rename it, or ask for full feature names"
                )
            group.columns[column] = (view.name, feature)

    def _entities_of(self, group: Group) -> np.ndarray | list[str]:
        view = next(iter(group.columns.values()))[0]
        return self._frame.texts(group.key, view) if group.kind == "topic" else self._frame.integers(group.key, view)

    def _shelves(self, directory: Path | None, progress: Callable[[int, int], None] | None) -> list[Shelf]:
        """Every group's answers, after one read of the log."""
        shelves: list[Shelf] = []
        moments = self._frame.moments
        with PointInTime(self._settings, progress) as point:
            names = point.vocabulary.action_names(), point.vocabulary.surface_names()
            collectors: list[Collector] = []
            asked = []
            for (kind, key), group in self._groups.items():
                shelf = Shelf(group.schema(), directory, f"{kind}-{len(shelves)}")
                shelves.append(shelf)
                if kind == "embedding":
                    users = np.asarray(self._entities[kind, key])
                    shelf.put(np.arange(len(users)), _embedding_rows(group, embeddings_at(self._settings, users, moments.time)))
                    continue
                queries = Asked(self._entities[kind, key], moments.time, moments.arrived_by, moments.positions, moments.position)
                asked.append(queries)
                if kind == "user":
                    asks = {view for view, _ in group.columns.values()}
                    collectors.append(
                        Users(
                            queries,
                            self._settings.partitions,
                            views.USER_ACTION_SEQUENCE in asks,
                            views.USER_REVISIT_COUNTERS in asks,
                            lambda part, group=group, shelf=shelf: shelf.put(part.query, _user_rows(group, part, names)),  # type: ignore[misc]
                        )
                    )
                elif kind == "pin":
                    collectors += point.collect_pins(
                        queries,
                        lambda part, group=group, shelf=shelf: shelf.put(part.query, _number_rows(group, part)),  # type: ignore[misc]
                    )
                else:
                    collectors += point.collect_topics(
                        queries,
                        lambda part, group=group, shelf=shelf: shelf.put(part.query, _number_rows(group, part)),  # type: ignore[misc]
                    )
            if len(self._frame) and collectors:
                point.run(collectors, *asked)
        return shelves

    def _made(self, shelves: list[Shelf]) -> Iterator[pa.Table]:
        n = len(self._frame)
        for begin in range(0, max(n, 1), BATCH_ROWS):
            end = min(begin + BATCH_ROWS, n)
            table = self._frame.table.slice(begin, end - begin)
            for shelf in shelves:
                answers = shelf.take(begin, end)
                for name in answers.column_names:
                    table = table.append_column(answers.schema.field(name), answers.column(name))
            yield table.replace_schema_metadata({views.FINGERPRINT_TAG: self.fingerprint})


def _user_rows(group: Group, part: UserPart, names: tuple[dict[int, str], dict[int, str]]) -> pa.RecordBatch:
    found = part.found
    words = dict(zip(("action", "surface"), names, strict=True))
    offsets, missing = pa.array(found.offsets.astype(np.int32)), pa.array(~found.found_sequence)
    columns = []
    for view, feature in group.columns.values():
        if view == views.USER_ACTION_SEQUENCE:
            name = feature.removeprefix(views.SEQUENCE_PREFIX)
            numbers = getattr(found, name)
            values = _texts(name, numbers, words[name]) if name in words else pa.array(numbers)
            columns.append(pa.ListArray.from_arrays(offsets, values, mask=missing))
        else:
            columns.append(pa.array(found.counters[:, features.USER_COUNTERS.index(feature)], mask=~found.found_counters))
    return pa.RecordBatch.from_arrays(columns, schema=group.schema())


def _embedding_rows(group: Group, found: Embedded) -> pa.RecordBatch:
    n, dim = found.vectors.shape
    lists = pa.ListArray.from_arrays(
        pa.array(np.arange(n + 1, dtype=np.int32) * dim), pa.array(found.vectors.reshape(-1)), mask=pa.array(~found.found)
    )
    columns = {
        "embedding": lists,
        "embedding_version": pa.array(found.version, mask=~found.found),
        "embedding_position": pa.array(found.position, mask=~found.found),
    }
    return pa.RecordBatch.from_arrays([columns[feature] for _, feature in group.columns.values()], schema=group.schema())


def _number_rows(group: Group, part: PinPart | TopicPart) -> pa.RecordBatch:
    declared = features.PIN_COUNTERS if group.kind == "pin" else tuple(name for name, _ in features.TOPIC_STATS)
    schema = group.schema()
    columns = [
        pa.array(part.found.values[:, declared.index(feature)].astype(kind.to_pandas_dtype(), copy=False), mask=~part.found.found)
        for (_, feature), kind in zip(group.columns.values(), schema.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _texts(field: str, codes: np.ndarray, names: dict[int, str]) -> pa.Array:
    known = pa.array([names.get(code) for code in range(256)], pa.string())
    texts = known.take(pa.array(codes.astype(np.int16)))
    if texts.null_count:
        code = int(codes[np.flatnonzero(~texts.is_valid().to_numpy(zero_copy_only=False))[0]])
        raise SettingsError(
            f"the log holds {field} code {code}, which the vocabulary does not name; set `vocabulary` to the file that the flows run with"
        )
    return texts
