"""Any online store of Feast's as a target: folded rows as bytes, and on-demand views that finalise them at the time that a request names.

What a store holds are rows, not values: a value changes with time though nobody acts, and is made when it is read, by the kernels of every other
reader. A time that the rows don't reach back to is an error, never another value. No log is read here but to find what has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
from feast import Entity, FeatureStore, FeatureView, Field, RequestSource, ValueType
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.transformation.python_transformation import PythonTransformation
from feast.types import Bytes, FeastType, Int64, String

from feature_repo import views
from feature_repo.errors import FeastReadError
from flows import features
from flows.errors import OnlineStoreError
from flows.kernels.reads import counters, group_bounds, newest
from flows.kernels.rows import SEQUENCE_CODES, fold_sequences, fold_sums
from flows.online.changes import Changes
from flows.online.held import Mark, fields_of, pairs_of, rows_in
from flows.outputs import ACTIONS, REVISITS
from flows.reading import FeatureReader
from flows.settings import Settings
from flows.state import tables
from flows.state.actions_task import state_fingerprint
from flows.state.meta import Meta
from flows.state.runs import Table
from flows.state.tables import LONGEST_WINDOW_MS

AS_OF = "as_of"
HELD = "held"
_FILLING = "filling"
_NOWHERE = Path("nowhere")
# Entities of one write.
_BATCH = 2_000
_LISTS = {name: views.SEQUENCE_PREFIX + name for name in features.SEQUENCE_FIELDS}

Inputs = dict[str, list[Any]]
"""Columns of a request: as Feast hands them to an on-demand view."""


@dataclass(frozen=True)
class _Rows:
    """A view of rows: one table of one flow. `expired_to` is where rows of an entity may begin to be missing."""

    view: str
    key: str
    flow: str
    table: Table

    @property
    def rows(self) -> str:
        return self.view.removesuffix("_rows")

    @property
    def expired_to(self) -> str:
        return f"{self.rows}_expired_to"


_USER_ACTIONS = _Rows("user_actions_rows", "user_id", ACTIONS, tables.SEQUENCES)
_USER_REVISITS = _Rows("user_revisits_rows", "user_id", ACTIONS, tables.REVISITS)
_PIN_REVISITS = _Rows("pin_revisits_rows", "pin_id", REVISITS, tables.REVISITS)
_ALL = (_USER_ACTIONS, _USER_REVISITS, _PIN_REVISITS)

# Of the one row that says what the store holds: the marks of all tasks, and what a reader needs that has no data directory.
_HELD: dict[str, FeastType] = {
    "held_marks": String,
    "held_definitions": String,
    "held_names": String,
    "held_watermark": Int64,
    "held_actions_expired_to": Int64,
    "held_revisits_expired_to": Int64,
}


# Definitions ------------------------------------------------------------------------------------------------------------------------------


class _Finalised(OnDemandFeatureView):
    """An on-demand view whose schema is as declared."""

    def infer_features(self) -> None:
        # Feast would run the function over values of its own making, which are no rows.
        pass


def definitions() -> list[Any]:
    """What `FeatureStore.apply` takes: views of rows, and views of the features' own names that finalise them."""
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    pin = Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.INT64)
    held = _view(HELD, [], _HELD)
    rows = {one: _view(one.view, [user if one.key == "user_id" else pin], {one.rows: Bytes, one.expired_to: Int64}) for one in _ALL}
    request = RequestSource(name="finalised_at", schema=[Field(name=AS_OF, dtype=Int64)])
    declared = {view.name: view.features for view in views.definitions(_NOWHERE).views.values()}

    def finalised(name: str, one: _Rows, function: Callable[[Inputs], Inputs]) -> OnDemandFeatureView:
        return _Finalised(
            name=name,
            schema=declared[name],
            sources=[rows[one], held, request],
            # By reference: the registry names the function, whose code is that of the version which reads.
            feature_transformation=PythonTransformation(cast(Any, function), f"{function.__module__}.{name}"),
            mode="python",
            tags={views.FINGERPRINT_TAG: features.fingerprint()},
        )

    return [
        user,
        pin,
        held,
        *rows.values(),
        finalised(views.USER_ACTION_SEQUENCE, _USER_ACTIONS, user_action_sequence),
        finalised(views.USER_REVISIT_COUNTERS, _USER_REVISITS, user_revisit_counters),
        finalised(views.PIN_REVISIT_COUNTERS, _PIN_REVISITS, pin_revisit_counters),
    ]


