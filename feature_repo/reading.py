"""Opens the feature store of a data directory and reads single entities as plain dicts, through Feast like everybody else."""

from __future__ import annotations

from typing import Any

from feast import FeatureStore
from feast.repo_config import load_repo_config

from feature_repo import views
from feature_repo.online_store import current_as_of, reading_as_of
from feature_repo.readers import CaughtUp, read_together
from feature_repo.repository import PROJECT, REPOSITORY
from flows import features
from flows.settings import Settings

Features = dict[str, Any]


def open_store(settings: Settings) -> FeatureStore:
    """The feature store over a data directory, with the definitions of this code applied to its registry.

    Keep it: Feast caches by store, and opening one parses the registry.

    Parameters
    ----------
    settings : Settings
        Of the data directory. It is created if it isn't there, with nothing but the registry.
    """
    # The YAML file stays the one declaration; here it gets what it leaves out. Feast makes objects of these dicts at first use.
    config = load_repo_config(REPOSITORY, REPOSITORY / "feature_store.yaml")
    config.registry_config = {**config.registry_config, "path": str(settings.registry.resolve())}
    config.online_config = {**config.online_config, "settings": settings}
    config.offline_config = {**config.offline_config, "settings": settings}
    store = FeatureStore(config=config)
    defined = views.definitions(settings.offline.resolve())
    if not _is_applied(store, defined):
        store.apply(defined.objects())
    return store


def user_features(store: FeatureStore, user_id: int, as_of: int | None = None) -> Features:
    """Sequence, newest first, and counters of a user; empty and zero for one that has nothing to say.

    Parameters
    ----------
    store : FeatureStore
        Of `open_store`.
    user_id : int
        The user.
    as_of : int, optional
        Milliseconds since the epoch; by default the greatest accepted event time.

    Returns
    -------
    dict
        ``user_id``, ``found``, ``as_of``, ``sequence`` (a dict per action), ``counters``, ``positions``.
    """
    sequence_names = [views.SEQUENCE_PREFIX + name for name in features.SEQUENCE_FIELDS]
    read = _read(
        store,
        {"user_id": user_id},
        {views.USER_ACTION_SEQUENCE: sequence_names, views.USER_REVISIT_COUNTERS: list(features.USER_COUNTERS)},
        as_of,
    )
    values = read.pop("values")
    columns = [values[name] or [] for name in sequence_names]
    sequence = [dict(zip(features.SEQUENCE_FIELDS, action, strict=True)) for action in zip(*columns, strict=True)]
    return {**read, "sequence": sequence, "counters": {name: values[name] or 0 for name in features.USER_COUNTERS}}


def pin_features(store: FeatureStore, pin_id: int, as_of: int | None = None) -> Features:
    """Counters of a pin: ``pin_id``, ``found``, ``as_of``, ``counters``, ``positions``; see `user_features`."""
    read = _read(store, {"pin_id": pin_id}, {views.PIN_REVISIT_COUNTERS: list(features.PIN_COUNTERS)}, as_of)
    values = read.pop("values")
    return {**read, "counters": {name: value or 0 for name, value in values.items()}}


def topic_features(store: FeatureStore, topic: str, as_of: int | None = None) -> Features:
    """Statistics of a topic: ``topic``, ``found``, ``as_of``, ``statistics``, ``positions``; see `user_features`."""
    kinds = dict(features.TOPIC_STATS)
    read = _read(store, {"topic": topic}, {views.TOPIC_REVISIT_STATS: list(kinds)}, as_of)
    values = read.pop("values")
    return {**read, "statistics": {name: value or (0.0 if kinds[name] == "float64" else 0) for name, value in values.items()}}


def _read(store: FeatureStore, entity: dict[str, int | str], wanted: dict[str, list[str]], as_of: int | None) -> Features:
    references = [f"{view}:{name}" for view, names in wanted.items() for name in names]

    def read(caught: CaughtUp) -> Features:
        response = store.get_online_features(references, [entity]).to_dict()
        values = {name: response[name][0] for names in wanted.values() for name in names}
        return {
            **entity,
            "found": any(value is not None for value in values.values()),
            "as_of": current_as_of(caught),
            "positions": caught.positions,
            "values": values,
        }

    with reading_as_of(as_of):
        return read_together(store.config.online_store.resolve(), read)


def _is_applied(store: FeatureStore, defined: views.Definitions) -> bool:
    applied = {view.name: view for view in store.registry.list_feature_views(PROJECT)}
    services = {service.name for service in store.registry.list_feature_services(PROJECT)}
    return services >= set(defined.services) and all(
        name in applied
        and applied[name].tags.get(views.FINGERPRINT_TAG) == view.tags[views.FINGERPRINT_TAG]
        # A data directory may have moved.
        and applied[name].stream_source == view.stream_source
        for name, view in defined.views.items()
    )
