"""What `feast materialize` and `materialize-incremental` do with views over task state: nothing is written, and it is said what each view reflects.

The flows keep those views current by themselves, so a schedule that materialises every view of a repository goes on. Any other view goes Feast's own
way, for which it needs stores that hold it: those of this repository hold what follows from the log alone.
"""

from __future__ import annotations

from typing import Any

from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry

from feature_repo.asking import check_fingerprint
from feature_repo.columns import VIEWS
from feature_repo.embedding_table import served_table, served_version
from feature_repo.errors import plain_in_feast_commands
from feature_repo.readers import CaughtUp, caught_up
from feature_repo.views import USER_EMBEDDING
from flows.run.display import moment
from flows.settings import Settings


class TaskStateComputeEngine(LocalComputeEngine):
    """Feast's local engine, less the views that the flows keep current."""

    def _materialize_one(self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any) -> LocalMaterializationJob:
        if task.feature_view.name not in VIEWS:
            return super()._materialize_one(registry, task, **kwargs)
        with plain_in_feast_commands():
            check_fingerprint(task.feature_view)
            if task.feature_view.name == USER_EMBEDDING:
                print(_told_of_embeddings(self.repo_config.online_store.resolve()))
                return LocalMaterializationJob(f"{task.feature_view.name}-{task.end_time}", MaterializationJobStatus.SUCCEEDED)
            with caught_up(self.repo_config.online_store.resolve()) as caught:
                print(_told(task.feature_view.name, caught))
        return LocalMaterializationJob(f"{task.feature_view.name}-{task.end_time}", MaterializationJobStatus.SUCCEEDED)


def _told(view: str, caught: CaughtUp) -> str:
    flow = VIEWS[view].flow
    positions = caught.positions[flow]
    as_of = (
        "nothing was accepted yet" if caught.default_as_of is None else f"as of {moment(caught.default_as_of)} UTC ({caught.default_as_of})"
    )
    return (
        f"{view}: nothing to write, the flows keep it current (`tidemark run`); it reflects the positions "
        f"{', '.join(f'{flow}/{p}: {position}' for p, position in enumerate(positions))}; {as_of}"
    )


def _told_of_embeddings(settings: Settings) -> str:
    begin = f"{USER_EMBEDDING}: nothing to write, `tidemark embed infer` keeps it current"
    if served_version(settings.data) is None:
        return f"{begin}; no version is served yet"
    said = served_table(settings.data).manifest
    positions = ", ".join(f"actions/{p}: {position}" for p, position in enumerate(said.actions))
    return f"{begin}; version {said.version}, table {said.number} reflects the positions {positions}; as of {moment(said.as_of)} UTC ({said.as_of})"
