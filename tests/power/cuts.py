"""Cuts the power at many points of a journal of the work, and checks what is left each time: nothing promised is lost, and going on leads to the
same bytes as if nothing had happened.

`python -m tests.power.cuts --seed S --points N` does more of it than the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from flows.errors import TidemarkError
from tests.power.disk import Disk, Least, build_shim, entries, shim_environment
from tests.power.work import settings_of, small_files, work
from tests.processes import ROOT, Outcome, assert_same, outcome

DATA = "data"


class LostError(AssertionError):
    """Something that had been promised is gone."""


@dataclass(frozen=True)
class Bench:
    """Where a shim, a disk and its journal lie.

    Attributes
    ----------
    root : Path
        What the journal covers.
    """

    directory: Path
    shim: Path

    @classmethod
    def make(cls, directory: Path) -> Bench:
        (directory / "root").mkdir(parents=True)
        return cls(directory.resolve(), build_shim(directory))

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    def run(self, *command: object, kill_at: int = 0, **environment: object) -> int:
        """Run a command with the shim; its exit code."""
        return self.ended(*command, kill_at=kill_at, **environment).returncode

    def ended(self, *command: object, kill_at: int = 0, **environment: object) -> subprocess.CompletedProcess[str]:
        """Run a command with the shim; with what it printed."""
        shim = shim_environment(self.shim, self.root, self.journal, sync_us=300, kill_at=kill_at)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMARK_")}
        given = {name: str(value) for name, value in environment.items()}
        environ = {**inherited, "PYTHONPATH": str(ROOT), **shim, **given}
        return subprocess.run([sys.executable, *map(str, command)], env=environ, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)

    def work(self, seed: int, *names: str, kill_at: int = 0, unsynced: str = "nothing") -> int:
        """Do the work in directories below the root."""
        directories = [self.root / name for name in names or (DATA,)]
        return self.run("-m", "tests.power.work", "--unsynced", unsynced, seed, *directories, kill_at=kill_at)


@dataclass(frozen=True)
class Cut:
    """The power fails before the journal's entry `at`.

    Attributes
    ----------
    promised : dict of directory to dict of str to int
        The ledger, and the positions of tasks, that somebody had been told by then.
    """

    at: int
    promised: dict[str, dict[str, int]]
    disk: Disk


def cuts(disk: Disk, journal: Path, points: Sequence[int]) -> Iterator[Cut]:
    """Move a disk on to each of some points."""
    promised: dict[str, dict[str, int]] = {}
    left = sorted(points)
    at = 0
    for at, entry in enumerate(entries(journal)):
        while left and left[0] <= at:
            yield Cut(left.pop(0), promised, disk)
        if entry.kind == "K":
            for name, told in json.loads(entry.data).items():
                held = promised.setdefault(name, {})
                held |= {key: max(value, held.get(key, 0)) for key, value in told.items()}
        disk.apply(entry)
    for point in left:
        yield Cut(point, promised, disk)


def check(data: Path, seed: int, promised: dict[str, int], clean: Outcome) -> None:
    """Go on with the work where it was cut off.

    Raises
    ------
    LostError
    AssertionError
        It ends otherwise than the clean run.
    TidemarkError
        It can't go on.
    """
    found = work(data, seed)
    lost = {key: (value, found[key]) for key, value in promised.items() if found[key] < value}
    if lost:
        raise LostError(f"promised and found: {lost}")
    assert_same(outcome(settings_of(data), data / "exports"), clean)


def clean_run(directory: Path, seed: int) -> Outcome:
    """What the work comes to without a fault."""
    work(directory, seed)
    return outcome(settings_of(directory), directory / "exports")


def entries_of(journal: Path) -> int:
    """How many there are."""
    return sum(1 for _ in entries(journal))


def failures(
    bench: Bench, disk: Disk, seed: int, points: Sequence[int], clean: Outcome, names: Sequence[str] = (DATA,), least: bool = False
) -> list[str]:
    """Cut the power at points of the bench's journal, check what each directory then holds, and say what is wrong, a line each.

    Parameters
    ----------
    disk : Disk
        As it was when the journal began.
    names : sequence of str
        Directories below the root.
    least : bool
        Of what isn't durable each crash leaves nothing; else anything.
    """
    found = []
    for cut in cuts(disk, bench.journal, points):
        for name in names:
            image = bench.directory / f"cut-{cut.at}-{name}"
            shutil.rmtree(image, ignore_errors=True)
            cut.disk.write(image, Least() if least else Random(f"{seed} {cut.at} {name}"), name)
            try:
                check(image, seed, cut.promised.get(name, {}), clean)
            except (AssertionError, TidemarkError) as error:
                found.append(f"seed {seed}, entry {cut.at}, {name}: {type(error).__name__}: {error}")
            else:
                shutil.rmtree(image)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--kills", type=int, default=0, help="kill the process so often, each time as it begins a sync, before it may end")
    parser.add_argument("--directory", type=Path, required=True, help="must not be there yet; what failed is left in it")
    arguments = parser.parse_args()
    seed, random = arguments.seed, Random(arguments.seed)
    bench = Bench.make(arguments.directory)
    disk = Disk(bench.root)
    for _ in range(arguments.kills):
        bench.work(seed, kill_at=random.randint(1, 400))
    if bench.work(seed):
        raise SystemExit("the work failed")
    with small_files():
        clean = clean_run(bench.directory / "clean", seed)
        points = [random.randint(0, entries_of(bench.journal)) for _ in range(arguments.points)]
        failed = failures(bench, disk, seed, points, clean)
    print("\n".join([*failed, json.dumps({"seed": seed, "points": len(points), "failed": len(failed)})]))
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
