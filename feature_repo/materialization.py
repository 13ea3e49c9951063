"""Refuses `feast materialize` on views over task state before it reads anything; any other view materialises as Feast does it."""

from __future__ import annotations

from typing import Any

from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry

from feature_repo.errors import StateIsWrittenByItsLogError
from feature_repo.online_store import READS


class TaskStateComputeEngine(LocalComputeEngine):
    """Feast's local engine, less the views that the flows keep current."""

    def _materialize_one(self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any) -> LocalMaterializationJob:
        if task.feature_view.name in READS:
            raise StateIsWrittenByItsLogError(task.feature_view.name, "materialize")
        return super()._materialize_one(registry, task, **kwargs)
