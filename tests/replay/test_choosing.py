"""Which checkpoint a restore and a rebuild begin from: what a checkpoint is at fault for passes it over, and nothing else does."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from fsspec.implementations.local import LocalFileSystem

from flows.corrections.history import History
from flows.errors import CorruptionError, DataDirectoryError, LogError, StorageFullError, TidemarkError
from flows.outputs import ACTIONS, REVISITS
from flows.state import copy
from flows.state.task import task_path
from flows.state.view import TaskView
from replay.checkpoints.choose import Choice
from replay.checkpoints.keep import mend
from replay.checkpoints.make import make
from replay.checkpoints.manifest import Manifest, listed, piece_path, read
from replay.in_place import put_in_place
from replay.place import Place, PlaceError
from replay.rebuild.draft import Draft
from replay.restore import Restorer
from replay.tasks import TaskName
from replay.verify import verify_checkpoints
from tests.state.house import House
from tests.strategies import adversarial

TASK = TaskName(ACTIONS, 0)
OLDER, NEWER = 100, 200


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory at its end, with two checkpoints of its one actions task on the way."""
    house = House(tmp_path_factory.mktemp("made") / "data", adversarial(3, 300, partitions=1), anchor_records=40)
    task = house.open()
    for position in (OLDER, NEWER):
        task.apply(task.source.read(0, task.position, position - task.position))
        make(house.settings, Place(house.settings.checkpoint_place), ACTIONS, 0)
    house.feed(task).close()
    house.close()
    return house.settings.data


@pytest.fixture
def house(made: Path, tmp_path: Path) -> Iterator[House]:
    shutil.copytree(made, tmp_path / "data")
    one = House(tmp_path / "data", adversarial(3, 0, partitions=1), anchor_records=40)
    yield one
    one.close()


def place_of(house: House) -> Place:
    return Place(house.settings.checkpoint_place)


def restorer(house: House) -> Restorer:
    return Restorer(house.settings, place_of(house), house.vocabulary, house.logs)


def manifests(house: House) -> list[Manifest]:
    place = place_of(house)
    return [read(place, named) for named in listed(place, ACTIONS, 0)]


def damage_newest(house: House) -> None:
    """A piece that the older one doesn't need."""
    newest, older = manifests(house)
    piece = next(piece for piece in newest.pieces if piece not in older.pieces)
    place_of(house).write(piece_path(ACTIONS, 0, piece.name), b"nothing")


def files(house: House) -> list[str]:
    return sorted(
        str(file.relative_to(house.settings.state)) for file in house.settings.state.rglob("*") if not file.name.endswith(".lock")
    )


def refused(house: House, kind: type[TidemarkError], match: str) -> None:
    """A restore that ends with an error changes nothing, and leaves nothing behind."""
    before = files(house)
    with pytest.raises(kind, match=match):
        restorer(house).restore(TASK)
    assert files(house) == before


def test_a_log_of_output_that_is_damaged_is_not_the_checkpoints_fault(house: House) -> None:
    with sqlite3.connect(house.settings.logs / "revisits.db") as connection:
        connection.execute("UPDATE batches SET bytes = zeroblob(40)")
    connection.close()
    refused(house, LogError, "tidemark replay restore --log revisits")
    with pytest.raises(LogError, match="tidemark replay restore --log revisits"):
        restorer(house).plan(TASK)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.EROFS])
def test_what_the_machine_refuses_is_not_the_checkpoints_fault(house: House, number: int) -> None:
    with mock.patch.object(LocalFileSystem, "cat_file", side_effect=OSError(number, os.strerror(number))):
        refused(house, PlaceError, os.strerror(number))


def test_what_a_disk_cannot_give_back_is_damaged(house: House) -> None:
    cat = LocalFileSystem.cat_file

    def failing(self: LocalFileSystem, path: str, **more: Any) -> bytes:
        if f"{NEWER:020d}" in path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return bytes(cat(self, path, **more))

    with mock.patch.object(LocalFileSystem, "cat_file", failing):
        chosen = restorer(house).restore(TASK)
    assert (chosen.position, len(chosen.passed_over)) == (OLDER, 1)


@pytest.mark.parametrize(
    ("what", "number", "kind"),
    [
        ("flows.state.copy.make_directory", errno.ENOSPC, StorageFullError),
        ("flows.state.copy.make_directory", errno.EROFS, DataDirectoryError),
        ("pathlib.Path.rename", errno.ENOSPC, StorageFullError),
        ("replay.in_place.sync", errno.EIO, DataDirectoryError),
    ],
)
def test_a_disk_that_refuses_ends_a_restore_with_a_word(house: House, what: str, number: int, kind: type[TidemarkError]) -> None:
    # The second time there is an old state to delete.
    restorer(house).restore(TASK)
    with mock.patch(what, side_effect=OSError(number, os.strerror(number))), pytest.raises(kind) as caught:
        restorer(house).restore(TASK)
    assert not isinstance(caught.value, CorruptionError)
    assert not list(house.settings.state.rglob("*.restoring"))
    assert restorer(house).restore(TASK).position == NEWER


@pytest.mark.parametrize("text", ["IO error: While open a file: Permission denied", "IO error: Input/output error"])
def test_a_database_that_cannot_be_written_says_nothing_of_the_checkpoint(house: House, text: str) -> None:
    """Whatever was made of it is deleted: it would fill the disk, and nobody else would delete it."""
    batch = copy.WriteBatch

    def failing(**more: Any) -> Any:
        if next(left, None) is None:
            raise Exception(text)
        return batch(**more)

    left = iter(range(0))
    with mock.patch("flows.state.copy.WriteBatch", failing):
        refused(house, DataDirectoryError, text)


