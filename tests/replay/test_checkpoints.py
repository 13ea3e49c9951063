"""Checkpoints: the state of one commit, whole, while its writer goes on; what is new is all that is written; what is kept can be read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock
from uuid import uuid4

import fsspec
import pandas as pd
import pyarrow as pa
import pytest

from flows.errors import CorruptionError, DataDirectoryError, SettingsError, StorageFullError
from flows.outputs import ACTIONS, REVISITS
from flows.settings import DAY_MS
from flows.state.copy import write_state
from flows.state.task import task_path
from replay.checkpoints.check import pairs
from replay.checkpoints.keep import mend, sweep
from replay.checkpoints.make import make
from replay.checkpoints.manifest import Manifest, listed, piece_path, read, readable
from replay.checkpoints.pieces import PIECE_BYTES, Pair, cut
from replay.place import Place
from tests.state.house import House
from tests.state.small import small
from tests.strategies import adversarial


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with small(sequences=True):
        yield


@pytest.fixture(scope="module")
def events() -> pd.DataFrame:
    return adversarial(3, 300, partitions=1)


@pytest.fixture
def house(tmp_path: Path, events: pd.DataFrame) -> Iterator[House]:
    made = House(tmp_path / "data", events, anchor_records=40)
    yield made
    made.close()


@pytest.fixture(params=["directory", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(str(tmp_path / "checkpoints") if request.param == "directory" else f"memory://{uuid4()}")


@pytest.fixture(scope="module")
def digests(events: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Of the actions task at each position, which it came to record by record."""
    found = {}
    with small(sequences=True):
        house = House(tmp_path_factory.mktemp("digests"), events)
        task = house.open()
        while task.position < task.source.end_position(0):
            task.apply(task.source.read(0, task.position, 1))
            found[task.position] = task.digest()
        task.abandon()
        house.close()
    return found


def put_back(house: House, place: Place, flow: str = ACTIONS, which: int = 0) -> str:
    """Restore a task, by hand, to one of its checkpoints; its digest."""
    path = task_path(house.settings, flow, 0)
    path.rename(path.with_name(f"old-{uuid4()}"))
    write_state(path, pairs(place, read(place, listed(place, flow, 0)[which])))
    task = house.open(flow)
    try:
        return task.digest()
    finally:
        task.abandon()


def test_a_checkpoint_is_the_state_of_its_position(house: House, place: Place, digests: dict[int, str]) -> None:
    clean = house.finish()
    house.wipe_state()
    task = house.open()
    for size in (1, 30, 7, 100):
        task.apply(task.source.read(0, task.position, size))
        made = make(house.settings, place, ACTIONS, 0)
        assert made is not None
        assert made.new
        assert made.manifest.position == task.position
    task.abandon()
    found = listed(place, ACTIONS, 0)
    assert [named.position for named in found] == [138, 38, 31, 1]
    for which, named in enumerate(found):
        assert put_back(house, place, which=which) == digests[named.position]
    # From the oldest of them on, everything comes out as it would have.
    house.feed(house.open(), [13]).close()
    house.feed(house.open(REVISITS)).close()
    assert {f"{flow}-0": _digest(house, flow) for flow in (ACTIONS, REVISITS)} == clean


def _digest(house: House, flow: str) -> str:
    task = house.open(flow)
    try:
        return task.digest()
    finally:
        task.abandon()


def test_only_what_is_new_is_written(house: House, place: Place) -> None:
    task = house.open()
    task.apply(task.source.read(0, 0, 100))
    first = make(house.settings, place, ACTIONS, 0)
    again = make(house.settings, place, ACTIONS, 0)
    assert first is not None
    assert again is not None
    assert first.pieces == len(first.manifest.pieces) > 2
    assert (again.new, again.pieces, again.bytes) == (False, 0, 0)
    assert again.manifest == first.manifest
    assert len(listed(place, ACTIONS, 0)) == 1
    task.apply(task.source.read(0, 100, 1))
    later = make(house.settings, place, ACTIONS, 0)
    assert later is not None
    assert later.new
    task.abandon()
    shared = {piece.name for piece in first.manifest.pieces} & {piece.name for piece in later.manifest.pieces}
    assert len(shared) + later.pieces == len(later.manifest.pieces)
    assert shared


