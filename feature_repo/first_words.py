"""What this repository says to calls of Feast that would otherwise end in Feast's words, before a store is asked: writes, and reads of history.

Feast looks for a push source, columns and rows first: a frame that lacks a column is a KeyError, one without rows a warning. So methods of its
FeatureStore are wrapped, once. Must never change what they do for a store that is not of this repository, nor what they return.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from feast import FeatureService, FeatureStore

from feature_repo.asking import unknown_feature
from feature_repo.columns import VIEWS
from feature_repo.errors import HistoricalReadError, StateIsWrittenByItsLogError, plain_in_feast_commands
from feature_repo.store_config import DataDirectoryConfig

# Method of FeatureStore → the argument that names the view or its push source, the store that would be written to, and what it is called.
# Push sources have the names of their views; a registry from before there were any is told the same.
_WRITES = {
    "push": ("push_source_name", "online_store", "a push"),
    "push_async": ("push_source_name", "online_store", "a push"),
    "write_to_online_store": ("feature_view_name", "online_store", "a write to the online store"),
    "write_to_online_store_async": ("feature_view_name", "online_store", "a write to the online store"),
    "write_to_offline_store": ("feature_view_name", "offline_store", "a write to the offline store"),
}


@functools.cache
def speak_first() -> None:
    """Wrap the methods. Each store of this repository calls it as its module is imported, so before Feast has one."""
    for method, (argument, store, action) in _WRITES.items():
        setattr(FeatureStore, method, _refusing(getattr(FeatureStore, method), argument, store, action))
    FeatureStore.get_historical_features = _explaining(FeatureStore.get_historical_features)  # type: ignore[method-assign]


def _refusing(call: Callable[..., Any], argument: str, store: str, action: str) -> Callable[..., Any]:
    def check(self: FeatureStore, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        view = arguments[0] if arguments else named.get(argument)
        if isinstance(view, str) and view in VIEWS and _is_ours(self, store):
            raise StateIsWrittenByItsLogError(view, action)

    if inspect.iscoroutinefunction(call):

        @functools.wraps(call)
        async def refused_later(self: FeatureStore, *arguments: Any, **named: Any) -> Any:
            check(self, arguments, named)
            return await call(self, *arguments, **named)

        return refused_later

    @functools.wraps(call)
    def refused(self: FeatureStore, *arguments: Any, **named: Any) -> Any:
        check(self, arguments, named)
        return call(self, *arguments, **named)

    return refused


def _explaining(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def explained(self: FeatureStore, entity_df: Any = None, features: Any = (), *arguments: Any, **named: Any) -> Any:
        if not _is_ours(self, "offline_store"):
            return call(self, entity_df, features, *arguments, **named)
        with plain_in_feast_commands():
            wanted = _checked(features)
            try:
                return call(self, entity_df, wanted, *arguments, **named)
            except KeyError as error:
                told = unknown_feature(wanted)
                raise (error if told is None else HistoricalReadError(str(told))) from None

    return explained


def _checked(features: Any) -> FeatureService | list[str]:
    if isinstance(features, FeatureService):
        return features
    if isinstance(features, str) or not isinstance(features, Sequence) or not all(isinstance(one, str) for one in features):
        raise HistoricalReadError("features are a list of 'view:feature' texts, or a feature service")
    if not features:
        raise HistoricalReadError("no features are asked for; give a list of 'view:feature' texts, or a feature service")
    for one in features:
        if ":" not in one:
            raise HistoricalReadError(f"'{one}' is not of the form 'view:feature'")
    return list(features)


def _is_ours(store: FeatureStore, which: str) -> bool:
    return isinstance(getattr(store.config, which), DataDirectoryConfig)
