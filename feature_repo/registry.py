"""Keeps Feast's registry file in the data directory.

Feast's own file store truncates the file and then writes it, so that a reader beside it can meet half a registry, and fails where the
parent of the directory is missing. This one writes aside and renames.
"""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

import feast
from feast.infra.registry.file import FileRegistryStore
from feast.infra.registry.registry import REGISTRY_SCHEMA_VERSION
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.repo_config import RegistryConfig
from google.protobuf.message import DecodeError

from feature_repo.errors import RegistryError, plain_in_feast_commands
from feature_repo.repository import REPOSITORY, repository_settings


class DataDirectoryRegistryStore(FileRegistryStore):
    """A registry file; where the configuration names no path, that of `repository_settings`.

    Parameters
    ----------
    registry_config : RegistryConfig
        Its ``path``, if not empty, is taken as Feast takes it: relative to the repository.
    repo_path : Path or None
        The repository.
    """

    def __init__(self, registry_config: RegistryConfig, repo_path: Path | None) -> None:
        if registry_config.path:
            super().__init__(registry_config, repo_path or REPOSITORY)
        else:
            self._filepath = repository_settings().registry

    def get_registry_proto(self) -> RegistryProto:
        with plain_in_feast_commands():
            try:
                registry = super().get_registry_proto()
            except DecodeError as error:
                raise _unreadable(self._filepath, str(error)) from error
            if registry.registry_schema_version not in ("", REGISTRY_SCHEMA_VERSION):
                raise _unreadable(
                    self._filepath, f"its schema is of version {registry.registry_schema_version}, not {REGISTRY_SCHEMA_VERSION}"
                )
            return registry

    def _write_registry(self, registry_proto: RegistryProto) -> None:
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(datetime.now(UTC))
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        aside = self._filepath.with_name(f"{self._filepath.name}.{uuid.uuid4().hex}")
        try:
            with open(aside, "xb") as file:
                file.write(registry_proto.SerializeToString())
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._filepath)
        finally:
            aside.unlink(missing_ok=True)


def _unreadable(path: Path, why: str) -> RegistryError:
    return RegistryError(
        f"registry {path} can't be read by Feast {feast.__version__} ({why}): it is damaged, or another version wrote it; it holds definitions "
        "alone, so delete it and run `feast -c feature_repo apply`"
    )