def test_a_checkpoint_that_holds_another_state_is_passed_over_by_a_plan_too(house: House) -> None:
    newest = manifests(house)[0]
    lie = replace(newest, position=newest.position + 1)
    place_of(house).write(f"actions/0000/{lie.file_name()}", lie.to_bytes())
    for one in (restorer(house).plan(TASK), restorer(house).restore(TASK)):
        assert one.position == NEWER
        assert "holds another state" in one.passed_over[0]


def test_what_is_said_of_the_others_is_true(house: House) -> None:
    """Of a damaged checkpoint: whether older ones stay usable, or newer ones, or none."""
    place = place_of(house)
    newest, older = manifests(house)

    def damaged(*which: Manifest) -> list[tuple[str, str]]:
        for one in (newest, older):
            place.write(f"actions/0000/{one.file_name()}", b"nothing" if one in which else one.to_bytes())
        found = verify_checkpoints(place, TASK, house.logs, lambda size: None)
        return [(problem.where, problem.remedy.split(";")[0]) for problem in found]

    at = f"checkpoint {TASK} at "
    none = "no other is usable, so a restore goes through the log from its beginning"
    assert damaged() == []
    assert damaged(newest) == [(f"{at}{NEWER}", "older ones stay usable")]
    assert damaged(older) == [(f"{at}{OLDER}", "newer ones stay usable")]
    assert damaged(newest, older) == [(f"{at}{NEWER}", none), (f"{at}{OLDER}", none)]


def test_pieces_that_checkpoints_share_are_read_once(house: House) -> None:
    newest, older = manifests(house)
    assert set(newest.pieces) & set(older.pieces)
    place, original = place_of(house), Place.read
    looks: list[Callable[[], object]] = [
        lambda: list(verify_checkpoints(place, TASK, house.logs, lambda size: None)),
        lambda: mend(place, ACTIONS, 0, None),
    ]
    for look in looks:
        names: list[str] = []

        def noted(self: Place, name: str, names: list[str] = names) -> bytes | None:
            names.append(name)
            return original(self, name)

        with mock.patch.object(Place, "read", noted):
            assert look() == []
        assert sorted(name for name in names if "/pieces/" in name) == sorted(
            piece_path(ACTIONS, 0, piece.name) for piece in set(newest.pieces) | set(older.pieces)
        )


# Rebuilds ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def draft(house: House, tmp_path: Path) -> Draft:
    return Draft(house.settings, house.vocabulary, TASK, tmp_path / "drafts", History(), house.logs)


def begun(draft: Draft) -> int:
    view = TaskView(draft.path)
    try:
        assert view.meta is not None
        return view.meta.position
    finally:
        view.close()


def base(draft: Draft, house: House, before: int | None = None) -> Manifest:
    found = draft.base(place_of(house), before)
    assert found is not None
    return found


def test_a_rebuild_begins_from_the_newest_before_what_it_changes(house: House, draft: Draft) -> None:
    assert [base(draft, house, before).position for before in (None, NEWER, NEWER - 1, OLDER)] == [NEWER, NEWER, OLDER, OLDER]
    assert draft.base(place_of(house), OLDER - 1) is None
    draft.begin(place_of(house), base(draft, house, NEWER - 1))
    assert begun(draft) == OLDER


def test_a_rebuild_passes_over_a_checkpoint_that_is_damaged(house: House, draft: Draft) -> None:
    damage_newest(house)
    draft.begin(place_of(house), base(draft, house))
    assert begun(draft) == OLDER
    draft.discard()
    for manifest in manifests(house):
        for piece in manifest.pieces:
            place_of(house).delete([piece_path(ACTIONS, 0, piece.name)])
    draft.begin(place_of(house), base(draft, house))
    assert not list(draft.path.parent.iterdir()), "from the beginning of the log"


def test_restore_and_rebuild_choose_the_same(house: House, draft: Draft) -> None:
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: damage_newest(house),
        lambda: shutil.rmtree(house.settings.data / "checkpoints"),
    ]
    for change in changes:
        change()
        chosen: Choice = restorer(house).restore(TASK)
        draft.discard()
        draft.begin(place_of(house), draft.base(place_of(house)))
        assert (begun(draft) if draft.path.exists() else 0) == chosen.position


# The old beside the new ----------------------------------------------------------------------------------------------------------------


def test_what_is_replaced_lies_beside_until_the_next_time(tmp_path: Path) -> None:
    path, old = tmp_path / "0000", tmp_path / "0000.replaced"
    for name in ("first", "second", "third"):
        new = tmp_path / "made" / name
        new.mkdir(parents=True)
        (new / name).touch()
        put_in_place(new, path)
    assert ([file.name for file in path.iterdir()], [file.name for file in old.iterdir()]) == (["third"], ["second"])
    put_in_place(None, path)
    assert (path.exists(), [file.name for file in old.iterdir()]) == (False, ["third"])
    put_in_place(None, task_path(House(tmp_path / "none", adversarial(3, 0, partitions=1)).settings, REVISITS, 0))


def test_where_the_new_one_cannot_be_put_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "0000"
    (path / "old").mkdir(parents=True)
    with pytest.raises(DataDirectoryError, match="can't be replaced: No such file"):
        put_in_place(tmp_path / "gone", path)
    assert [file.name for file in path.iterdir()] == ["old"]
