"""A model as it is served: a base with its rows at one delta, whole and never changed. It scores any number of requests at once.

A candidate's score depends on its request and itself alone, to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from flows.errors import InputError
from online_model.deltas.follower import Served
from online_model.deltas.table_rows import TableRows
from online_model.model.calibration import Calibrators
from online_model.model.config import ModelConfig
from online_model.model.dense import load_dense
from online_model.model.embedding_input import TakenEmbedding
from online_model.model.inputs import inputs_of
from online_model.model.ranker import Ranker
from online_model.model.scoring import score_rows, utility_of
from online_model.registry.bases import Base
from online_model.registry.errors import DamagedModelError
from online_model.registry.manifest import CALIBRATORS, DENSE
from online_model.serving.candidates import Candidates, columns_of
from online_model.serving.rank_schema import OWN_CANDIDATES

if TYPE_CHECKING:
    # Not everybody has an index library.
    from online_model.embedding.retrieval import Retriever

# Some of them may have no row any more at a later delta.
_KEPT = 4 * OWN_CANDIDATES


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of a request's n candidates.

    Attributes
    ----------
    probabilities : float64[n, heads]
        Calibrated.
    score : float32[n]
        By which they are ranked.
    packing_s, model_s : float
        How long all that was scored together took to pack, and to score.
    """

    probabilities: np.ndarray
    score: np.ndarray
    packing_s: float
    model_s: float


@dataclass(frozen=True, eq=False)
class Dense:
    """What of a base never changes with a delta.

    Attributes
    ----------
    base : Base
    ranker : Ranker
    calibrators : Calibrators
    frequent : int64[m]
        The pins that were seen most often, the most frequent first.
    embedding : TakenEmbedding or None
        Which user embeddings it takes; None: none.
    """

    base: Base
    ranker: Ranker
    calibrators: Calibrators
    frequent: np.ndarray
    embedding: TakenEmbedding | None

    @classmethod
    def of(cls, base: Base) -> Self:
        """Of a base whose files were checked.

        Raises
        ------
        DamagedModelError, CorruptionError, SettingsError
            It can't be served.
        """
        said = base.manifest.about.config.get("model")
        if not isinstance(said, dict):
            raise DamagedModelError(f"base {base.number}: its manifest doesn't say what model it is; train it with `tidemark retrain`")
        try:
            config = ModelConfig.from_dict(said)
        except TypeError as error:
            raise DamagedModelError(
                f"base {base.number}: its manifest describes no model ({error}); train it with `tidemark retrain`"
            ) from error
        embedding = TakenEmbedding.served_with(base.manifest.about.config, f"base {base.number}")
        ranker = load_dense(config, base.path / DENSE).eval()
        calibrators = Calibrators.load(base.path / CALIBRATORS)
        if calibrators.heads != config.heads:
            raise DamagedModelError(
                f"base {base.number}: {CALIBRATORS} is of heads {', '.join(calibrators.heads)}, and the model has {', '.join(config.heads)}; "
                "roll back (`tidemark models rollback`), or put the file back from a copy"
            )
        pins = base.table("pin")
        # A table may have been made by others, who count nothing.
        counts = pins.get("counts", np.zeros(len(pins["ids"]), np.int32))
        order = np.lexsort((pins["ids"], -counts.astype(np.int64)))[:_KEPT]
        return cls(base, ranker, calibrators, pins["ids"][order], embedding)


@dataclass(frozen=True, eq=False)
class Model:
    """A base at one of its deltas.

    Attributes
    ----------
    dense : Dense
    delta : int
    tables : mapping of str to TableRows
        "user" and "pin".
    newest_event_time : int
        That the rows reflect, ms; -1: not known.
    candidates : int64[m]
        For requests that name none.
    retriever : Retriever or None
        Users, pins and index of the embedding version that the base takes; None: it takes none.
    """

    dense: Dense
    delta: int
    tables: Mapping[str, TableRows]
    newest_event_time: int
    candidates: np.ndarray
    retriever: Retriever | None = None

    @classmethod
    def of(cls, dense: Dense, served: Served, retriever: Retriever | None = None) -> Self:
        """What a follower of the base's deltas has now, with the users that it takes.

        Raises
        ------
        DamagedModelError
            Rows are of another width than the model's.
        """
        dim = dense.ranker.config.dim
        for name, table in served.tables.items():
            if len(table.default) != dim:
                raise DamagedModelError(
                    f"base {dense.base.number}: rows of table '{name}' have {len(table.default)} numbers, and the model takes {dim}; "
                    "roll back (`tidemark models rollback`)"
                )
        there = dense.frequent[served.tables["pin"].rows_of(dense.frequent) >= 0]
        return cls(dense, served.delta, served.tables, served.newest_event_time, there[:OWN_CANDIDATES], retriever)

    @property
    def base(self) -> int:
        return self.dense.base.number

    @property
    def heads(self) -> tuple[str, ...]:
        return self.dense.ranker.config.heads

    def score(self, requests: Sequence[Candidates]) -> list[Scores]:
        """Score requests together, each as it would be alone.

        Raises
        ------
        InputError
            The model says what is no number.
        """
        began = time.perf_counter()
        table = self.retriever.table if self.retriever is not None and self.dense.ranker.config.user_embedding else None
        columns = columns_of(requests, table)
        features = columns.features(np.arange(len(columns)), self.dense.ranker.config.sequence_length)
        users, pins = self.tables["user"], self.tables["pin"]
        contexts, length = features.sequence_pin_id.shape
        sequences = pins.gather(features.sequence_pin_id.reshape(-1)).reshape(contexts, length, -1)
        inputs = inputs_of(features, users.gather(features.user_id), pins.gather(features.pin_id), sequences)
        packed = time.perf_counter()
        probabilities = self.dense.calibrators.probabilities(score_rows(self.dense.ranker, inputs))
        score = utility_of(probabilities, self.heads).astype(np.float32)
        if not np.isfinite(score).all():
            raise InputError(f"base {self.base}, delta {self.delta}: a score is no number; roll back (`tidemark models rollback`)")
        ended = time.perf_counter()
        ends = np.cumsum([len(one) for one in requests]).tolist()
        return [
            Scores(probabilities[end - len(one) : end], score[end - len(one) : end], packed - began, ended - packed)
            for one, end in zip(requests, ends, strict=True)
        ]
