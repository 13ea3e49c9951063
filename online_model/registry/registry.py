"""The registry of a data directory: publish a base, say which one is served, go back, take away what nobody needs.

Every change is whole and durable or has not happened, and one process at a time makes any. What is switched to was read and found sound, to the
last byte, in the same call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flows.directories import make_directory, translated
from flows.settings import Settings
from flows.state.actions_task import state_fingerprint
from flows.state.task_lock import holding
from online_model.registry import durable, snapshots
from online_model.registry.bases import SNAPSHOTS, Base, Bases, Expected
from online_model.registry.buckets import BUCKETS
from online_model.registry.current import Current, Start, read_current, share_of, write_current
from online_model.registry.errors import DamagedModelError, NoModelError, RegistryError, RoleError
from online_model.registry.manifest import TABLES, Described
from online_model.registry.snapshots import Snapshot

Fits = Callable[[Snapshot], bool]
"""Whether a snapshot is of the deltas that EMBEDDINGS holds; nobody but a reader of that log can say."""


@dataclass(frozen=True)
class Swept:
    """What was taken away, or would be: bases, and (base, delta) of snapshots."""

    bases: tuple[int, ...]
    snapshots: tuple[tuple[int, int], ...]


class Registry:
    """The models of a data directory.

    Parameters
    ----------
    directory : Path
        models/ of the data directory.
    expected : Expected
    """

    def __init__(self, directory: Path, expected: Expected) -> None:
        self.directory = directory.absolute()
        self.bases = Bases(self.directory / "bases", expected)

    @classmethod
    def of(cls, settings: Settings) -> Registry:
        """Of a data directory, with the features and the vocabulary that its settings say."""
        vocabulary = settings.load_vocabulary()
        return cls(settings.data / "models", Expected(state_fingerprint(settings, vocabulary), vocabulary.fingerprint()))

    # Reading -----------------------------------------------------------------------------------------------------------------------

    def current(self) -> Current:
        """What is served.

        Raises
        ------
        NoModelError, DamagedModelError, NewerFormatError
        """
        return read_current(self.directory)

    def base(self, number: int) -> Base:
        """A base, checked whole before anything of it is used.

        Raises
        ------
        NoModelError, DamagedModelError, NewerFormatError, OtherFeaturesError, OtherVocabularyError
        """
        base = self.bases.open(number)
        base.verify()
        return base

    def load(self, start: Start) -> tuple[Base, dict[str, dict[str, np.ndarray]]]:
        """A base with the rows that its consumers begin with: of the snapshot that `start` names, or its own. Either is checked.

        Returns
        -------
        (Base, dict of str to State)
            The states of the tables "user" and "pin".

        Raises
        ------
        NoModelError, DamagedModelError, NewerFormatError, OtherFeaturesError, OtherVocabularyError
        """
        base = self.base(start.base)
        if base.digest != start.base_digest:
            raise DamagedModelError(
                f"base {start.base} is another than the one that was published ({base.digest}, not {start.base_digest}); "
                "roll back (`tidemark models rollback`), or put it back from a copy"
            )
        if not start.delta:
            return base, {table: base.table(table) for table in TABLES}
        snapshot = snapshots.read_snapshot(base, start.delta)
        if snapshot.point.digest != start.digest:
            raise DamagedModelError(f"snapshot {snapshot.path} is of another delta {start.delta} than consumers are to begin with")
        return base, {table: snapshot.table(table) for table in TABLES}

    def start_for(self, base: Base, end: int, fits: Fits = lambda snapshot: True) -> Start:
        """Where consumers of a base begin best: at its newest sound snapshot, or with its own rows.

        Parameters
        ----------
        end : int
            Where EMBEDDINGS ends now.
        fits : callable
        """
        for snapshot in snapshots.sound(base):
            if snapshot.point.position <= end and fits(snapshot):
                return snapshot.start(end)
        # Rows of the base's own, and all of its deltas from where they may lie on.
        origin = None
        with suppress(RegistryError):
            origin = self.current().origin(base.number, base.digest)
        return Start(base.number, base.digest, 0, base.digest, end if origin is None else min(origin.position, end), end)

    # Changing ----------------------------------------------------------------------------------------------------------------------

    def draft(self) -> AbstractContextManager[Path]:
        """A directory to write a base's files into; see `publish`."""
        return self.bases.draft()

    def publish(self, draft: Path, about: Described) -> Base:
        """Make a numbered base of a draft. It is served to nobody before `switch`.

        Raises
        ------
        DraftError, OtherFeaturesError, OtherVocabularyError
            It can't be one; nothing has changed.
        LockedError
            Another command is changing the registry.
        """
        self.bases.check_draft(draft, about)
        with self._alone():
            self.bases.clear_leftovers()
            return self.bases.add(draft, about)

    def switch(self, start: Start, as_of: int, reason: str, anew: bool = False, back: bool = False) -> Current:
        """Serve another base from now on, or the same from another start.

        Parameters
        ----------
        as_of : int
            The moment, ms; kept with the switch.
        anew : bool
            Forget what `current.json` says, where it can't be read: history, canary and holdout too.
        back : bool
            It is a return to what was served before: later ones are no more what a rollback goes to.

        Raises
        ------
        NoModelError, DamagedModelError, NewerFormatError, OtherFeaturesError, OtherVocabularyError
            What is to be served is of no use; nothing has changed.
        LockedError
        """
        with self._alone():
            self.load(start)
            return self._write(self.switched(start, as_of, reason, anew, back))

    def switched(self, start: Start, as_of: int, reason: str, anew: bool = False, back: bool = False) -> Current:
        """What is served once `switch` is done; changes nothing."""
        try:
            before = self.current()
        except NoModelError:
            before = Current(0, start)
        except RegistryError:
            if not anew:
                raise
            before = Current(0, start)
        return before.switched(start, as_of, reason, back)

    def rolled_back(self, now: Current, end: int, fits: Fits = lambda snapshot: True, to: int | None = None) -> Start:
        """Where consumers begin after a rollback: with the latest base before this one that is sound, or with the one that is named.

        Raises
        ------
        RoleError
            There is none.
        """
        if to == now.base:
            raise RoleError(f"base {to} is the one that is served")
        passed: list[str] = []
        for number in [to] if to is not None else now.earlier():
            try:
                return self.start_for(self.base(number), end, fits)
            except RegistryError as error:
                if to is not None:
                    raise
                passed.append(str(error))
        why = f" ({'; '.join(passed)})" if passed else ""
        raise RoleError(f"there is no base to roll back to: none but {now.base} was ever served that is sound{why}; `tidemark models list`")

    def rollback(self, as_of: int, end: int, fits: Fits = lambda snapshot: True, to: int | None = None) -> Current:
        """Serve what was served before; twice goes back twice. See `rolled_back` and `switch`."""
        now = self.current()
        return self.switch(self.rolled_back(now, end, fits, to), as_of, f"rolled back from base {now.base}", back=True)

    def announce(self, start: Start) -> Current:
        """That a base will put out deltas though nobody is served it yet: consumers of others pass over them."""
        with self._alone():
            self.load(start)
            now = self.current()
            others = tuple(other for other in now.candidates if other.base != start.base)
            return self._write(replace(now, candidates=(*others, start)))

    def withdraw(self, base: int) -> Current:
        """That a candidate is given up."""
        with self._alone():
            now = self.current()
            return self._write(replace(now, candidates=tuple(other for other in now.candidates if other.base != base)))

    def given(self, now: Current, role: str, start: Start | None, share: float = 0.0, salt: str = "") -> Current:
        """What is served once a share of the users gets another base, as "canary" or as "holdout"; None ends that.

        Raises
        ------
        RoleError
            It is the base that is served, or the share is none.
        """
        if role not in ("canary", "holdout"):
            raise RoleError(f"there is no role '{role}': a base is a canary or a holdout")
        given = None
        if start is not None:
            given = share_of(start, share, salt or (f"canary {start.base}" if role == "canary" else role))
            if not 0 < given.buckets < BUCKETS:
                raise RoleError(f"a {role} must get a share of the users between 0.01 % and 99.99 %, not {share:.4%}")
            if start.base == now.base and role == "canary":
                raise RoleError(f"base {start.base} is the one that is served; a canary is another")
        return replace(now, canary=given) if role == "canary" else replace(now, holdout=given)

    def give(self, role: str, start: Start | None, share: float = 0.0, salt: str = "") -> Current:
        """Give a share of the users another base; see `given`."""
        with self._alone():
            if start is not None:
                self.load(start)
            return self._write(self.given(self.current(), role, start, share, salt))

    def sweep(self, keep: int, keep_snapshots: int) -> Swept:
        """Take away what nobody needs; see `unneeded`."""
        with self._alone():
            gone = self.unneeded(self.current(), keep, keep_snapshots)
            self.bases.clear_leftovers()
            with translated(f"can't delete from {self.bases.directory}"):
                for number in gone.bases:
                    durable.delete_directory(self.bases.directory / str(number))
                for number, delta in gone.snapshots:
                    durable.delete_directory(self.bases.directory / str(number) / SNAPSHOTS / str(delta))
            return gone

    def unneeded(self, now: Current, keep: int, keep_snapshots: int) -> Swept:
        """What nobody needs: no base that somebody gets, or that a rollback goes to, nor a snapshot that somebody begins with.

        Parameters
        ----------
        now : Current
            What is served, or is about to be.
        keep : int
            So many of the newest bases stay anyway; at least 1, or a number could be given twice.
        keep_snapshots : int
            So many of the newest sound snapshots of each base stay.
        """
        in_use = [*now.starts().values(), *now.candidates]
        needed = {start.base for start in in_use} | set(now.earlier()[:1])
        starts = [*in_use, *(past.start for past in now.history)]
        numbers = self.bases.numbers()
        gone = tuple(number for number in numbers[: -max(1, keep)] if number not in needed)
        unneeded: list[tuple[int, int]] = []
        for number in numbers:
            if number not in gone:
                with suppress(RegistryError):
                    unneeded += self._unneeded(self.bases.opened(number), keep_snapshots, starts)
        return Swept(gone, tuple(unneeded))

    def _unneeded(self, base: Base, keep: int, starts: list[Start]) -> Iterator[tuple[int, int]]:
        begun = {start.delta for start in starts if start.base == base.number}
        kept = [snapshot.point.delta for snapshot in snapshots.sound(base)][:keep]
        for delta in snapshots.numbers(base):
            # One that is newer than those that are sound may be being written, or looked into.
            if delta not in begun and delta not in kept and kept and delta < kept[-1]:
                yield base.number, delta

    def _write(self, current: Current) -> Current:
        current = replace(current, serial=current.serial + 1)
        write_current(self.directory, current)
        return current

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with translated(f"can't write to {self.directory}"):
            make_directory(self.directory)
        lock = self.directory / "LOCK"
        with holding(lock, lambda who: f"models {self.directory} are being changed by another command ({who}); wait until it is done"):
            yield


def describe_roles(current: Current | None, base: int) -> list[str]:
    """What a base is at present: served, canary, holdout, candidate."""
    if current is None:
        return []
    roles = [role for role, start in current.starts().items() if start.base == base]
    return roles + ["candidate"] * any(start.base == base for start in current.candidates)