def test_it_is_made_while_the_task_goes_on(house: House, place: Place, digests: dict[int, str]) -> None:
    """Commits, merges, anchors and new openings in one thread; checkpoints in another, as fast as they come."""
    over = threading.Event()
    made, failures = threading.Semaphore(0), list[BaseException]()

    def checkpoints() -> None:
        try:
            while not over.is_set():
                make(house.settings, place, ACTIONS, 0)
                made.release()
        except BaseException as error:
            failures.append(error)
            made.release()

    task = house.open()
    task.apply(task.source.read(0, 0, 1))
    thread = threading.Thread(target=checkpoints)
    thread.start()
    try:
        while task.position < task.source.end_position(0) and not failures:
            task.apply(task.source.read(0, task.position, 3))
            if task.position % 45 < 3:
                task.close()
                task = house.open()
                # Or all commits would be over before the first checkpoint is.
                assert made.acquire(timeout=60)
    finally:
        over.set()
        thread.join()
    task.abandon()
    assert not failures
    found = listed(place, ACTIONS, 0)
    assert len(found) > 3
    for which, named in enumerate(found):
        assert put_back(house, place, which=which) == digests[named.position]


def test_without_state_there_is_nothing_to_keep(house: House, place: Place) -> None:
    assert make(house.settings, place, ACTIONS, 0) is None
    assert listed(place, ACTIONS, 0) == []


