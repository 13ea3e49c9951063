"""What the features are called whose skew is told: Feast's names of them, `view:feature`, and which columns of a served row they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows.errors import SettingsError
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, TOPIC_STATS, USER_COUNTERS
from flows.vocabulary import suggestion

SEQUENCE, USER, PIN, TOPIC = "sequence", "user", "pin", "topic"
KINDS = (SEQUENCE, USER, PIN, TOPIC)
"""Of rows: a user has two."""

# As `feature_repo.views` calls them, which imports nothing of this and is imported by nothing here.
VIEWS = {
    SEQUENCE: "user_action_sequence",
    USER: "user_revisit_counters",
    PIN: "pin_revisit_counters",
    TOPIC: "topic_revisit_stats",
}
COLUMNS: dict[str, tuple[str, ...]] = {
    SEQUENCE: tuple(f"sequence_{field}" for field in SEQUENCE_FIELDS),
    USER: USER_COUNTERS,
    PIN: PIN_COUNTERS,
    TOPIC: tuple(name for name, _ in TOPIC_STATS),
}
ENTITY = {SEQUENCE: "user", USER: "user", PIN: "pin", TOPIC: "topic"}
ROW = {SEQUENCE: "user sequence", USER: "user counters", PIN: "pin counters", TOPIC: "topic statistics"}
"""What a row is called."""


@dataclass(frozen=True, order=True)
class Feature:
    """One column of one kind of rows."""

    kind: str
    column: int

    @property
    def name(self) -> str:
        """`view:feature`."""
        return f"{VIEWS[self.kind]}:{COLUMNS[self.kind][self.column]}"


EVERY = tuple(Feature(kind, column) for kind in KINDS for column in range(len(COLUMNS[kind])))


def named(names: Sequence[str]) -> tuple[Feature, ...]:
    """The features that are meant; all without any name.

    Parameters
    ----------
    names : sequence of str
        `view:feature`, a view for all of its features, or a feature alone for every view that has it.

    Raises
    ------
    SettingsError
        There is none of that name.
    """
    if not names:
        return EVERY
    found = set()
    for name in names:
        meant = [f for f in EVERY if name in (f.name, VIEWS[f.kind], COLUMNS[f.kind][f.column])]
        if not meant:
            known = [f.name for f in EVERY] + list(VIEWS.values()) + sorted({COLUMNS[f.kind][f.column] for f in EVERY})
            raise SettingsError(
                f"there is no feature '{name}'{suggestion(name, known)}; give view:feature, a view ({', '.join(VIEWS.values())}), or a feature's name"
            )
        found.update(meant)
    return tuple(f for f in EVERY if f in found)
