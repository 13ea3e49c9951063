"""Feast's offline store over the log and its archive: features as they were at each row's moment, by the kernels that the flows run.

It reads task state nowhere and writes nothing but the files that a caller names. `feature_store.yaml` names the class; Feast wants its configuration
class, `<name>Config`, in the same module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView, FileSource
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import _get_requested_feature_views_to_features_dict, _get_requested_on_demand_feature_views
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from feature_repo.columns import VIEWS
from feature_repo.entity_frame import EntityFrame
from feature_repo.errors import HistoricalReadError, StateIsWrittenByItsLogError
from feature_repo.first_words import speak_first
from feature_repo.historical import Historical
from feature_repo.store_config import DataDirectoryConfig
from feature_repo.views import FINGERPRINT_TAG
from flows.export import write_tables
from flows.run.display import RateColumn

speak_first()


class LogOfflineStoreConfig(DataDirectoryConfig):
    """What `feature_store.yaml` may say under ``offline_store``: ``data``, as of its base."""

    type: Literal["feature_repo.offline_store.LogOfflineStore"] = "feature_repo.offline_store.LogOfflineStore"


class _Job(RetrievalJob):
    """What all retrievals of this store share."""

    def __init__(self, full_feature_names: bool, on_demand: Sequence[OnDemandFeatureView], metadata: RetrievalMetadata | None) -> None:
        self._full_feature_names, self._on_demand, self._metadata = full_feature_names, list(on_demand), metadata

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()


class _Table(_Job):
    """A retrieval whose rows are at hand."""

    def __init__(
        self,
        table: pa.Table,
        full_feature_names: bool = False,
        on_demand: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        super().__init__(full_feature_names, on_demand, metadata)
        self._table = table

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._table


class HistoricalJob(_Job):
    """Features at each row's moment, worked out when they are asked for; each call reads the log anew.

    `to_df` and `to_arrow` hold the whole result in memory. `batches`, `to_parquet` and `persist` don't.
    """

    def __init__(
        self,
        historical: Historical,
        full_feature_names: bool,
        on_demand: Sequence[OnDemandFeatureView],
        metadata: RetrievalMetadata,
        repository: Path | None,
    ) -> None:
        super().__init__(full_feature_names, on_demand, metadata)
        self._historical, self._repository = historical, repository

    @contextmanager
    def batches(self, progress: bool | None = None) -> Iterator[Iterator[pa.Table]]:
        """The result in stretches of rows, in the order of the entity frame, with bounded memory.

        Parameters
        ----------
        progress : bool, optional
            Whether a bar shows on standard error; by default where that is a terminal.

        Examples
        --------
        >>> with job.batches() as batches:  # doctest: +SKIP
        ...     for table in batches:
        ...         train(table)
        """
        with _bar(progress) as advance, self._historical.batches(advance) as batches:
            yield (self._transformed(table) for table in batches)

    def to_parquet(self, out: str | Path, progress: bool | None = None) -> int:
        """Write the result to a Parquet file, which is there when it is whole; returns the number of rows."""
        with self.batches(progress) as batches:
            first = next(batches)
            return write_tables(Path(out), first.schema, _chain(first, batches), {FINGERPRINT_TAG: self._historical.fingerprint})

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool | None = False, timeout: int | None = None) -> None:
        """Write the result to a Parquet file of Feast's saved datasets.

        Raises
        ------
        HistoricalReadError
            The place is no file, or it is there already.
        """
        if not isinstance(storage, SavedDatasetFileStorage):
            raise HistoricalReadError(
                f"a saved dataset of this store is a Parquet file (SavedDatasetFileStorage), not {type(storage).__name__}"
            )
        uri = FileSource.get_uri_for_file_path(repo_path=self._repository, uri=storage.file_options.uri)
        if "://" in uri:
            raise HistoricalReadError(f"a saved dataset goes to a path of this machine, not to {uri}")
        if Path(uri).exists() and not allow_overwrite:
            raise HistoricalReadError(f"saved dataset {uri} is there already; remove it, or allow to overwrite it")
        self.to_parquet(uri)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with _bar(None) as advance:
            return self._historical.table(advance)

    def _transformed(self, table: pa.Table) -> pa.Table:
        """With the features of on-demand views, which Feast makes row by row."""
        if not self._on_demand:
            return table
        return _Table(table, self._full_feature_names, self._on_demand, self._metadata).to_arrow()


class LogOfflineStore(OfflineStore):
    """Historical reads of the views of `feature_repo.views`. Whatever would write features is refused: they follow from the log."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **kwargs: Any,
    ) -> HistoricalJob:
        """See docs/offline.md.

        Parameters
        ----------
        entity_df : pandas DataFrame or pyarrow Table
            As `feature_repo.entity_frame` says.

        Raises
        ------
        HistoricalReadError
            What is asked for can't be given, or the frame is not as it must be.
        """
        if kwargs:
            raise HistoricalReadError(
                f"an entity frame is needed: say for which entities, and as of when; {' and '.join(sorted(kwargs))} can't stand in for it"
            )
        on_demand = _get_requested_on_demand_feature_views(feature_refs, project, registry)
        wanted, _ = _get_requested_feature_views_to_features_dict(feature_refs, feature_views, on_demand)
        frame = EntityFrame(entity_df)
        historical = Historical(config.offline_store.resolve(), frame, wanted, full_feature_names)
        least, greatest = frame.bounds()
        metadata = RetrievalMetadata(
            list(feature_refs), [name for name in frame.table.column_names if name != frame.timestamp], least, greatest
        )
        return HistoricalJob(historical, full_feature_names, on_demand, metadata, config.repo_path)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Rows of a saved dataset; of a view, nothing: what it held at a time is asked for with an entity frame."""
        if not isinstance(data_source, FileSource) or _is_ours(data_source):
            raise _unread(data_source, "its history is read with an entity frame (get_historical_features)")
        path = FileSource.get_uri_for_file_path(repo_path=config.repo_path, uri=data_source.path)
        columns = list(dict.fromkeys([*join_key_columns, *feature_name_columns, timestamp_field]))
        try:
            table = pq.read_table(path, columns=columns)
        except (OSError, pa.ArrowInvalid) as error:
            raise HistoricalReadError(f"saved dataset {path} can't be read ({error})") from error
        times = table.column(timestamp_field)
        for bound, keep in ((start_date, pc.greater_equal), (end_date, pc.less_equal)):
            if bound is not None:
                limit = pa.scalar(bound if times.type.tz else bound.replace(tzinfo=None), times.type)
                table = table.filter(keep(table.column(timestamp_field), limit))
        return _Table(table)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        raise _unread(data_source, "the latest values are what the online store reads, and `tidemark features export` writes")

    @staticmethod
    def offline_write_batch(config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None) -> None:
        raise StateIsWrittenByItsLogError(feature_view.name, "a write to the offline store")

    @staticmethod
    def write_logged_features(
        config: RepoConfig, data: pa.Table | Path, source: LoggingSource, logging_config: LoggingConfig, registry: BaseRegistry
    ) -> None:
        raise HistoricalReadError(
            "Feast's feature logging is not used here: what `tidemark serve` gives out goes to the log 'served' by itself"
        )

    def get_table_column_names_and_types_from_data_source(self, config: RepoConfig, data_source: DataSource) -> Iterable[tuple[str, str]]:
        """Of a file that is there. Feast asks this before it writes to one."""
        if isinstance(data_source, FileSource) and _is_ours(data_source) and not Path(data_source.path).exists():
            raise StateIsWrittenByItsLogError(data_source.name.removesuffix(_EXPORT), "a write to the offline store")
        return super().get_table_column_names_and_types_from_data_source(config, data_source)


_EXPORT = "_export"


def _is_ours(source: DataSource) -> bool:
    return source.name.removesuffix(_EXPORT) in VIEWS


def _unread(source: DataSource, instead: str) -> HistoricalReadError:
    return HistoricalReadError(f"data source '{source.name}' is no table that this offline store reads; {instead}")


def _chain(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest


@contextmanager
def _bar(shown: bool | None) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error for what is read of the log."""
    console = Console(stderr=True)
    shown = sys.stderr.isatty() if shown is None else shown
    with Progress(
        SpinnerColumn(),
        TextColumn("reading the log"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:>12,.0f} of {task.total:,.0f}"),
        RateColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not shown,
        transient=True,
    ) as bar:
        task = bar.add_task("reading", total=0)
        yield lambda done, total: bar.update(task, completed=done, total=total)
