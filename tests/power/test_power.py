"""After a power failure nothing that was promised is missing, nothing runs ahead of its log, and going on leads to the same bytes.

The work runs for once, under a library that writes down all that it does to its files; each test makes what the disk may hold after a failure at
some point of that, and goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from flows.log import LocalLog
from tests.power.cuts import DATA, Bench, clean_run, cuts, entries_of, failures
from tests.power.disk import Directory, Disk, File, Least, entries
from tests.power.work import STREAM, small_files
from tests.processes import Outcome

pytestmark = pytest.mark.cc
SEED = 2


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with small_files():
        yield


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return clean_run(tmp_path_factory.mktemp("clean") / DATA, SEED)


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """All the work, done without a fault."""
    bench = Bench.make(tmp_path_factory.mktemp("worked"))
    assert bench.work(SEED) == 0
    return bench


def bench_disk(bench: Bench) -> Disk:
    """The disk before the work: nothing on it."""
    return Disk(bench.root, empty=True)


# The journal itself ------------------------------------------------------------------------------------------------------------------------


def test_the_journal_accounts_for_every_byte(worked: Bench, tmp_path: Path) -> None:
    """So no file is written past the library: not by mapped memory (but SQLite's *-shm), nor by the kernel's rings."""
    disk = bench_disk(worked)
    for entry in entries(worked.journal):
        disk.apply(entry)
    disk.write(tmp_path / "all", None)
    files = {path.relative_to(worked.root): path.read_bytes() for path in worked.root.rglob("*") if path.is_file()}
    assert any(path.suffix == ".sst" for path in files)
    assert {path.relative_to(tmp_path / "all"): path.read_bytes() for path in (tmp_path / "all").rglob("*") if path.is_file()} == files


def test_what_a_crash_leaves_of_a_file() -> None:
    file = File()
    file.pending += [(0, b"a" * 1024)]
    file.sync()
    file.pending += [(1024, b"b" * 1024), (0, b"c" * 1024), (512, None)]
    assert file.after(Least()) == b"a" * 1024
    assert file.after(None) == b"c" * 512
    left = {bytes(file.after(Random(i))) for i in range(500)}
    a, b, c, hole = (byte * 512 for byte in (b"a", b"b", b"c", b"\0"))
    assert {a + a, a + a + b + b, c + c + b + b, c, a, c + a, a + c + b, a + a + hole + b, c + a + b + b} <= left
    assert {bytes(x) for x in left} <= {x + y + z for x in (a, c) for y in (a, c, b"") for z in (b"", b, b + b, hole + b)}


def test_what_a_crash_leaves_of_a_directory() -> None:
    one, two = File(), File()
    directory = Directory()
    directory.change({"one": one})
    directory.sync()
    directory.change({"draft": two})
    directory.change({"draft": None, "one": two})
    assert directory.after(None) == {"one": two}
    assert directory.after(Least()) == {"one": one}
    left = [directory.after(Random(i)) for i in range(50)]
    assert all(names in ({"one": one}, {"one": one, "draft": two}, {"one": two}) for names in left)
    assert {len(names) for names in left} == {1, 2}


# Promises ----------------------------------------------------------------------------------------------------------------------------------


def points_of(bench: Bench, number: int, seed: int) -> list[int]:
    random, total = Random(seed), entries_of(bench.journal)
    return [random.randint(0, total) for _ in range(number)]


def test_whenever_it_fails(worked: Bench, clean: Outcome) -> None:
    assert failures(worked, bench_disk(worked), SEED, [*points_of(worked, 9, 1), entries_of(worked.journal)], clean) == []


def test_whenever_it_fails_after_kills(clean: Outcome, tmp_path: Path) -> None:
    """What a killed process wrote and didn't sync is still there for the next one, and lost with the power."""
    bench, random = Bench.make(tmp_path / "bench"), Random(7)
    assert -9 in [bench.work(SEED, kill_at=random.randint(60, 150)) for _ in range(3)]
    assert bench.work(SEED) == 0
    assert failures(bench, bench_disk(bench), SEED, points_of(bench, 9, 2), clean) == []


def test_it_fails_again_while_that_is_recovered(worked: Bench, clean: Outcome, tmp_path: Path) -> None:
    bench, names = Bench.make(tmp_path / "bench"), []
    for cut in cuts(bench_disk(worked), worked.journal, points_of(worked, 3, 3)):
        names.append(f"from-{cut.at}")
        cut.disk.write(bench.root / names[-1], Random(cut.at), DATA)
    disk = Disk(bench.root)
    assert bench.work(SEED, *names) == 0
    assert failures(bench, disk, SEED, points_of(bench, 2, 4), clean, names) == []


def appended(bench: Bench, kill_at: int = 0) -> int:
    """Append three records in a process that ends as if it were killed."""
    code = (
        "import os, sys, pathlib, pyarrow as pa; from flows.log import LocalLog\n"
        "log = LocalLog.open(pathlib.Path(sys.argv[1]), 'actions', 1, create=True)\n"
        "log.append([(0, pa.record_batch({'timestamp': pa.array([1, 2, 3])}))]); os._exit(0)"
    )
    return bench.run("-c", code, bench.root / DATA, kill_at=kill_at)


def test_what_is_read_of_a_killed_append_stays(tmp_path: Path) -> None:
    """The next process finds it written and takes it for committed: then it must not go any more."""
    dry, bench = Bench.make(tmp_path / "dry"), Bench.make(tmp_path / "bench")
    assert appended(dry) == 0
    assert appended(bench, kill_at=sum(entry.kind in "SD" for entry in entries(dry.journal))) == -9
    reading = (
        "import os, sys, pathlib; from flows.log import LocalLog\n"
        "os._exit(LocalLog.open(pathlib.Path(sys.argv[1]), 'actions', 1).end_position(0))"
    )
    read = bench.run("-c", reading, bench.root / DATA)
    assert read == 3, "this is no test if it isn't read"
    disk = bench_disk(bench)
    for entry in entries(bench.journal):
        disk.apply(entry)
    disk.write(tmp_path / "left", Least(), DATA)
    with LocalLog.open(tmp_path / "left", "actions", 1) as log:
        assert log.end_position(0) == 3


@pytest.mark.parametrize("unsynced", ["logs", "state", "saved", "names"])
def test_a_sync_that_is_left_out_is_found(unsynced: str, clean: Outcome, tmp_path: Path) -> None:
    """The checks can fail."""
    bench = Bench.make(tmp_path / "bench")
    assert bench.work(SEED, unsynced=unsynced) == 0
    promises = [(at + 1, json.loads(entry.data)[DATA]) for at, entry in enumerate(entries(bench.journal)) if entry.kind == "K"]
    of_it = [at for at, told in promises if any(n for key, n in told.items() if unsynced not in ("state", "saved") or key != STREAM)]
    # A working set is saved now and then, and not at first.
    some = of_it[-3:] if unsynced == "saved" else of_it[:3]
    found = failures(bench, bench_disk(bench), SEED, some, clean, least=True)
    assert any(kind in line for line in found for kind in ("LostError", "CorruptionError", "StateError")), found
