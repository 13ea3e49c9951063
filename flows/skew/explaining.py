"""Tries the known mistakes on rows that differ, and remembers which would give what was served.

Rows are held until there are enough of them, for their events take a pass over the log. What no mistake gives stays unexplained: nothing is guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flows.events import hash_id
from flows.features import SEQUENCE_LENGTH
from flows.kernels import what_if
from flows.kernels.what_if_sequences import MORE, explain_sequences
from flows.log import Log
from flows.partition import partition_of
from flows.positions import Positions
from flows.settings import Settings
from flows.skew.causes import COLUMNS, EMPTY_COLUMN, FLOAT32_COLUMN, SHIFTS, packed
from flows.skew.names import ENTITY, KINDS, PIN, SEQUENCE, TOPIC, USER
from flows.skew.trace import Trace, trace
from flows.vocabulary import Vocabulary

EXAMPLES = 5
"""Rows that are kept of each cause, to be shown."""
# Counts of a topic among its statistics: all but the rates.
_COUNTS = [c for c in range(15) if c % 5 < 3]
_RATES = [c for c in range(15) if c % 5 >= 3]


@dataclass(frozen=True, eq=False)
class Difference:
    """A row that differs.

    Attributes
    ----------
    kind : str
        One of `names.KINDS`.
    entity : int or str
    request_id : str
    timestamp, as_of : int
    positions : bytes
        Of a `Positions` that can be read.
    served, recomputed : int64[24], float64[15] or int64[entries, 5]
    found : (bool, bool)
        Whether anything was served, and was to be served.
    wrong : tuple of int
        Columns that differ, of those that were asked for.
    """

    kind: str
    entity: int | str
    request_id: str
    timestamp: int
    as_of: int
    positions: bytes
    served: np.ndarray
    recomputed: np.ndarray
    found: tuple[bool, bool]
    wrong: tuple[int, ...]


@dataclass
class Pattern:
    """Rows that the same mistakes would explain.

    Attributes
    ----------
    rows : Counter
        By kind.
    columns : Counter
        By kind and column: values that differ.
    examples : list of Difference
        The first few of each kind.
    """

    rows: Counter[str] = field(default_factory=Counter)
    columns: Counter[tuple[str, int]] = field(default_factory=Counter)
    examples: list[Difference] = field(default_factory=list)

    def add(self, difference: Difference) -> None:
        self.rows[difference.kind] += 1
        self.columns.update((difference.kind, c) for c in difference.wrong)
        if self.rows[difference.kind] <= EXAMPLES:
            self.examples.append(difference)


class Explaining:
    """See the module.

    Parameters
    ----------
    settings, vocabulary
    log : Log
        ACTIONS.
    most : int, optional
        Of so many users, so many pins and so many topics, drawn from all that are taken up at once, rows are explained; the others are `left`.
    seed : int
        Of what is drawn.
    at_once : int
        Rows that are held before they are explained.
    progress : callable
        Called with the number of log records just read.
    """

    def __init__(
        self,
        settings: Settings,
        vocabulary: Vocabulary,
        log: Log,
        most: int | None = None,
        seed: int = 0,
        at_once: int = 20_000,
        progress: Callable[[int], None] = lambda n: None,
    ) -> None:
        self._settings = settings
        self._vocabulary = vocabulary
        self._log = log
        self._most = most
        self._random = np.random.default_rng(seed)
        self._at_once = at_once
        self._progress = progress
        self._held: list[Difference] = []
        self.patterns: dict[bytes, Pattern] = {}
        self.left = Pattern()

    def add(self, differences: Sequence[Difference]) -> None:
        """Take up rows that differ."""
        self._held += self._drawn(differences)
        if len(self._held) >= self._at_once:
            self.flush()

    def _drawn(self, differences: Sequence[Difference]) -> Sequence[Difference]:
        if self._most is None or len(differences) <= self._most:
            return differences
        # A user's two rows stay together: the one may tell why the other differs.
        by_entity: dict[str, dict[tuple[str, int | str], list[Difference]]] = {}
        for one in differences:
            by_entity.setdefault(ENTITY[one.kind], {}).setdefault((one.request_id, one.entity), []).append(one)
        out: list[Difference] = []
        for rows in map(list, map(dict.values, by_entity.values())):
            chosen = set(self._random.permutation(len(rows))[: self._most].tolist())
            for i, together in enumerate(rows):
                for one in together:
                    out.append(one) if i in chosen else self.left.add(one)
        return out

    def flush(self) -> None:
        """Explain what is held."""
        # What is judged depends on the corrections that count: a pass for each set of them, and there is hardly ever more than one.
        groups: dict[bytes, list[Difference]] = {}
        parsed: dict[bytes, Positions] = {}
        for one in self._held:
            if one.positions not in parsed:
                positions = Positions.from_bytes(one.positions)
                assert positions is not None
                parsed[one.positions] = positions
            groups.setdefault(parsed[one.positions].corrected_to.tobytes(), []).append(one)
        for group in groups.values():
            self._explain(group, parsed)
        self._held = []

    def _explain(self, group: list[Difference], parsed: dict[bytes, Positions]) -> None:
        prefixes = [parsed[one.positions] for one in group]
        ids: dict[str, list[Any]] = {kind: [one.entity for one in group if one.kind == kind] for kind in KINDS}
        found = trace(
            self._settings,
            self._vocabulary,
            self._log,
            np.max([prefix.actions for prefix in {id(p): p for p in prefixes}.values()], axis=0).tolist(),
            prefixes[0].corrected_to.tolist(),
            np.array(ids[SEQUENCE] + ids[USER], np.int64),
            np.array(ids[PIN], np.int64),
            ids[TOPIC],
            self._progress,
        )
        of_sequences: dict[tuple[str, int | str], np.ndarray] = {}
        for kind in KINDS:
            chosen = [i for i, one in enumerate(group) if one.kind == kind]
            if chosen:
                rows = [group[i] for i in chosen]
                hits = self._hits(found, kind, rows, [prefixes[i] for i in chosen])
                if kind == SEQUENCE:
                    of_sequences = {(one.request_id, one.entity): hit for one, hit in zip(rows, hits, strict=True)}
                elif kind == USER:
                    # Whether there is anything to say of a user is said of both: where that alone differs, the sequence tells why.
                    for one, hit in zip(rows, hits, strict=True):
                        if np.array_equal(one.served, one.recomputed):
                            hit[:] = of_sequences.get((one.request_id, one.entity), hit)
                for one, pattern in zip(rows, packed(hits), strict=True):
                    self.patterns.setdefault(pattern, Pattern()).add(one)

    def _hits(self, found: Trace, kind: str, rows: list[Difference], prefixes: list[Positions]) -> np.ndarray:
        """Which mistakes give what was served: bool[n, COLUMNS]."""
        hits = np.zeros((len(rows), COLUMNS), np.bool_)
        as_of = np.array([one.as_of for one in rows], np.int64)
        if kind == SEQUENCE:
            ids = np.array([one.entity for one in rows], np.int64)
            offsets = np.concatenate([[0], np.cumsum([len(one.served) for one in rows])]).astype(np.int64)
            entries = np.concatenate([one.served for one in rows])
            tried = np.zeros((len(rows), what_if.FIRST_SHIFT + len(SHIFTS) + MORE), np.bool_)
            cuts = np.stack([prefix.actions for prefix in prefixes])
            explain_sequences(
                found.sequences.rows, found.sequences.bounds_of(ids), cuts, as_of, entries, offsets, SHIFTS, SEQUENCE_LENGTH, tried
            )
            # That the trace has it so too: otherwise what is tried says nothing.
            tried &= ~tried[:, [what_if.AS_IT_IS]]
            hits[:, : tried.shape[1]] = tried
            hits[:, EMPTY_COLUMN] = [not len(one.served) for one in rows]
            hits[:, FLOAT32_COLUMN] = [_is_cut(one.served, one.recomputed) for one in rows]
            return hits
        events, ids, cuts = self._of(found, kind, rows, prefixes)
        served, recomputed = np.stack([one.served for one in rows]), np.stack([one.recomputed for one in rows])
        counts, right = served.astype(np.int64), recomputed.astype(np.int64)
        if kind == TOPIC:
            counts, right = (side[:, _COUNTS] for side in (counts, right))
        there = np.array([one.found if kind != USER else (-1, -1) for one in rows], np.int64)
        # Of one layout, or kernels are compiled for each.
        counts, right = (np.ascontiguousarray(np.column_stack([side, there[:, i]])) for i, side in enumerate((counts, right)))
        bounds = events.bounds_of(ids)
        tried = np.zeros((len(rows), what_if.FIRST_SHIFT + len(SHIFTS)), np.bool_)
        lateness = self._settings.allowed_lateness_ms
        what_if.explain(events.rows, bounds, cuts, as_of, counts, SHIFTS, lateness, kind == TOPIC, tried)
        agrees = np.zeros(len(rows), np.bool_)
        what_if.agrees(events.rows, bounds, cuts, as_of, right, lateness, kind == TOPIC, agrees)
        tried &= ~tried[:, [what_if.AS_IT_IS]] & agrees[:, None]
        if kind == TOPIC:
            # Counts that a mistake gives explain rates only where these follow from them.
            tried &= (_rates(served).view(np.int64) == served[:, _RATES].view(np.int64)).all(axis=1)[:, None]
        hits[:, : tried.shape[1]] = tried
        hits[:, EMPTY_COLUMN] = [not one.served.any() and one.recomputed.any() for one in rows]
        hits[:, FLOAT32_COLUMN] = [_is_cut(a, b) for a, b in zip(served, recomputed, strict=True)]
        return hits

    def _of(self, found: Trace, kind: str, rows: list[Difference], prefixes: list[Positions]) -> tuple[Any, np.ndarray, np.ndarray]:
        """Events of a kind, IDs of its rows, and up to which offset of each origin each reflects the log."""
        if kind == TOPIC:
            return found.topics, np.array([hash_id(str(one.entity)) for one in rows], np.int64), np.stack([p.actions for p in prefixes])
        ids = np.array([one.entity for one in rows], np.int64)
        if kind == USER:
            return found.users, ids, np.stack([prefix.actions for prefix in prefixes])
        homes = partition_of(ids, self._settings.partitions).tolist()
        cuts = [found.cut_of_pins(home, prefix) for home, prefix in zip(homes, prefixes, strict=True)]
        return found.pins, ids, np.stack(cuts)


def _is_cut(served: np.ndarray, recomputed: np.ndarray) -> bool:
    """Whether it is what is left of the right values in 32 bits of a float."""
    if served.shape != recomputed.shape or np.array_equal(served, recomputed):
        return False
    with np.errstate(invalid="ignore"):
        return bool((served == recomputed.astype(np.float32).astype(served.dtype)).all())


def _rates(stats: np.ndarray) -> np.ndarray:
    """The rates that follow from a topic's counts: float64[n, 6], in the order of the statistics."""
    out = np.zeros((len(stats), len(_RATES)), np.float64)
    for w in range(3):
        saves, clicked, days_3_6 = stats[:, 5 * w], stats[:, 5 * w + 1], stats[:, 5 * w + 2]
        np.divide(clicked, saves, out=out[:, 2 * w], where=saves > 0)
        np.divide(days_3_6, clicked, out=out[:, 2 * w + 1], where=clicked > 0)
    return out
