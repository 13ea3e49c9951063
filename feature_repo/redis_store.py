"""Feast's online store over Redis, by name: for a `feature_store.yaml` that is to say itself which Redis it reads.

The ordinary YAML needs no change: with the setting `online` its store reads that Redis. Feast wants the configuration class in the same module.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from feast.repo_config import FeastConfigBaseModel
from pydantic import Field, PrivateAttr

from feature_repo.online_store import TaskStateOnlineStore
from feature_repo.repository import repository_settings
from flows.errors import SettingsError
from flows.settings import Settings, load_settings


class RedisOnlineStoreConfig(FeastConfigBaseModel):
    """What `feature_store.yaml` may say under ``online_store``.

    Attributes
    ----------
    type : str
        The store's class.
    data : str or None
        The data directory, of which only the settings and, for times that Redis doesn't reach back to, the log are used; None: that of
        `feature_repo.repository.repository_settings`.
    online, online_prefix : str or None
        The Redis, and what begins its keys; None: as the settings say. User and password stand in the file of the setting `online_options`.
    settings : Settings or None
        Settings at hand, instead; for Python callers.
    """

    type: Literal["feature_repo.redis_store.RedisOnlineStore"] = "feature_repo.redis_store.RedisOnlineStore"
    data: str | None = None
    online: str | None = None
    online_prefix: str | None = None
    settings: Settings | None = Field(default=None, exclude=True)
    _resolved: Settings | None = PrivateAttr(default=None)

    def resolve(self) -> Settings:
        """The settings to read with; found out once, for each read asks.

        Raises
        ------
        SettingsError
            Neither they nor this name a Redis.
        """
        if self._resolved is not None:
            return self._resolved
        settings = self.settings or (repository_settings() if self.data is None else load_settings(data=self.data))
        if self.online is not None:
            settings = dataclasses.replace(settings, online=self.online)
        if self.online_prefix is not None:
            settings = dataclasses.replace(settings, online_prefix=self.online_prefix)
        if settings.online is None:
            raise SettingsError(
                "online_store of feature_store.yaml is RedisOnlineStore, and neither it nor the setting 'online' names a Redis"
            )
        self._resolved = settings
        return settings


class RedisOnlineStore(TaskStateOnlineStore):
    """Reads the views of `feature_repo.views` out of Redis, as `tidemark online sync` has filled it; see its base for what it refuses."""
