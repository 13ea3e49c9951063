"""Which examples a retrain learns from, calibrates on and is judged by: ranges of positions of EXAMPLES, cut where labels matured by a time.

They follow from `as_of`, the parent and the log. What the online learner has done, and the clock, never move one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from flows.errors import SettingsError
from flows.examples.store import Examples, positions_at
from flows.log import LogBatch
from flows.run.display import moment
from flows.settings import DAY_MS, HOUR_MS
from online_model.registry.bases import Base
from online_model.retrain.errors import EmptyWindowError, NoParentError


@dataclass(frozen=True)
class HeldBack:
    """What is not learned from at the end of a window, ms: the last part judges, the part before it fits the calibrators.

    What is held back is learned from by the next retrain, and by the online learner until then.
    """

    evaluation_ms: int = 12 * HOUR_MS
    calibration_ms: int = DAY_MS

    def __post_init__(self) -> None:
        if self.evaluation_ms < 0 or self.calibration_ms < 0:
            raise SettingsError("retrain: what is held back can't be less than nothing")


FROM_SCRATCH = HeldBack(evaluation_ms=3 * DAY_MS)
"""As the paper has it, of 31 days: 27 to train on, 1 to calibrate on, 3 to evaluate on."""


@dataclass(frozen=True)
class Spans:
    """Ranges of positions, one number for each partition: begin ≤ learned ≤ calibrated ≤ judged.

    Attributes
    ----------
    as_of : int
        The moment of the retrain, ms: what became known then or later doesn't exist for it.
    cut : int
        Where the judging begins, ms.
    learned_until : int
        Where learning ends, ms.
    begin, learned, calibrated, judged : tuple of int
        [begin, learned) is learned from, calibrators are fitted on [learned, calibrated), and [calibrated, judged) decides.
    """

    as_of: int
    cut: int
    learned_until: int
    begin: tuple[int, ...]
    learned: tuple[int, ...]
    calibrated: tuple[int, ...]
    judged: tuple[int, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` gave."""
        plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**plain)

    def cut_dict(self) -> dict[str, Any]:
        """What a manifest says: `positions` is where increments of a base begin, and the next retrain."""
        said = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return said | {"positions": said["learned"]}


@dataclass(frozen=True)
class Learned:
    """Up to where a base has learned, and up to where anything of it was fitted, as its manifest says."""

    positions: tuple[int, ...]
    calibrated: tuple[int, ...]
    cut: int = field(default=0)


def learned_by(base: Base) -> Learned:
    """What a base's manifest says.

    Raises
    ------
    NoParentError
        It says nothing that can be read.
    """
    cut = base.manifest.about.cut
    try:
        positions = tuple(int(at) for at in cut["positions"])
        return Learned(positions, tuple(int(at) for at in cut.get("calibrated", positions)), int(cut.get("cut", 0)))
    except (KeyError, TypeError, ValueError) as error:
        raise NoParentError(
            f"base {base.number} doesn't say up to which examples it has learned ({error}); train anew: `tidemark retrain --from-scratch`"
        ) from error


def next_spans(examples: Examples, parent: Learned, as_of: int, held: HeldBack) -> Spans:
    """The window of a retrain that goes on from a base.

    Raises
    ------
    EmptyWindowError
        Nothing lies between where the base has learned and what is held back.
    NoParentError
        The base was made of another log.
    """
    cut = as_of - held.evaluation_ms
    _check(examples, parent)
    spans = _spans(examples, parent.positions, as_of, cut, held.calibration_ms)
    if any(now < before for now, before in zip(spans.learned, parent.positions, strict=True)) or spans.learned == parent.positions:
        raise EmptyWindowError(
            f"retrain: the base has learned from all labels that matured before {moment(spans.learned_until)} (as of {moment(as_of)}, less what is "
            "held back): there is nothing new; let more time pass, or see whether examples are being made (`tidemark examples status`)"
        )
    _refuse_unjudged(spans)
    return spans


def whole_store(examples: Examples, incumbent: Learned | None, as_of: int, held: HeldBack, since: int | None) -> Spans:
    """The window of a training from scratch: everything, or everything since a time, ms.

    Parameters
    ----------
    incumbent : Learned or None
        What is served: the new model is judged on nothing that this one has learned from, and has learned from as much as it when that begins.
    """
    cut = as_of - held.evaluation_ms
    if incumbent is not None:
        _check(examples, incumbent)
        cut = max(cut, incumbent.cut)
    begin = (0,) * examples.partitions if since is None else tuple(positions_at(examples, since))
    spans = _spans(examples, begin, as_of, min(cut, as_of), held.calibration_ms)
    if incumbent is not None:
        _refuse_unjudged(spans)
    return spans


def _spans(examples: Examples, begin: Sequence[int], as_of: int, cut: int, calibration_ms: int) -> Spans:
    learned, calibrated, judged = (tuple(positions_at(examples, time)) for time in (cut - calibration_ms, cut, as_of))
    return Spans(as_of, cut, cut - calibration_ms, tuple(begin), learned, calibrated, judged)


def _refuse_unjudged(spans: Spans) -> None:
    """Before all the work, not after it: without examples to judge by no base is let pass."""
    if spans.calibrated == spans.judged:
        raise EmptyWindowError(
            f"retrain: nothing became known between {moment(spans.cut)} and {moment(spans.as_of)}, so there is nothing to judge a new base by; see "
            "whether examples are being made (`tidemark examples status`), give an earlier --as-of, or hold back more (--hold-back)"
        )


def _check(examples: Examples, base: Learned) -> None:
    ends = examples.end_positions()
    if len(base.positions) != len(ends) or any(at > end for at, end in zip(base.positions, ends, strict=True)):
        raise NoParentError(
            f"the base has learned up to positions {list(base.positions)} of log 'examples', which ends at {ends}: it was made of another log; "
            "restore the log, or train anew: `tidemark retrain --from-scratch`"
        )


class Until:
    """Examples as they were when they ended at some positions: whoever reads these sees nothing behind.

    Parameters
    ----------
    examples : Examples
    ends : sequence of int
    """

    def __init__(self, examples: Examples, ends: Sequence[int]) -> None:
        self._examples, self._ends = examples, list(ends)
        self.partitions, self.dense = examples.partitions, examples.dense

    def end_positions(self) -> list[int]:
        """Where each partition ends."""
        return list(self._ends)

    def end_position(self, partition: int) -> int:
        """Where one ends."""
        return self._ends[partition]

    def position_for_time(self, partition: int, timestamp_ms: int) -> int:
        """As of the log, at most the end."""
        return min(self._examples.position_for_time(partition, timestamp_ms), self._ends[partition])

    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]:
        """Records before the end."""
        most = min(max_records, self._ends[partition] - position)
        return self._examples.read(partition, position, most, exact=exact) if most > 0 else []

    def close(self) -> None:
        """Nothing to do: whoever opened the log closes it."""
