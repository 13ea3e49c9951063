"""What the configurations of this repository's stores have in common: which data directory they read, found out once.

Feast wants each store's own configuration class in the store's module; those add its name, and what else it can be told.
"""

from __future__ import annotations

from feast.repo_config import FeastConfigBaseModel
from pydantic import Field, PrivateAttr

from feature_repo.repository import repository_settings
from flows.settings import Settings, load_settings


class DataDirectoryConfig(FeastConfigBaseModel):
    """What `feature_store.yaml` may say of a store.

    Attributes
    ----------
    data : str or None
        The data directory; None: that of `feature_repo.repository.repository_settings`.
    settings : Settings or None
        Settings of a data directory at hand, instead; for Python callers.
    """

    data: str | None = None
    settings: Settings | None = Field(default=None, exclude=True)
    _resolved: Settings | None = PrivateAttr(default=None)

    def resolve(self) -> Settings:
        """The settings to read with; found out once, for each read asks."""
        if self._resolved is None:
            self._resolved = self._found()
        return self._resolved

    def _found(self) -> Settings:
        return self.settings or (repository_settings() if self.data is None else load_settings(data=self.data))
