"""Which corrections there are, over all partitions: what an operator is shown of them."""

from __future__ import annotations

from dataclasses import dataclass

from flows.corrections.history import History
from flows.settings import Settings


@dataclass
class Listed:
    """A correction.

    Attributes
    ----------
    generation : int
        Its number, by which it is undone.
    reason, author : str
    made_at : int
        ms.
    tasks : list of str
        Those that it made anew.
    excluded, patched : int
        How many records don't count, or count otherwise.
    in_force : bool
        False once it was undone.
    """

    generation: int
    reason: str
    author: str
    made_at: int
    tasks: list[str]
    excluded: int = 0
    patched: int = 0
    in_force: bool = False


def listed(settings: Settings) -> list[Listed]:
    """All corrections of a data directory, the oldest first."""
    found: dict[int, Listed] = {}
    for partition, history in enumerate(History.every(settings)):
        counting = {c.generation for c in history.in_force(history.generation)}
        for c in history.corrections:
            one = found.setdefault(c.generation, Listed(c.generation, c.made.reason, c.made.author, c.made.made_at, []))
            one.tasks.append(f"actions/{partition}")
            one.excluded += len(c.excluded)
            one.patched += len(c.patched)
            # An undo may leave out partitions.
            one.in_force |= c.generation in counting
    return [found[generation] for generation in sorted(found)]