def _view(name: str, entities: list[Entity], fields: dict[str, FeastType]) -> FeatureView:
    return FeatureView(
        name=name,
        entities=entities,
        schema=[Field(name=entity.join_key, dtype=Int64) for entity in entities]
        + [Field(name=field, dtype=dtype) for field, dtype in fields.items()],
        # Feast wants one; rows have no history offline.
        source=views.ExportSource(name=f"{name}_nowhere", path=str(_NOWHERE / f"{name}.parquet"), timestamp_field="event_timestamp"),
        ttl=timedelta(0),
    )


# Reads ------------------------------------------------------------------------------------------------------------------------------------


def user_action_sequence(inputs: Inputs) -> Inputs:
    """Finalise rows of users' actions; None of a user who has none at the time.

    Raises
    ------
    FeastReadError
        The store isn't filled, or its rows don't reach back to the time.
    """
    out: Inputs = {name: [None] * len(inputs[AS_OF]) for name in _LISTS.values()}
    for as_of, places, rows, bounds in _held_rows(_USER_ACTIONS, inputs):
        index, offsets, exact = newest(rows, bounds, as_of)
        if not exact.all():
            raise _unreached(as_of, "of a user's newest actions the rows hold fewer")
        taken = rows[index]
        codes = taken[:, SEQUENCE_CODES]
        names = orjson.loads(inputs["held_names"][places[0]])
        columns = {
            "pin_id": taken[:, 4].tolist(),
            "action": [names["action"][str(code)] for code in (codes & 0xFF).tolist()],
            "surface": [names["surface"][str(code)] for code in (codes >> 8 & 0xFF).tolist()],
            "event_time": taken[:, 1].tolist(),
            "duration_ms": taken[:, 5].tolist(),
        }
        for place, start, end in zip(places, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            if end > start:
                for field, name in _LISTS.items():
                    out[name][place] = columns[field][start:end]
    return _named(views.USER_ACTION_SEQUENCE, out)


def user_revisit_counters(inputs: Inputs) -> Inputs:
    """Finalise rows of users' revisits; see `user_action_sequence`."""
    return _named(views.USER_REVISIT_COUNTERS, _counters(_USER_REVISITS, features.USER_COUNTERS, inputs))


def pin_revisit_counters(inputs: Inputs) -> Inputs:
    """Finalise rows of pins' revisits; see `user_action_sequence`."""
    return _named(views.PIN_REVISIT_COUNTERS, _counters(_PIN_REVISITS, features.PIN_COUNTERS, inputs))


def _named(view: str, columns: Inputs) -> Inputs:
    """Under both names that Feast may look for: with `full_feature_names` it leaves these to the function."""
    return columns | {f"{view}__{name}": values for name, values in columns.items()}


def _counters(one: _Rows, names: tuple[str, ...], inputs: Inputs) -> Inputs:
    out: Inputs = {name: [None] * len(inputs[AS_OF]) for name in names}
    for as_of, places, rows, bounds in _held_rows(one, inputs):
        for place in places:
            # Of an entity without a row it is not known since when.
            own = inputs[one.expired_to][place]
            expired_to = own if own is not None else inputs[f"held_{one.flow}_expired_to"][place]
            if as_of - LONGEST_WINDOW_MS < expired_to:
                raise _unreached(as_of, f"its longest window begins before {expired_to}, where rows have expired")
        values, found = counters(rows, bounds, as_of)
        for place, those in zip(np.array(places)[found].tolist(), values[found].tolist(), strict=True):
            for name, value in zip(names, those, strict=True):
                out[name][place] = value
    return out


def _held_rows(one: _Rows, inputs: Inputs) -> Iterator[tuple[int, list[int], np.ndarray, np.ndarray]]:
    """For each time that is asked for: the places of its requests, their rows, and where those of each begin and end."""
    for marks, definitions in zip(inputs["held_marks"], inputs["held_definitions"], strict=True):
        if marks in (None, _FILLING):
            raise FeastReadError(
                "the online store isn't filled: `feature_repo.portable.write(settings, store)` fills it from a data directory"
            )
        if definitions != features.fingerprint():
            raise FeastReadError(
                f"the online store was filled under other definitions (fingerprint {definitions}, now {features.fingerprint()}): empty it, and "
                "fill it with this version of Tidemark"
            )
    times = inputs[AS_OF]
    for as_of in sorted(set(times)):
        places = [place for place, time in enumerate(times) if time == as_of]
        ids = np.arange(len(places))
        try:
            rows = rows_in(one.table, ids, [inputs[one.rows][place] for place in places], one.view)
        except OnlineStoreError:
            raise FeastReadError(f"{one.view}: a value is not what was written; empty the online store, and fill it again") from None
        yield as_of, places, rows, np.searchsorted(rows[:, 0], np.arange(len(places) + 1))


def _unreached(as_of: int, why: str) -> FeastReadError:
    return FeastReadError(
        f"as_of {as_of}: {why}. What the online store holds doesn't reach back to it; `tidemark features --as-of` reads it from the log"
    )


# Writes -----------------------------------------------------------------------------------------------------------------------------------


def write(settings: Settings, store: FeatureStore) -> int:
    """Bring an online store to where the state of a data directory is: all of it the first time, then what has changed.

    One writer at a time. Rows come before the marks that they reflect; one that was killed goes on from the marks that are there.

    Parameters
    ----------
    settings : Settings
        Of the data directory.
    store : FeatureStore
        With `definitions` applied.

    Returns
    -------
    int
        How many rows were written.

    Raises
    ------
    OnlineStoreError
        The store holds another history, a newer state of this one, or half of a first fill. Nothing was written.
    """
    with FeatureReader(settings) as reader:
        changes = Changes(settings, reader.vocabulary)
        try:
            return _Writer(settings, store, reader, changes).write()
        finally:
            changes.close()


def empty(store: FeatureStore) -> None:
    """Take all rows out of an online store, so that it can be filled anew. Nobody should read or write it meanwhile."""
    provider, held = store._get_provider(), list(_applied(store).values())
    provider.teardown_infra(store.project, held, [])
    provider.update_infra(store.project, [], held, [], [], False)


def _applied(store: FeatureStore) -> dict[str, FeatureView]:
    # Of the registry itself: a store's own copy of a view without entities has no key, so that Redis wouldn't empty it (nor does `feast teardown`).
    return {name: store.registry.get_feature_view(name, store.project) for name in (HELD, *(one.view for one in _ALL))}


class _Writer:
    def __init__(self, settings: Settings, store: FeatureStore, reader: FeatureReader, changes: Changes) -> None:
        self._settings, self._store, self._reader, self._changes = settings, store, reader, changes
        self._views = _applied(store)
        self._fingerprint = state_fingerprint(settings, reader.vocabulary)

    def write(self) -> int:
        self._reader.refresh()
        tasks = [(flow, partition) for flow in (ACTIONS, REVISITS) for partition in range(self._settings.partitions)]
        metas = {task: self._reader.meta(*task) or Meta(*task, self._fingerprint) for task in tasks}
        there = self._there()
        for task, meta in metas.items():
            if there is not None:
                self._check(there.get(f"{task[0]}/{task[1]}"), meta)
        if there is None:
            self._put(HELD, [None], [{"held_marks": Value(string_val=_FILLING)}], datetime.fromtimestamp(0.001, UTC))
        elif all(there[f"{flow}/{partition}"].position == meta.position for (flow, partition), meta in metas.items()):
            return 0
        written = 0
        for one in _ALL:
            for partition in range(self._settings.partitions):
                meta = metas[one.flow, partition]
                since = there[f"{one.flow}/{partition}"].position if there is not None else None
                for ids, values in self._rows(one, meta, since):
                    made = [{one.rows: Value(bytes_val=data), one.expired_to: Value(int64_val=meta.expired_to)} for data in values]
                    self._put(one.view, ids, made, _stamp(meta.position))
                    written += len(made)
        self._put(HELD, [None], [self._held(metas)], _stamp(sum(meta.position for meta in metas.values())))
        return written

    def _there(self) -> dict[str, Mark] | None:
        """The marks of the tasks that the store reflects; None if it holds nothing."""
        (found,) = self._store._get_provider().online_read(self._store.config, self._views[HELD], [_key(HELD, None)], ["held_marks"])
        text = found[1]["held_marks"].string_val if found[1] else None
        if not text:
            return None
        marks = {task: Mark.from_bytes(orjson.dumps(mark)) for task, mark in orjson.loads(text).items()} if text != _FILLING else {}
        whole = {task: mark for task, mark in marks.items() if mark is not None}
        if not whole or len(whole) < len(marks):
            raise _refused("it holds a fill that was broken off, or one of another version")
        return whole

    def _check(self, there: Mark | None, meta: Meta) -> None:
        task = f"{meta.flow}/{meta.partition}"
        now = (self._fingerprint, self._settings.partitions, meta.corrected_to)
        if there is None or (there.fingerprint, there.partitions, there.corrected_to) != now:
            raise _refused(f"task {task} in it was made under other features, settings or corrections")
        if there.position > meta.position:
            raise _refused(f"it reflects task {task} up to position {there.position}, and state here only {meta.position}")
        last = self._changes.last_record(meta.flow, meta.partition, there.position)
        if last is not None and there.last and last != there.last:
            raise _refused(f"task {task} in it is of another log")

    def _rows(self, one: _Rows, meta: Meta, since: int | None) -> Iterator[tuple[list[int], Sequence[bytes]]]:
        """IDs and packed rows of all entities, or of those that records from `since` on may have changed."""
        if since is None:
            for rows in self._reader.scan(one.flow, one.table, meta.partition):
                ids = rows[group_bounds(rows[:, 0])[:-1], 0].tolist()
                yield ids, pairs_of(one.table, rows)[1::2]
            return
        for changed in self._changed(meta, since, meta.position):
            for at in range(0, len(changed), _BATCH):
                some = changed[at : at + _BATCH]
                nothing = np.empty((0, one.table.columns), np.int64)
                rows = self._reader.rows_of(one.flow, one.table, {meta.partition: some}).get(meta.partition, nothing)
                pairs = pairs_of(one.table, fold_sequences(rows) if one.table is tables.SEQUENCES else fold_sums(rows, one.table.keys))
                held = dict(zip(pairs[::2], pairs[1::2], strict=True))
                # What was credited may have been taken back: then there are no rows, and that is written.
                yield some.tolist(), [held.get(field, b"") for field in fields_of(one.table, some)]

    def _changed(self, meta: Meta, since: int, until: int) -> Iterator[np.ndarray]:
        if since == until:
            return
        changed = self._changes.entities(meta.flow, meta.partition, since, until, meta.corrected_to)
        if changed is not None:
            yield changed.ids
        elif until - since == 1:
            raise _refused(f"the log of task {meta.flow}/{meta.partition} no longer says what has changed since position {since}")
        else:
            middle = (since + until) // 2
            yield from self._changed(meta, since, middle)
            yield from self._changed(meta, middle, until)

    def _held(self, metas: dict[tuple[str, int], Meta]) -> dict[str, Value]:
        marks = {}
        for (flow, partition), meta in metas.items():
            last = self._changes.last_record(flow, partition, meta.position) or ""
            marks[f"{flow}/{partition}"] = orjson.loads(Mark.of(meta, self._settings.partitions, "", last).to_bytes())
        vocabulary = self._reader.vocabulary
        names = {"action": vocabulary.action_names(), "surface": vocabulary.surface_names()}
        watermark = self._reader.default_as_of()
        return {
            "held_marks": Value(string_val=orjson.dumps(marks).decode()),
            "held_definitions": Value(string_val=features.fingerprint()),
            "held_names": Value(string_val=orjson.dumps(names, option=orjson.OPT_NON_STR_KEYS).decode()),
            "held_watermark": Value() if watermark is None else Value(int64_val=watermark),
        } | {
            f"held_{flow}_expired_to": Value(int64_val=max(meta.expired_to for (its, _), meta in metas.items() if its == flow))
            for flow in (ACTIONS, REVISITS)
        }

    def _put(self, view: str, ids: Sequence[int | None], values: Sequence[dict[str, Value]], at: datetime) -> None:
        rows: list[Any] = [(_key(view, entity), those, at, None) for entity, those in zip(ids, values, strict=True)]
        for start in range(0, len(rows), _BATCH):
            self._store._get_provider().online_write_batch(self._store.config, self._views[view], rows[start : start + _BATCH], None)


def _key(view: str, entity: int | None) -> EntityKey:
    if entity is None:
        return EntityKey(join_keys=[DUMMY_ENTITY_ID], entity_values=[Value(string_val=DUMMY_ENTITY_VAL)])
    (key,) = (one.key for one in _ALL if one.view == view)
    return EntityKey(join_keys=[key], entity_values=[Value(int64_val=entity)])


def _stamp(position: int) -> datetime:
    """What Feast takes for the time of a row: later positions are later.

    Stores that refuse rows no newer than theirs, as Redis, so refuse older
    ones alone; a watermark may stand still while rows change.
    """
    return datetime.fromtimestamp(position, UTC)


def _refused(why: str) -> OnlineStoreError:
    return OnlineStoreError(f"the online store isn't written: {why}. Empty it (`feature_repo.portable.empty`), and fill it anew")
