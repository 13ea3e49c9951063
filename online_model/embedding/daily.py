"""What a run of `tidemark embed infer` does: users of a version up to what the log holds, pins and their index where their vectors have changed.

The first version that is whole is served; a later one never by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from feature_repo.embedding_table import EmbeddingTable
from flows.settings import Settings
from online_model.embedding.embedding_model import EmbeddingModel
from online_model.embedding.errors import VectorsError
from online_model.embedding.index import RECALL_QUERIES, PinsManifest, numbers, read_pins_manifest, write_index
from online_model.embedding.inference import Inferred, Stages, alone, infer
from online_model.embedding.pin_vectors import PinVectors, read_vectors
from online_model.embedding.switch import serve_first
from online_model.embedding.version import VersionManifest, load, read_manifest


@dataclass(frozen=True, eq=False)
class Done:
    """What a run has done.

    Attributes
    ----------
    users : Inferred
    index : PinsManifest
    new_index, served : bool
        The index was built in this run; the version is the one that is served.
    """

    users: Inferred
    index: PinsManifest
    new_index: bool
    served: bool

    def told(self) -> dict[str, Any]:
        """As JSON."""
        said, made, index = self.users.table.manifest, self.users, self.index
        return {
            "version": said.version,
            "served": self.served,
            "resumed": made.resumed,
            "given_up": made.given_up,
            "new_table": made.new,
            "inferred": made.inferred,
            "kept": made.kept,
            "gone": made.gone,
            "users_per_s": made.inferred / made.seconds if made.seconds > 0 and made.inferred else None,
            "table": {"number": said.number, "users": said.users, "as_of": said.as_of, "positions": list(said.actions)},
            "new_index": self.new_index,
            "index": {"number": index.number, "pins": index.pins, **dict(index.index), "recall": dict(index.recall)},
        }


def keep_current(
    settings: Settings,
    path: Path,
    *,
    full: bool = False,
    since: tuple[int, ...] | None = None,
    as_of: int | None = None,
    vectors: Path | None = None,
    stages: Stages = lambda stage, done, total: None,
) -> Done:
    """Bring users and pins of a version up to what the log holds. Arguments: as of `inference.infer`; `vectors` as of `read_vectors`.

    Raises
    ------
    LockedError
        Another run is at work.
    NoActionsError, OtherTimeError, VectorsError, CorruptionError
    """
    with alone(path):
        manifest, model = read_manifest(path), load(path)
        # Before users, so that nobody waits for an hour to hear of it.
        given = None if vectors is None else read_vectors(vectors, model.config.vector_dim)
        users = infer(settings, model, manifest, path, full=full, since=since, as_of=as_of, stages=stages)
        index = read_pins_manifest(path) if numbers(path) else None
        if index is not None and index.version_digest != manifest.digest:
            index = None
        # Those that were given once stay, until others are.
        wanted = given if given is not None else model.vectors if index is None else None
        new = False
        if wanted is not None and (index is None or index.vectors != wanted.digest()):
            new, index = True, _indexed(path, model, manifest, wanted, users.table, stages)
        assert index is not None
    return Done(users, index, new, serve_first(settings, manifest.version))


def _indexed(
    path: Path, model: EmbeddingModel, manifest: VersionManifest, vectors: PinVectors, table: EmbeddingTable, stages: Stages
) -> PinsManifest:
    if not len(vectors):
        raise VectorsError("no pin has a vector, so there is nothing to retrieve; give vectors with --vectors FILE")
    stages("pins", 0, len(vectors))
    pins = model.pins(vectors)
    stages("pins", len(vectors), len(vectors))
    # Spread over all users; of a version without users, pins stand for them.
    of = table.vectors if len(table) else pins
    queries = of[np.unique(np.linspace(0, len(of) - 1, min(RECALL_QUERIES, len(of))).astype(np.int64))]
    return write_index(path, manifest.version, manifest.digest, vectors.digest(), vectors.ids, pins, np.ascontiguousarray(queries)).manifest
