"""What a pass over the log is made for: collectors say which passes they need, take what is judged, and answer when they have all of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from flows.corrections.history import History
from flows.state.actions_task import Judge, JudgedBatch

BEFORE_ALL = -(2**63)


@dataclass(frozen=True)
class Pass:
    """One pass over a partition of ACTIONS, as corrections up to a number make it.

    Attributes
    ----------
    partition, corrected_to : int
    judge : Judge
        Whose vocabulary and topics go with what is judged.
    """

    partition: int
    corrected_to: int
    judge: Judge


@dataclass
class Reach:
    """How far a pass must go.

    Attributes
    ----------
    arrival : int
        Past all records that arrived at or before it, ms.
    position : int
        And to this offset at least.
    """

    arrival: int = BEFORE_ALL
    position: int = 0

    def also(self, arrival: int = BEFORE_ALL, position: int = 0) -> None:
        """Reach this far too."""
        self.arrival, self.position = max(self.arrival, arrival), max(self.position, position)


class Taker(ABC):
    """Takes the records of one pass."""

    reach: Reach

    @abstractmethod
    def take(self, done: JudgedBatch, first: int) -> None:
        """Records that come next; `first` came before them in this pass."""

    @abstractmethod
    def end(self) -> None:
        """The pass has ended."""


class Collector(ABC):
    """Gathers, in rounds over all partitions, what queries need, and answers them."""

    @abstractmethod
    def pending(self) -> bool:
        """Whether another round is needed."""

    @abstractmethod
    def begin(self) -> None:
        """A round begins."""

    @abstractmethod
    def numbers(self, partition: int, history: History) -> set[int]:
        """For which corrections a partition must be passed over in this round."""

    @abstractmethod
    def taker(self, of: Pass) -> Taker | None:
        """What takes the records of a pass; None if nothing."""

    @abstractmethod
    def end(self) -> None:
        """The round has ended: answer what can be."""
