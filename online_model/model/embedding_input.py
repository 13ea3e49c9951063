"""Which user embeddings a ranking model takes: one version's and no other's, as the base's manifest says. Vectors of another are of another space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from feature_repo.embedding_table import open_table
from flows.errors import FingerprintError

if TYPE_CHECKING:
    from online_model.embedding.retrieval import Retriever

KEY = "embedding"
"""Of a manifest's config."""


@dataclass(frozen=True)
class TakenEmbedding:
    """A version of user embeddings.

    Attributes
    ----------
    version : int
    digest : str
        Of its manifest.
    dim : int
        Width of a vector.
    """

    version: int
    digest: str
    dim: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self | None:
        """What a base's manifest says; None: it takes none."""
        said = config.get(KEY)
        return None if not said else cls(said["version"], said["digest"], said["dim"])

    def to_config(self) -> dict[str, Any]:
        """As a manifest's config has it."""
        return {KEY: asdict(self)}

    def check(self, version_digest: str, dim: int, where: str) -> None:
        """Refuse another embedding of that number.

        Raises
        ------
        FingerprintError
        """
        if (version_digest, dim) != (self.digest, self.dim):
            raise FingerprintError(
                f"{where} is of another embedding than the one that the ranker was trained on, though both are version {self.version}; "
                "put that one back from a copy, or train a ranker on this one"
            )

    def checked(self, retriever: Retriever) -> Retriever:
        """The same, if its users are of this embedding.

        Raises
        ------
        FingerprintError
        """
        said = retriever.table.manifest
        self.check(said.version_digest, said.dim, f"table {said.number} of user embeddings")
        return retriever


def taken_of(data: Path, version: int) -> TakenEmbedding:
    """A version that a new ranker is to take, by its newest table of users.

    Raises
    ------
    NoEmbeddingError
        Nobody was inferred yet.
    DamagedEmbeddingError
    """
    said = open_table(data, version).manifest
    return TakenEmbedding(version, said.version_digest, said.dim)
