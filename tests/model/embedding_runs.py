"""Runs of an embedding version that nobody trained: random vectors of random users, as tables and as their history, and the same as plain dicts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from feature_repo.embedding_table import EmbeddingTable, open_table, table_numbers
from flows.settings import Settings
from online_model.embedding.table import Rows, merged, sweep_tables, write_history, write_table
from online_model.model.embedding_input import TakenEmbedding

D = 4


@dataclass
class Runs:
    """A version's runs, one after another.

    Attributes
    ----------
    as_of : dict of int to int
        By number.
    inferred : dict of int to set of int
        Users whom each run has made a row of, or taken away.
    said : dict of int to dict of int to bytes
        Of each table, the vector of each user who has one.
    """

    settings: Settings
    seed: int = 0
    version: int = 1
    digest: str = "d" * 32
    as_of: dict[int, int] = field(default_factory=dict)
    inferred: dict[int, set[int]] = field(default_factory=dict)
    said: dict[int, dict[int, bytes]] = field(default_factory=dict)

    @property
    def taken(self) -> TakenEmbedding:
        return TakenEmbedding(self.version, self.digest, D)

    def run(self, as_of: int, users: list[int], gone: tuple[int, ...] = (), everyone: bool = False) -> int:
        """Infer some users anew, and take some away; the number of the table. `everyone`: there are no others any more."""
        number = len(self.as_of) + 1
        rng = np.random.default_rng([self.seed, number])
        ids = np.array(sorted(users), np.int64)
        vectors = rng.standard_normal((len(ids), D)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        rows = Rows(ids, vectors, np.zeros((len(ids), 16), np.uint8), np.full(len(ids), as_of))
        leave = np.array(gone, np.int64)
        actions = (number,) * self.settings.partitions
        before: EmbeddingTable | None = (
            open_table(self.settings.data, self.version) if table_numbers(self.settings.data, self.version) and not everyone else None
        )
        said = {
            "version": self.version, "version_digest": self.digest, "number": number, "parent": None if before is None else number - 1,
            "actions": actions, "corrected_to": (0,) * len(actions), "as_of": as_of, "inferred": len(ids), "gone": len(leave), "popular": (),
        }  # fmt: skip
        write_history(self.settings, said, rows, leave)
        write_table(self.settings, merged(before, rows, leave), said)
        sweep_tables(self.settings, self.version)
        self.as_of[number] = as_of
        self.inferred[number] = {*users, *gone}
        kept = {user: vector for user, vector in self.said.get(number - 1, {}).items() if user not in gone and not everyone}
        self.said[number] = kept | {user: vector.tobytes() for user, vector in zip(ids.tolist(), vectors, strict=True)}
        return number

    def wanted(self, user: int, time: int, table: int | None) -> bytes:
        """What a model was given of a user: of the table that was named, else of the newest before the time; by going through all of them."""
        if table is None:
            table = 0
            for number, as_of in self.as_of.items():
                if as_of < time:
                    table = number
        vector = self.said.get(table, {}).get(user)
        return bytes(4 * (D + 1)) if vector is None else vector + np.float32(1).tobytes()
