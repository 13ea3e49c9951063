"""Feast's online store over Redis, by name: for a `feature_store.yaml` that is to say itself which Redis it reads.

The ordinary YAML needs no change: with the setting `online` its store reads that Redis. Feast wants the configuration class in the same module.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from feature_repo.online_store import TaskStateOnlineStore
from feature_repo.store_config import DataDirectoryConfig
from flows.errors import SettingsError
from flows.settings import Settings


class RedisOnlineStoreConfig(DataDirectoryConfig):
    """What `feature_store.yaml` may say under ``online_store``.

    Of the data directory (``data``, as of its base) only the settings are used and, for times that Redis doesn't reach back to, the log.

    Attributes
    ----------
    type : str
        The store's class.
    online, online_prefix : str or None
        The Redis, and what begins its keys; None: as the settings say. User and password stand in the file of the setting `online_options`.
    """

    type: Literal["feature_repo.redis_store.RedisOnlineStore"] = "feature_repo.redis_store.RedisOnlineStore"
    online: str | None = None
    online_prefix: str | None = None

    def _found(self) -> Settings:
        settings = super()._found()
        if self.online is not None:
            settings = dataclasses.replace(settings, online=self.online)
        if self.online_prefix is not None:
            settings = dataclasses.replace(settings, online_prefix=self.online_prefix)
        if settings.online is None:
            raise SettingsError(
                "online_store of feature_store.yaml is RedisOnlineStore, and neither it nor the setting 'online' names a Redis"
            )
        return settings


class RedisOnlineStore(TaskStateOnlineStore):
    """Reads the views of `feature_repo.views` out of Redis, as `tidemark online sync` has filled it; see its base for what it refuses."""
