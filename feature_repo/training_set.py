"""What `tidemark features history` does: a Parquet file of moments in, the same rows with features out, through Feast like everybody else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore
from feast.errors import FeastError, FeatureNameCollisionError, FeatureServiceNotFoundException

from feature_repo.errors import HistoricalReadError
from feature_repo.offline_store import HistoricalJob
from feature_repo.reading import open_store
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.settings import Settings


def write_training_set(
    settings: Settings,
    entities: Path,
    references: Sequence[str],
    service: str | None,
    full_names: bool,
    out: Path,
    progress: bool | None = None,
) -> int:
    """Write features at the moments of a file's rows; returns the number of rows.

    Parameters
    ----------
    entities : Path
        Parquet.
    references : sequence of str
        ``view:feature``, or ``view`` for all of its features.
    service : str or None
        Instead of them.
    progress : bool, optional
        Whether a bar shows on standard error; by default where that is a terminal.

    Raises
    ------
    HistoricalReadError
        What is asked for is not there, or the file is not as it must be.
    """
    # Before Feast's registry is made: reading must not make a data directory where there is nothing to read.
    open_log(settings, ACTIONS, read_only=True).close()
    try:
        frame = pq.read_table(entities)
    except (OSError, pa.ArrowException) as error:
        raise HistoricalReadError(f"{entities} can't be read as Parquet ({' '.join(str(error).split())})") from error
    store = open_store(settings)
    try:
        wanted: Any = store.get_feature_service(service) if service is not None else _spelt_out(store, references)
        job = store.get_historical_features(frame, wanted, full_feature_names=full_names)
    except FeatureServiceNotFoundException as error:
        known = ", ".join(sorted(one.name for one in store.list_feature_services()))
        raise HistoricalReadError(f"there is no feature service '{service}'; there are {known}") from error
    except FeatureNameCollisionError as error:
        raise HistoricalReadError("several views have features of one name; ask for full names (--full-names)") from error
    except (FeastError, ValueError) as error:
        raise HistoricalReadError(" ".join(str(error).split())) from error
    assert isinstance(job, HistoricalJob)
    return job.to_parquet(out, progress)


def _spelt_out(store: FeatureStore, references: Sequence[str]) -> list[str]:
    """References with each view's name alone replaced by all of its features; each once."""
    found: list[str] = []
    views = {view.name: view for view in [*store.list_feature_views(), *store.list_on_demand_feature_views()]}
    for reference in references:
        name, colon, feature = reference.partition(":")
        if name not in views:
            raise HistoricalReadError(f"there is no feature view '{name}'; there are {', '.join(sorted(views))}")
        known = [field.name for field in views[name].features]
        if colon and feature not in known:
            raise HistoricalReadError(f"feature view '{name}' has no feature '{feature}'; it has {', '.join(known)}")
        found += [reference] if colon else [f"{name}:{each}" for each in known]
    return list(dict.fromkeys(found))