def damage_each(place: Place, name: str) -> Iterator[str]:
    """A file altered in each of some ways, one at a time; says which."""
    whole = place.read(name)
    assert whole is not None
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        place.write(name, whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        yield f"a bit of byte {at} of {len(whole)}"
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        place.write(name, whole[:length])
        yield f"cut to {length} bytes"
    place.write(name, whole + b"x")
    yield "one byte more"
    place.delete([name])
    yield "gone"
    place.write(name, whole)


def told(place: Place, manifest: Manifest) -> list[Pair] | str:
    """What a checkpoint holds, or what is wrong with it."""
    try:
        return list(pairs(place, manifest))
    except CorruptionError as error:
        return str(error)


def test_whatever_happens_to_a_piece_is_found(house: House, place: Place) -> None:
    house.feed(house.open()).close()
    made = make(house.settings, place, ACTIONS, 0)
    assert made is not None
    whole = list(pairs(place, made.manifest))
    for piece in made.manifest.pieces:
        for how in damage_each(place, piece_path(ACTIONS, 0, piece.name)):
            got = told(place, made.manifest)
            assert got == whole or (isinstance(got, str) and piece.name in got), how
    assert list(pairs(place, made.manifest)) == whole


def test_whatever_happens_to_a_manifest_is_found(house: House, place: Place) -> None:
    house.feed(house.open()).close()
    make(house.settings, place, ACTIONS, 0)
    (named,) = listed(place, ACTIONS, 0)
    for how in damage_each(place, named.name):
        with pytest.raises(CorruptionError):
            read(place, named)
        assert not list(readable(place, ACTIONS, 0)), how
    assert len(list(readable(place, ACTIONS, 0))) == 1


def test_a_place_that_does_not_keep_what_it_is_given_is_found(house: House, place: Place) -> None:
    house.feed(house.open()).close()
    write = Place.write

    def forgetful(self: Place, name: str, data: bytes) -> None:
        write(self, name, data[:-1] + b"?" if "/pieces/" in name else data)

    with mock.patch.object(Place, "write", forgetful), pytest.raises(CorruptionError, match="not what"):
        make(house.settings, place, ACTIONS, 0)
    assert listed(place, ACTIONS, 0) == []


@pytest.mark.parametrize("failing", range(6))
def test_killed_anywhere_the_next_one_is_whole(house: House, place: Place, failing: int, digests: dict[int, str]) -> None:
    task = house.open()
    task.apply(task.source.read(0, 0, 50))
    make(house.settings, place, ACTIONS, 0)
    task.apply(task.source.read(0, 50, 50))
    write, left = Place.write, iter(range(failing))

    def killed(self: Place, name: str, data: bytes) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(self, name, data)

    with mock.patch.object(Place, "write", killed), pytest.raises(KeyboardInterrupt):
        make(house.settings, place, ACTIONS, 0)
    assert [named.position for named in listed(place, ACTIONS, 0)] == [50]
    made = make(house.settings, place, ACTIONS, 0)
    assert made is not None
    task.abandon()
    assert put_back(house, place) == digests[100]


def test_what_is_kept_can_be_read_and_what_is_not_is_gone(house: House, place: Place, digests: dict[int, str]) -> None:
    task = house.open()
    for _ in range(6):
        task.apply(task.source.read(0, task.position, 40))
        make(house.settings, place, ACTIONS, 0)
    task.abandon()
    now = time.time_ns() // 1_000_000
    assert sweep(place, ACTIONS, 0, now, keep=2, days=1).checkpoints == 0, "all are younger than a day"
    would = sweep(place, ACTIONS, 0, now + 2 * DAY_MS, keep=2, days=1, dry_run=True)
    assert would.checkpoints == 4
    assert len(listed(place, ACTIONS, 0)) == 6
    assert sweep(place, ACTIONS, 0, now + 2 * DAY_MS, keep=2, days=1) == would
    found = listed(place, ACTIONS, 0)
    assert [named.position for named in found] == [240, 200]
    needed = {piece.name for named in found for piece in read(place, named).pieces}
    assert set(place.files("actions/0000/pieces")) == needed
    assert put_back(house, place, which=1) == digests[200]


def test_a_manifest_that_cannot_be_read_may_still_need_its_pieces(house: House, place: Place) -> None:
    house.feed(house.open(), [100]).close()
    make(house.settings, place, ACTIONS, 0)
    (named,) = listed(place, ACTIONS, 0)
    data = place.read(named.name)
    assert data is not None
    before = set(place.files("actions/0000/pieces"))
    place.write(named.name, data[:-1])
    assert sweep(place, ACTIONS, 0, time.time_ns() // 1_000_000, keep=1, days=None).pieces == 0
    assert set(place.files("actions/0000/pieces")) == before


@pytest.mark.parametrize("how", ["altered", "gone"])
def test_a_damaged_piece_is_shared_with_no_new_checkpoint_once_it_is_mended(
    house: House, place: Place, digests: dict[int, str], how: str
) -> None:
    task = house.open()
    task.apply(task.source.read(0, 0, 100))
    first = make(house.settings, place, ACTIONS, 0)
    assert first is not None
    task.apply(task.source.read(0, 100, 1))
    make(house.settings, place, ACTIONS, 0)
    newest, older = (read(place, named) for named in listed(place, ACTIONS, 0))
    shared = piece_path(ACTIONS, 0, next(piece.name for piece in newest.pieces if piece in older.pieces))
    data = place.read(shared)
    assert data is not None
    place.delete([shared])
    if how == "altered":
        place.write(shared, data[:-1])
    assert len(mend(place, ACTIONS, 0, None, dry_run=True)) == 2
    assert len(listed(place, ACTIONS, 0)) == 2
    assert len(mend(place, ACTIONS, 0, None)) == 2
    assert listed(place, ACTIONS, 0) == []
    assert make(house.settings, place, ACTIONS, 0) is not None
    assert mend(place, ACTIONS, 0, None) == []
    task.abandon()
    assert put_back(house, place) == digests[101]


def test_a_checkpoint_ahead_of_its_log_or_of_another_state_is_deleted(house: House, place: Place, digests: dict[int, str]) -> None:
    house.feed(house.open(), [100]).close()
    made = make(house.settings, place, ACTIONS, 0)
    assert made is not None
    for position in (1 << 40, made.manifest.position - 1):
        lie = replace(made.manifest, position=position)
        place.write(f"actions/0000/{lie.file_name()}", lie.to_bytes())
    first, second = mend(place, ACTIONS, 0, house.logs[ACTIONS].end_position(0))
    assert "holds another state" in first
    assert "holds another state" in second
    [text] = mend(place, ACTIONS, 0, made.manifest.position - 1, dry_run=True)
    assert "is ahead of its log" in text
    assert [named.position for named in listed(place, ACTIONS, 0)] == [made.manifest.position]
    assert put_back(house, place) == digests[made.manifest.position]


def test_what_is_sound_is_not_mended(house: House, place: Place) -> None:
    house.feed(house.open(), [100]).close()
    make(house.settings, place, ACTIONS, 0)
    before = place.files("actions/0000"), place.files("actions/0000/pieces")
    assert mend(place, ACTIONS, 0, None) == []
    assert (place.files("actions/0000"), place.files("actions/0000/pieces")) == before


def test_pieces_are_bounded_and_lose_nothing() -> None:
    large = [(b"R" + bytes(7) + b"\x01" + i.to_bytes(4, "big"), bytes(PIECE_BYTES // 3)) for i in range(8)]
    small_ones = [(b"R" + bytes(7) + b"\x02" + bytes(4), b"x"), (b"T1", b"topic"), (b"anchor", bytes(1 << 20)), (b"meta", b"{}")]
    parts = list(cut([*large, *small_ones]))
    assert sorted(pair for part in parts for pair in part.pairs) == sorted([*large, *small_ones])
    assert [len(part.pairs) for part in parts] == [4, 4, 1, 1, 2]
    assert max(sum(len(value) for _, value in part.pairs) for part in parts) < 1.4 * PIECE_BYTES


def test_a_full_disk_is_said_and_nothing_is_lost(house: House, tmp_path: Path) -> None:
    house.feed(house.open()).close()
    place = Place(str(tmp_path / "checkpoints"))
    full = OSError(28, "No space left on device")
    with mock.patch("replay.place.os.fsync", side_effect=full), pytest.raises(StorageFullError, match="disk is full"):
        make(house.settings, place, ACTIONS, 0)
    assert not list((tmp_path / "checkpoints").rglob(".draft-*"))
    assert make(house.settings, place, ACTIONS, 0) is not None


def test_drafts_of_the_killed_are_cleared(house: House, tmp_path: Path) -> None:
    house.feed(house.open()).close()
    place = Place(str(tmp_path / "checkpoints"))
    make(house.settings, place, ACTIONS, 0)
    draft = tmp_path / "checkpoints/actions/0000/pieces/.draft-1-x.arrow"
    draft.write_bytes(b"half")
    assert draft.name not in place.files("actions/0000/pieces")
    sweep(place, ACTIONS, 0, 0, keep=1, days=None)
    assert not draft.exists()


@pytest.mark.parametrize("url", ["nosuch://bucket/path", "s3://bucket/path"])
def test_a_place_that_cannot_be_is_said(url: str) -> None:
    # What another test of the process has loaded is known there.
    forgotten = mock.patch.dict("fsspec.registry._registry", clear=True)
    with forgotten, mock.patch.dict("sys.modules", {"s3fs": None}), pytest.raises(SettingsError, match="checkpoints in"):
        Place(url)


def test_a_place_that_cannot_be_written_is_said(house: House, tmp_path: Path) -> None:
    house.feed(house.open()).close()
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(DataDirectoryError, match="checkpoints in"):
        make(house.settings, Place(str(tmp_path / "file")), ACTIONS, 0)


def test_a_checkpoint_of_another_format_is_refused_by_name(house: House, place: Place) -> None:
    house.feed(house.open()).close()
    make(house.settings, place, ACTIONS, 0)
    (named,) = listed(place, ACTIONS, 0)
    with (
        mock.patch("replay.checkpoints.manifest.FORMAT", 2),
        pytest.raises(DataDirectoryError, match="has format 1; this Tidemark reads format 2"),
    ):
        read(place, named)


def test_anything_that_reads_arrow_reads_a_piece(house: House, tmp_path: Path) -> None:
    house.feed(house.open()).close()
    place = Place(str(tmp_path / "checkpoints"))
    made = make(house.settings, place, ACTIONS, 0)
    assert made is not None
    found = 0
    for path in (tmp_path / "checkpoints/actions/0000/pieces").iterdir():
        with pa.ipc.open_file(path) as reader:
            found += reader.read_all().num_rows
    assert found == sum(piece.keys for piece in made.manifest.pieces)


def test_fsspec_sees_the_same_files(house: House) -> None:
    house.feed(house.open()).close()
    url = f"memory://{uuid4()}"
    make(house.settings, Place(url), ACTIONS, 0)
    assert fsspec.filesystem("memory").find(url)
