"""Feast's entities, views and services, derived from `flows.features`; only words that people read are written here.

Nothing is built at import: where the exports lie depends on the data directory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, Project, PushSource, ValueType
from feast.repo_config import RepoConfig
from feast.types import Array, FeastType, Float32, Float64, Int64, String

from feature_repo.repository import PROJECT
from flows import features

USER_ACTION_SEQUENCE = "user_action_sequence"
USER_REVISIT_COUNTERS = "user_revisit_counters"
PIN_REVISIT_COUNTERS = "pin_revisit_counters"
TOPIC_REVISIT_STATS = "topic_revisit_stats"
USER_EMBEDDING = "user_embedding"

EMBEDDING_FEATURES = ("embedding", "embedding_version", "embedding_position")

FINGERPRINT_TAG = "tidemark.fingerprint"
SEQUENCE_PREFIX = "sequence_"

# Times are int64 milliseconds: Feast's Array(UnixTimestamp) cuts them to seconds.
_SEQUENCE_TYPES: dict[str, FeastType] = {"action": Array(String), "surface": Array(String)}
_TYPES: dict[str, FeastType] = {"int64": Int64, "float64": Float64}


@dataclass(frozen=True)
class Definitions:
    """All that `feast apply` puts into the registry.

    Attributes
    ----------
    project : Project
        The project.
    entities, views, services : dict
        By name.
    """

    project: Project
    entities: dict[str, Entity]
    views: dict[str, FeatureView]
    services: dict[str, FeatureService]

    def objects(self) -> list[Any]:
        """Everything, as `FeatureStore.apply` takes it."""
        return [self.project, *self.entities.values(), *self.views.values(), *self.services.values()]


class ExportSource(FileSource):
    """A Parquet file that `tidemark features export` writes, and that needn't be there yet. The registry keeps it as a plain FileSource."""

    def validate(self, config: RepoConfig) -> None:
        # Feast warns of each missing file, so the first thing that a fresh clone would show is four warnings of nothing wrong.
        if Path(self.path).exists():
            super().validate(config)


def definitions(offline: Path) -> Definitions:
    """The definitions for one data directory.

    Parameters
    ----------
    offline : Path
        Directory of the exports, ``<view>.parquet`` each; none need exist.
    """
    entities = {
        "user": Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64, description="Who acts."),
        "pin": Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.INT64, description="What is shown, saved and revisited."),
        "topic": Entity(name="topic", join_keys=["topic"], value_type=ValueType.STRING, description="Category of a pin."),
    }

    def view(name: str, entity: str, fields: Iterable[tuple[str, FeastType]], description: str) -> FeatureView:
        key = entities[entity]
        return FeatureView(
            name=name,
            entities=[key],
            # The key is declared too, or Feast opens the Parquet file at `apply` to infer its type, and a fresh clone has none.
            schema=[Field(name=key.join_key, dtype=String if key.value_type is ValueType.STRING else Int64)]
            + [Field(name=field, dtype=dtype) for field, dtype in fields],
            # Where others push, so that Feast's lists say what becomes of it here; `feature_repo.first_words` refuses it.
            source=PushSource(
                name=name,
                batch_source=ExportSource(
                    name=f"{name}_export",
                    path=str(offline / f"{name}.parquet"),
                    timestamp_field="event_timestamp",
                ),
                description="Written by its log alone: a push is refused. To change what the view says, append events to the log.",
            ),
            # None: expiry is in the features themselves, by event time.
            ttl=timedelta(0),
            tags={FINGERPRINT_TAG: features.fingerprint()},
            description=description,
        )

    views = [
        view(
            USER_ACTION_SEQUENCE,
            "user",
            [(SEQUENCE_PREFIX + name, _SEQUENCE_TYPES.get(name, Array(Int64))) for name in features.SEQUENCE_FIELDS],
            f"The newest {features.SEQUENCE_LENGTH} engagements of a user, newest first; times in ms UTC.",
        ),
        view(
            USER_REVISIT_COUNTERS,
            "user",
            [(name, Int64) for name in features.USER_COUNTERS],
            "Revisits of a user to what they saved, over 7, 30 and 90 days: how many, and of how many pins.",
        ),
        view(
            PIN_REVISIT_COUNTERS,
            "pin",
            [(name, Int64) for name in features.PIN_COUNTERS],
            "Revisits to a pin by those who saved it, over 7, 30 and 90 days: how many, and by how many users.",
        ),
        view(
            TOPIC_REVISIT_STATS,
            "topic",
            [(name, _TYPES[kind]) for name, kind in features.TOPIC_STATS],
            "Saves in a topic over 7, 30 and 90 days, and how many of them were clicked again, and when.",
        ),
    ]
    embedding = view(
        USER_EMBEDDING,
        "user",
        [(name, Array(Float32) if name == "embedding" else Int64) for name in EMBEDDING_FEATURES],
        "A user as a vector of the embedding version that is served (`tidemark embed`), of length 1; its version, and the position it reflects.",
    )
    by_name = {view.name: view for view in [*views, embedding]}
    services = [
        FeatureService(
            name="ranking_v1",
            features=list(views),
            description="All that a ranker of version 1 reads. User and pin counters share names: read it with full_feature_names=True.",
        ),
        FeatureService(
            name="ranking_v1_user",
            features=[by_name[USER_ACTION_SEQUENCE], by_name[USER_REVISIT_COUNTERS]],
            description="The user's half of ranking_v1: once per request, not once per candidate.",
        ),
        FeatureService(
            name="ranking_v1_candidate",
            features=[by_name[PIN_REVISIT_COUNTERS]],
            description="The candidates' half of ranking_v1.",
        ),
        FeatureService(
            name="retrieval_v1",
            features=[embedding],
            description="The user's vector alone, for whatever works with it; vectors of two versions mean nothing to each other.",
        ),
    ]
    project = Project(name=PROJECT, description="Streaming realtime features as functions of a log prefix.")
    return Definitions(project, entities, by_name, {service.name: service for service in services})
