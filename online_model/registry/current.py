"""Which bases are served, to whom, and from which delta on: one small file that is replaced whole.

A base and the rows that consumers begin with switch together, for they are named in one place. It must never name a base that was not read and
found sound before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from flows.sealed import sealed
from online_model.registry import durable
from online_model.registry.buckets import BUCKETS, bucket_of
from online_model.registry.errors import DamagedModelError, NoModelError
from online_model.registry.manifest import checked

FORMAT = 1
CURRENT = "current.json"
HISTORY = 100
"""So many of the latest switches are remembered."""


@dataclass(frozen=True)
class Start:
    """Where consumers of a base begin.

    Attributes
    ----------
    base : int
    base_digest : str
        Of its manifest: another base of that number is none of these.
    delta : int
        The last delta that the rows to begin with reflect: those of this snapshot; 0: those of the base itself.
    digest : str
        Of that delta; of the manifest, if it is 0. The next delta names it as the one that it follows.
    position : int
        Next offset of EMBEDDINGS to read.
    settled : int
        Where EMBEDDINGS ended at the switch: what other bases have put out before is passed over, from there on it is refused.
    """

    base: int
    base_digest: str
    delta: int
    digest: str
    position: int
    settled: int


@dataclass(frozen=True)
class Share:
    """A base that some users get instead of the one that is served.

    Attributes
    ----------
    start : Start
    buckets : int
        Of BUCKETS.
    salt : str
        Decides which users those are.
    """

    start: Start
    buckets: int
    salt: str


@dataclass(frozen=True)
class Past:
    """A switch: what was served from `as_of` (ms) on, what had made it so, and whether it was a return to what was served before."""

    start: Start
    as_of: int
    reason: str
    back: bool = False


@dataclass(frozen=True)
class Current:
    """What is served.

    Attributes
    ----------
    serial : int
        Grows by one with every change.
    start : Start
        Of the base that is served.
    canary, holdout : Share or None
        A user of both gets the holdout, which is for long.
    candidates : tuple of Start
        Bases that put out deltas and that nobody is served yet: a learner catches up on them in shadow.
    history : tuple of Past
        Switches, the latest last: that is the one of now.
    """

    serial: int
    start: Start
    canary: Share | None = None
    holdout: Share | None = None
    candidates: tuple[Start, ...] = ()
    history: tuple[Past, ...] = ()
    format: int = field(default=FORMAT)

    @property
    def base(self) -> int:
        return self.start.base

    def starts(self) -> dict[str, Start]:
        """Of every base that somebody gets, by its role."""
        shares = {"canary": self.canary, "holdout": self.holdout}
        return {"served": self.start} | {role: share.start for role, share in shares.items() if share is not None}

    def start_of(self, base: int) -> Start | None:
        """Where consumers of a base begin; None if nobody gets it."""
        return next((start for start in self.starts().values() if start.base == base), None)

    def role_of(self, user_id: int) -> str:
        """Which of `starts` a user gets."""
        for role, share in (("holdout", self.holdout), ("canary", self.canary)):
            if share is not None and bucket_of(np.array([user_id], np.int64), share.salt)[0] < share.buckets:
                return role
        return "served"

    def bases_of(self, user_ids: np.ndarray) -> np.ndarray:
        """The base that each user gets: int64[n] to int64[n]."""
        out = np.full(len(user_ids), self.base, np.int64)
        for share in (self.canary, self.holdout):
            if share is not None:
                out[bucket_of(user_ids, share.salt) < share.buckets] = share.start.base
        return out

    def beside(self, base: int) -> frozenset[int]:
        """Bases whose deltas a consumer of `base` passes over.

        The one that is served is among them only for those of a canary or a holdout: for others its deltas say that there was a switch.
        """
        known = {start.base for start in self.starts().values()} if self.start_of(base) is not None else set()
        return frozenset((known | {start.base for start in self.candidates}) - {base})

    def origin(self, base: int, digest: str) -> Start | None:
        """Where somebody has begun with a base's own rows, so that all of its deltas lie behind; None if nobody ever did."""
        now = [*self.starts().values(), *self.candidates, *(past.start for past in reversed(self.history))]
        return next((start for start in now if (start.base, start.base_digest, start.delta) == (base, digest, 0)), None)

    def earlier(self) -> list[int]:
        """Bases that a rollback goes to, the first to try first: those served before, without those that were rolled back from."""
        stack: list[int] = []
        for past in self.history:
            base = past.start.base
            if past.back and base in stack:
                del stack[stack.index(base) :]
            elif base in stack:
                stack.remove(base)
            stack.append(base)
        return [base for base in reversed(stack) if base != self.base]

    def switched(self, start: Start, as_of: int, reason: str, back: bool = False) -> Current:
        """With another base, which is no candidate or canary any more."""
        history = (*self.history, Past(start, as_of, reason, back))[-HISTORY:]
        return replace(
            self,
            start=start,
            history=history,
            canary=None if self.canary is not None and self.canary.start.base == start.base else self.canary,
            candidates=tuple(other for other in self.candidates if other.base != start.base),
        )


def share_of(start: Start, share: float, salt: str) -> Share:
    """A share (0 to 1) of the users."""
    return Share(start, round(share * BUCKETS), salt)


def read_current(directory: Path) -> Current:
    """What is served.

    Raises
    ------
    NoModelError
        Nothing yet.
    DamagedModelError, NewerFormatError
    """
    path = directory / CURRENT
    if not path.exists() and not path.is_symlink():
        raise NoModelError(f"no model is served yet: there is no {path}; `tidemark models publish BASE` makes a base the one that is")
    try:
        content = checked(durable.read(path), str(path), FORMAT)
    except DamagedModelError as error:
        raise DamagedModelError(f"{error}; `tidemark models publish BASE --anew` writes it anew") from error
    try:
        return Current(
            content["serial"],
            _start(content["start"]),
            _share(content["canary"]),
            _share(content["holdout"]),
            tuple(_start(candidate) for candidate in content["candidates"]),
            tuple(Past(_start(past["start"]), past["as_of"], past["reason"], past["back"]) for past in content["history"]),
        )
    except (KeyError, TypeError) as error:
        raise DamagedModelError(f"{path} lacks something, or says what it never says ({error})") from error


def write_current(directory: Path, current: Current) -> None:
    """Put it in the place of what was said before, at once and durably."""
    durable.replace(directory / CURRENT, sealed(asdict(current)))


def _start(content: Mapping[str, Any]) -> Start:
    return Start(**content)


def _share(content: Mapping[str, Any] | None) -> Share | None:
    return None if content is None else Share(_start(content["start"]), content["buckets"], content["salt"])
