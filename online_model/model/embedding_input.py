"""Which user embeddings a ranking model takes: one version's and no other's, as the base's manifest says. Vectors of another are of another space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from feature_repo.embedding_table import open_table
from flows.errors import FingerprintError
from online_model.registry.errors import DamagedModelError

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
    def of(cls, config: Mapping[str, Any], where: str = "a base") -> Self | None:
        """What a base takes, by its manifest's config; None: its model takes none.

        Raises
        ------
        DamagedModelError
            The model takes some, and the manifest names no version, or one of another width.
        """
        width, said = config.get("model", {}).get("user_embedding", 0), config.get(KEY)
        if not width:
            return None
        if not said or said["dim"] != width:
            raise DamagedModelError(
                f"{where}: its model takes user embeddings of {width} numbers, and its manifest names "
                f"{'one of ' + str(said['dim']) if said else 'no version of them'}; roll back (`tidemark models rollback`), or train anew"
            )
        return cls(said["version"], said["digest"], said["dim"])

    @classmethod
    def served_with(cls, config: Mapping[str, Any], where: str = "a base") -> Self | None:
        """The version whose users and pins are served as long as a base is; None: whichever. One may be named without being an input.

        Raises
        ------
        DamagedModelError
            As of `of`.
        """
        said = config.get(KEY)
        return cls.of(config, where) or (cls(said["version"], said["digest"], said["dim"]) if said else None)

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
