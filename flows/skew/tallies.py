"""Figures of each feature, added up over stretches of rows.

Sums alone are kept, so a million rows take no more room than one. Rows that say themselves why they can't be compared never come here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flows.kernels.sequence_compare import equal_fields, field_edits
from flows.skew.measures import compare
from flows.skew.names import COLUMNS, SEQUENCE, Feature

_NUMBERS = ("sequence_event_time", "sequence_duration_ms")
"""Fields of entries of which a difference says something; the others are IDs and codes."""


@dataclass(frozen=True)
class Figures:
    """Of one feature.

    Attributes
    ----------
    feature : Feature
    rows, equal, missing, extra, differing : int
        As of `measures.Compared`.
    max_difference, smape : float or None
        None of IDs, codes and texts. Of a sequence over the entries of rows that are as long on both sides.
    inserted, deleted, other_length : int or None
        Of a sequence: entries that the recomputed one has in addition and that it lacks; rows of another length.
    """

    feature: Feature
    rows: int
    equal: int
    missing: int
    extra: int
    differing: int
    max_difference: float | None
    smape: float | None
    inserted: int | None = None
    deleted: int | None = None
    other_length: int | None = None

    @property
    def match_rate(self) -> float:
        """Share of rows that are equal, 1 of none."""
        return self.equal / self.rows if self.rows else 1.0


@dataclass
class Tally:
    """What is being added up of one feature."""

    rows: int = 0
    equal: int = 0
    missing: int = 0
    extra: int = 0
    differing: int = 0
    greatest: float = 0.0
    relative: float = 0.0
    both: int = 0
    inserted: int = 0
    deleted: int = 0
    other_length: int = 0

    def add(self, served: np.ndarray, there: np.ndarray, recomputed: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Add rows of numbers; which of them are wrong: bool[n]."""
        compared, wrong = compare(served, there, recomputed, known)
        self.rows += compared.rows
        self.equal += compared.equal
        self.missing += compared.missing
        self.extra += compared.extra
        self.differing += compared.differing
        both = int((there & known).sum())
        self.greatest = max(self.greatest, compared.max_difference)
        self.relative += compared.smape * both
        self.both += both
        return wrong


@dataclass
class Tallies:
    """Of all features that are asked for."""

    features: tuple[Feature, ...]
    by_feature: dict[Feature, Tally] = field(default_factory=dict)
    entries: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    """Inserted and deleted whole entries of sequences."""

    def add_numbers(self, kind: str, served: np.ndarray, there: np.ndarray, recomputed: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Compare rows of a kind.

        Parameters
        ----------
        served, recomputed : int64[n, columns] or float64[n, columns]
        there, known : bool[n]
            Whether anything was served, and is to be served.

        Returns
        -------
        bool[n, columns]
            What is wrong; False in columns that aren't asked for.
        """
        wrong = np.zeros(served.shape, np.bool_)
        for feature in self.features:
            if feature.kind == kind:
                tally, c = self.by_feature.setdefault(feature, Tally()), feature.column
                a, b = np.ascontiguousarray(served[:, c]), np.ascontiguousarray(recomputed[:, c])
                wrong[:, c] = tally.add(a, there, b, known)
        return wrong

    def add_sequences(self, served: np.ndarray, served_at: np.ndarray, recomputed: np.ndarray, recomputed_at: np.ndarray) -> np.ndarray:
        """Compare sequences.

        Parameters
        ----------
        served, recomputed : int64[s, 5], int64[r, 5]
            Entries.
        served_at, recomputed_at : int64[n + 1]
            Where those of each row lie.

        Returns
        -------
        bool[n, 5]
            Which fields of which row are wrong; False in those that aren't asked for.
        """
        equal = np.ones((len(served_at) - 1, served.shape[1]), np.bool_)
        equal_fields(served, served_at, recomputed, recomputed_at, equal)
        there, known = np.diff(served_at) > 0, np.diff(recomputed_at) > 0
        as_long = np.diff(served_at) == np.diff(recomputed_at)
        rows = np.flatnonzero(~equal.all(axis=1))
        edited = np.zeros((served.shape[1] + 1, 2), np.int64)
        field_edits(served, served_at, recomputed, recomputed_at, rows, edited)
        self.entries += edited[-1]
        wrong = np.zeros(equal.shape, np.bool_)
        for feature in self.features:
            if feature.kind != SEQUENCE:
                continue
            tally, c = self.by_feature.setdefault(feature, Tally()), feature.column
            wrong[:, c] = ~equal[:, c]
            tally.rows += len(equal)
            tally.equal += int(equal[:, c].sum())
            tally.missing += int((~there & known).sum())
            tally.extra += int((there & ~known).sum())
            tally.differing += int((wrong[:, c] & there & known).sum())
            tally.inserted += int(edited[c, 0])
            tally.deleted += int(edited[c, 1])
            tally.other_length += int((~as_long).sum())
            if COLUMNS[SEQUENCE][c] in _NUMBERS:
                self._add_entries(
                    tally,
                    served[:, c],
                    served_at,
                    recomputed[:, c],
                    recomputed_at,
                    rows[as_long[rows]],
                    int(np.diff(served_at)[as_long].sum()),
                )
        return wrong

    def _add_entries(
        self,
        tally: Tally,
        served: np.ndarray,
        served_at: np.ndarray,
        recomputed: np.ndarray,
        recomputed_at: np.ndarray,
        rows: np.ndarray,
        entries: int,
    ) -> None:
        """Add the entries of rows that are as long on both sides: of `rows` one by one, of all others that they are equal."""
        tally.both += entries
        for row in rows.tolist():
            a, b = served[served_at[row] : served_at[row + 1]], recomputed[recomputed_at[row] : recomputed_at[row + 1]]
            every = np.ones(len(a), np.bool_)
            compared, _ = compare(np.ascontiguousarray(a), every, np.ascontiguousarray(b), every)
            tally.greatest = max(tally.greatest, compared.max_difference)
            tally.relative += compared.smape * len(a)

    def figures(self) -> tuple[Figures, ...]:
        """What it comes to."""
        out = []
        for feature in self.features:
            tally = self.by_feature.get(feature, Tally())
            sequence = feature.kind == SEQUENCE
            numbers = not sequence or COLUMNS[SEQUENCE][feature.column] in _NUMBERS
            smape = tally.relative / tally.both if tally.both else 0.0
            edits = (tally.inserted, tally.deleted, tally.other_length) if sequence else (None, None, None)
            counts = (tally.rows, tally.equal, tally.missing, tally.extra, tally.differing)
            out.append(Figures(feature, *counts, tally.greatest if numbers else None, smape if numbers else None, *edits))
        return tuple(out)
