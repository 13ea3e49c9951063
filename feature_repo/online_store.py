"""Feast's online store over task state, where it lies or as Redis holds it: it reads what the flows wrote, and writes nothing, ever.

`feature_store.yaml` names the class; Feast wants its configuration class, `<name>Config`, in the same module.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from feast import Entity, FeatureService, FeatureStore, FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig

from feature_repo.asking import Plan, Plans, check_fingerprint, columns_of
from feature_repo.columns import VIEWS, Keys, read_columns
from feature_repo.errors import FeastReadError, StateIsWrittenByItsLogError, plain_in_feast_commands
from feature_repo.first_words import speak_first
from feature_repo.readers import CaughtUp, caught_up, read_together
from feature_repo.response import Answered, ArrayResponse
from feature_repo.store_config import DataDirectoryConfig

Row = dict[str, Value]
LATEST_AS_OF = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z, the last event time there can be

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_as_of: ContextVar[int | None] = ContextVar("as_of", default=None)
_log = logging.getLogger(__name__)

speak_first()


class TaskStateOnlineStoreConfig(DataDirectoryConfig):
    """What `feature_store.yaml` may say under ``online_store``: ``data``, as of its base."""

    type: Literal["feature_repo.online_store.TaskStateOnlineStore"] = "feature_repo.online_store.TaskStateOnlineStore"


@contextmanager
def reading_as_of(as_of: int | None) -> Iterator[None]:
    """Reads through Feast within this context are as of that time; Feast's API has no argument for it.

    Parameters
    ----------
    as_of : int or None
        Milliseconds since the epoch; None is the default, the greatest accepted event time.
    """
    if as_of is not None:
        if isinstance(as_of, bool) or not isinstance(as_of, (int, np.integer)) or not 0 <= as_of <= LATEST_AS_OF:
            raise FeastReadError(f"as_of is {as_of!r}; it must be whole milliseconds since 1970-01-01 UTC, from 0 to {LATEST_AS_OF}")
        as_of = int(as_of)
    token = _as_of.set(as_of)
    try:
        yield
    finally:
        _as_of.reset(token)


def one_catch_up(store: FeatureStore) -> AbstractContextManager[CaughtUp]:
    """All reads of the store within this context reflect the positions that it yields.

    Over Redis one of them is refused (MovedOnError) where a task has been written since another one; `readers.read_together` reads again by itself.

    Examples
    --------
    >>> with one_catch_up(store) as caught:  # doctest: +SKIP
    ...     rows = store.get_online_features(...)
    ...     caught.positions
    """
    return caught_up(store.config.online_store.resolve())


def current_as_of(caught: CaughtUp) -> int | None:
    """The as_of of a read at this point: that of `reading_as_of`, else the reader's default; None where nothing was accepted yet."""
    as_of = _as_of.get()
    return caught.default_as_of if as_of is None else as_of


class TaskStateOnlineStore(OnlineStore):
    """Reads the views of `feature_repo.views` out of task state; out of Redis, where the setting `online` names one.

    An entity that has nothing to say is NOT_FOUND. The event timestamp of a row is its as_of.
    """

    def __init__(self) -> None:
        self._plans = Plans()

    # Otherwise the first read imports the client of every database that Feast knows, to find out that none is ours.
    _versioned_read_supported = False

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, Row | None]]:
        check_fingerprint(table)
        view = VIEWS.get(table.name)
        if view is None:
            raise FeastReadError(f"feature view '{table.name}' is not in task state, which holds {', '.join(VIEWS)}")
        names = [feature.name for feature in table.features] if requested_features is None else requested_features
        keys = _integer_keys(entity_keys) if view.key is int else _text_keys(entity_keys)

        def rows(caught: CaughtUp) -> list[tuple[datetime | None, Row | None]]:
            as_of = current_as_of(caught)
            if as_of is None or not entity_keys:
                return [(None, None)] * len(entity_keys)
            timestamp = _EPOCH + timedelta(milliseconds=as_of)
            columns = read_columns(view, caught.shared, keys, as_of)
            values = zip(*(columns.protos(name) for name in names), strict=True) if names else iter([()] * len(entity_keys))
            return [
                (timestamp, dict(zip(names, row, strict=True))) if found else (None, None)
                for found, row in zip(columns.found.tolist(), values, strict=True)
            ]

        return read_together(config.online_store.resolve(), rows)

    def get_online_features(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """As Feast's own, which makes an object of each value, but in columns; all views of a request reflect one prefix."""
        with plain_in_feast_commands():
            plan = self._plans.of(registry, project, features, full_feature_names)
            keys = None if plan is None else columns_of(entity_rows, plan)
            settings = config.online_store.resolve()
            # Feast counts values for its metrics as it puts them into its own response.
            if plan is not None and keys is not None and not include_feature_view_version_metadata and not _feast_counts():
                return read_together(settings, partial(_by_columns, plan, keys))
            rows = entity_rows if keys is None else {key: list(values) for key, values in keys.items()}
            read = partial(
                super().get_online_features,
                config,
                features,
                rows,
                registry,
                project,
                full_feature_names,
                include_feature_view_version_metadata,
            )
            return read_together(settings, lambda _: read())

    async def get_online_features_async(self, config: RepoConfig, *args: Any, **kwargs: Any) -> OnlineResponse:
        # A read blocks (RocksDB has no other), so it goes to a thread; to_thread takes the as_of of the context along.
        return await asyncio.to_thread(self.get_online_features, config, *args, **kwargs)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, Row | None]]:
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, Row, datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        raise StateIsWrittenByItsLogError(table.name, "a write through Feast (push, write_to_online_store or materialize)")

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, Row, datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        self.online_write_batch(config, table, data, progress)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Do nothing: the flows create state, and a view that goes from the registry leaves it as it is."""

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Do nothing but say so: a registry can be applied again in a second, state can only be replayed."""
        _log.warning("feast teardown empties the registry only; the task state in %s is kept", config.online_store.resolve().state)


def _by_columns(plan: Plan, keys: dict[str, Keys], caught: CaughtUp) -> OnlineResponse:
    as_of = current_as_of(caught)
    answers = [
        Answered(part.wanted, None if as_of is None else read_columns(part.view, caught.shared, keys[part.key], as_of))
        for part in plan.parts
    ]
    return ArrayResponse(keys, answers, as_of, plan.tables)


def _feast_counts() -> bool:
    metrics = sys.modules.get("feast.metrics")
    return metrics is not None and metrics._config.online_features


def _integer_keys(keys: list[EntityKey]) -> npt.NDArray[np.int64]:
    _check_keys(keys, "int64_val")
    return np.array([key.entity_values[0].int64_val for key in keys], dtype=np.int64)


def _text_keys(keys: list[EntityKey]) -> list[str]:
    _check_keys(keys, "string_val")
    return [key.entity_values[0].string_val for key in keys]


def _check_keys(keys: list[EntityKey], wanted: str) -> None:
    # A field that isn't set reads as 0 or "", so without this a wrong type would silently be the entity 0.
    for key in keys:
        held = key.entity_values[0].WhichOneof("val")
        if held != wanted:
            raise FeastReadError(f"entity key {key.join_keys[0]} came as {held}, not as {wanted}; an id is a whole number, a topic is text")
