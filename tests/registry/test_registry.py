"""What the registry promises: bases that never change, one that is served, a way back, and nothing that is used unread."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from flows.errors import LockedError, TidemarkError
from flows.state.task_lock import holding
from online_model.registry import snapshots, tensors
from online_model.registry.bases import Base, Expected
from online_model.registry.errors import (
    DamagedModelError,
    DraftError,
    NewerFormatError,
    NoModelError,
    OtherFeaturesError,
    OtherVocabularyError,
    RoleError,
)
from online_model.registry.manifest import CALIBRATORS, DENSE, MANIFEST, REQUIRED, TABLES, Manifest, digest_of
from online_model.registry.registry import Registry
from online_model.registry.snapshots import Point, write_snapshot
from tests.registry.making import EXPECTED, D, about, fill, publish, registry_in, serve, state


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return registry_in(tmp_path)


def point(base: Base, delta: int, position: int = 10) -> Point:
    return Point(base.number, delta, f"{delta:032x}", position, (delta, delta), delta)


def snapshot(base: Base, delta: int, position: int = 10) -> None:
    write_snapshot(base, point(base, delta, position), {"user": state(100 + delta), "pin": state(200 + delta)})


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return set(a) == set(b) and all(a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes() for name in a)


def test_what_was_published_is_read_back(registry: Registry, tmp_path: Path) -> None:
    base = publish(registry, 3)
    assert base.number == 1
    assert base.manifest.about == about(metrics={"seed": 3})
    assert same(base.table("user"), state(6))
    assert same(base.table("pin"), state(7))
    assert base.calibrators() == {"save": [3, 1.0]}
    assert set(base.manifest.files) == set(REQUIRED)
    # Another process finds the same.
    assert registry_in(tmp_path).base(1).digest == base.digest
    # Nothing is left of the draft.
    assert sorted(os.listdir(registry.bases.directory)) == ["1"]


def test_nothing_is_served_before_a_switch(registry: Registry) -> None:
    publish(registry, 1)
    with pytest.raises(NoModelError, match="no model is served yet"):
        registry.current()
    serve(registry, 1)
    assert registry.current().base == 1


def test_numbers_go_on_whatever_was_deleted(registry: Registry) -> None:
    for seed in range(4):
        publish(registry, seed)
    serve(registry, 1)
    assert registry.sweep(keep=1, keep_snapshots=1).bases == (2, 3)
    assert publish(registry, 9).number == 5


def test_of_two_who_change_it_one_is_refused(registry: Registry) -> None:
    publish(registry, 1)
    with (
        holding(registry.directory / "LOCK", str),
        registry.draft() as draft,
    ):
        fill(draft, 2)
        with pytest.raises(LockedError, match="are being changed by another command"):
            registry.publish(draft, about())
        with pytest.raises(LockedError):
            serve(registry, 1)
    assert registry.bases.numbers() == [1]


def test_drafts_of_the_killed_go_and_those_at_work_stay(registry: Registry) -> None:
    left = registry.bases.directory / ".draft-left"
    left.mkdir(parents=True)
    (left / DENSE).write_bytes(b"half")
    with registry.draft() as at_work:
        fill(at_work, 5)
        publish(registry, 1)
        assert not left.exists()
        assert registry.publish(at_work, about()).number == 2


def damages() -> dict[str, Callable[[Path], object]]:
    """What may befall a base's directory."""

    def flip(path: Path, at: int = -1) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)

    def rewrite(path: Path, change: Callable[[dict], object]) -> None:
        """Of somebody who knows how a manifest is sealed."""
        content = orjson.loads((path / MANIFEST).read_bytes())
        del content["digest"]
        change(content)
        (path / MANIFEST).write_bytes(orjson.dumps(content | {"digest": digest_of(content)}))

    def link(path: Path, name: str) -> None:
        shutil.move(path / name, path.parent.parent / name)
        (path / name).symlink_to(path.parent.parent / name)

    return {
        "a bit of weights": lambda p: flip(p / DENSE),
        "a bit of a table": lambda p: flip(p / TABLES["pin"], 200),
        "a table cut": lambda p: os.truncate(p / TABLES["user"], 100),
        "a file gone": lambda p: (p / CALIBRATORS).unlink(),
        "an empty file": lambda p: os.truncate(p / DENSE, 0),
        "a link": lambda p: link(p, DENSE),
        "a pipe": lambda p: ((p / DENSE).unlink(), os.mkfifo(p / DENSE)),
        "a directory": lambda p: ((p / DENSE).unlink(), (p / DENSE).mkdir()),
        "a bit of the manifest": lambda p: flip(p / MANIFEST, 300),
        "the manifest cut": lambda p: os.truncate(p / MANIFEST, 50),
        "the manifest gone": lambda p: (p / MANIFEST).unlink(),
        "no JSON object": lambda p: (p / MANIFEST).write_bytes(b"[]"),
        "another number": lambda p: rewrite(p, lambda c: c.update(base=9)),
        "a way out": lambda p: rewrite(p, lambda c: c["files"].update({"../../x.safetensors": c["files"][DENSE]})),
        "an absolute way": lambda p: rewrite(p, lambda c: c["files"].update({"/etc/passwd": c["files"][DENSE]})),
        "a pickle": lambda p: rewrite(p, lambda c: c["files"].update({"dense.pt": c["files"][DENSE]})),
        "a file less": lambda p: rewrite(p, lambda c: c["files"].pop(DENSE)),
        "nothing about it": lambda p: rewrite(p, lambda c: c.pop("about")),
        "numbers for files": lambda p: rewrite(p, lambda c: c.update(files=[1])),
    }


@pytest.mark.parametrize("what", sorted(damages()))
def test_a_damaged_base_is_refused(what: str, registry: Registry) -> None:
    publish(registry, 1)
    publish(registry, 2)
    serve(registry, 1)
    damages()[what](registry.bases.directory / "2")
    with pytest.raises(DamagedModelError):
        registry.base(2)
    before = registry.current()
    start = replace(before.start, base=2)
    with pytest.raises(DamagedModelError):
        registry.switch(start, 5, "published")
    assert registry.current() == before


def test_a_base_elsewhere_is_no_base(registry: Registry, tmp_path: Path) -> None:
    publish(registry, 1)
    shutil.move(registry.bases.directory / "1", tmp_path / "other")
    (registry.bases.directory / "1").symlink_to(tmp_path / "other")
    with pytest.raises(DamagedModelError, match="no directory of its own"):
        registry.base(1)
    for number in (0, -1, 2):
        with pytest.raises(NoModelError):
            registry.base(number)


def test_a_base_put_in_anothers_place_is_refused(registry: Registry) -> None:
    publish(registry, 1)
    publish(registry, 2)
    serve(registry, 2)
    shutil.rmtree(registry.bases.directory / "2")
    shutil.copytree(registry.bases.directory / "1", registry.bases.directory / "2")
    with pytest.raises(DamagedModelError, match="it lies in the wrong place"):
        registry.load(registry.current().start)
    # One of the right number, made anew.
    shutil.rmtree(registry.bases.directory / "2")
    publish(registry, 5)
    with pytest.raises(DamagedModelError, match="is another than the one that was published"):
        registry.load(registry.current().start)


def test_other_times_other_models(registry: Registry, tmp_path: Path) -> None:
    publish(registry, 1)
    with pytest.raises(OtherVocabularyError, match="another vocabulary"):
        registry_in(tmp_path, Expected("0" * 16, "0" * 16)).base(1)
    with pytest.raises(OtherFeaturesError, match="other features or settings"):
        registry_in(tmp_path, Expected("0" * 16, EXPECTED.vocabulary)).base(1)
    with registry.draft() as draft, pytest.raises(OtherVocabularyError):
        registry.publish(draft, about(vocabulary_fingerprint="other"))
    manifest = registry.bases.directory / "1" / MANIFEST
    content = orjson.loads(manifest.read_bytes())
    manifest.write_bytes(orjson.dumps(content | {"format": 2, "digest": "of a later kind"}))
    with pytest.raises(NewerFormatError, match="has format 2"):
        registry.base(1)
    assert all(issubclass(error, TidemarkError) for error in (NewerFormatError, OtherVocabularyError, OtherFeaturesError))


def bad_drafts() -> dict[str, tuple[str, Callable[[Path], object]]]:
    def table(path: Path, **changes: np.ndarray) -> None:
        (path / TABLES["user"]).write_bytes(tensors.to_bytes(state(1) | changes))

    return {
        "a file less": ("has no dense", lambda p: (p / DENSE).unlink()),
        "a pickle beside": ("no 'model.pt'", lambda p: (p / "model.pt").write_bytes(pickle.dumps({}))),
        "a pickle inside": ("no tensors that can be read", lambda p: (p / DENSE).write_bytes(pickle.dumps({"a": 1}))),
        "a hidden file": ("no '.hidden'", lambda p: (p / ".hidden").write_bytes(b"")),
        "a link": ("no 'dense.safetensors'", lambda p: ((p / DENSE).unlink(), (p / DENSE).symlink_to("/etc/passwd"))),
        "nan": ("no numbers", lambda p: table(p, weights=np.full((5, D), np.nan, np.float32))),
        "an ID twice": ("more than one row", lambda p: table(p, ids=np.ones(5, np.int64))),
        "rows that don't fit": ("don't fit", lambda p: table(p, weights=np.ones((4, D), np.float32))),
        "doubles": ("'weights' of float32", lambda p: table(p, weights=np.ones((5, D)))),
        "no JSON": ("no JSON", lambda p: (p / CALIBRATORS).write_bytes(b"{")),
        "infinite weights": (
            "no numbers",
            lambda p: (p / DENSE).write_bytes(tensors.to_bytes({"w": np.array([np.inf], np.float32)})),
        ),
    }


@pytest.mark.parametrize("what", sorted(bad_drafts()))
def test_a_bad_draft_becomes_no_base(what: str, registry: Registry) -> None:
    said, spoil = bad_drafts()[what]
    with registry.draft() as draft:
        fill(draft, 1)
        spoil(draft)
        with pytest.raises(DraftError, match=said):
            registry.publish(draft, about())
    assert registry.bases.numbers() == []


def test_a_description_must_be_json(registry: Registry) -> None:
    with registry.draft() as draft:
        fill(draft, 1)
        with pytest.raises(DraftError, match="can't be written as JSON"):
            registry.publish(draft, about(config={"model": object()}))
    assert registry.bases.numbers() == []


def test_a_manifest_bears_its_own_digest() -> None:
    manifest = Manifest(1, {}, about()).sealed()
    assert manifest.digest != replace(manifest, base=2).sealed().digest
    # Whatever order somebody described it in.
    turned = about(config=dict(reversed(list(about().config.items()))))
    assert Manifest(1, {}, turned).sealed().digest == manifest.digest


# Rollback, roles ---------------------------------------------------------------------------------------------------------------------


def test_twice_back_is_back_twice(registry: Registry) -> None:
    for seed in (1, 2, 3):
        publish(registry, seed)
        serve(registry, seed)
    assert registry.rollback(10, 0).base == 2
    # Not to 3, which was left for a reason.
    assert registry.rollback(11, 0).base == 1
    with pytest.raises(RoleError, match="no base to roll back to"):
        registry.rollback(12, 0)
    assert [past.start.base for past in registry.current().history] == [1, 2, 3, 2, 1]
    serve(registry, 3)
    assert registry.rollback(13, 0).base == 1


def test_a_rollback_passes_over_what_is_damaged(registry: Registry) -> None:
    for seed in (1, 2, 3):
        publish(registry, seed)
        serve(registry, seed)
    os.truncate(registry.bases.directory / "2" / DENSE, 3)
    assert registry.rollback(10, 0).base == 1
    with pytest.raises(DamagedModelError):
        registry.rollback(11, 0, to=2)
    with pytest.raises(RoleError, match="is the one that is served"):
        registry.rollback(11, 0, to=1)
    assert registry.rollback(12, 0, to=3).base == 3


def test_a_start_is_the_newest_snapshot_that_fits(registry: Registry) -> None:
    base = publish(registry, 1)
    assert registry.start_for(base, 5).position == 5
    for delta in (3, 7, 9):
        snapshot(base, delta, delta * 10)
    assert registry.start_for(base, 1000).delta == 9
    # The log ends before it: it is of another.
    assert registry.start_for(base, 80).delta == 7
    assert registry.start_for(base, 1000, lambda s: s.point.delta < 5).delta == 3
    os.truncate(base.path / "snapshots" / "9" / TABLES["pin"], 10)
    start = registry.start_for(base, 1000)
    assert (start.delta, start.position, start.settled) == (7, 70, 1000)
    _, tables = registry.load(start)
    assert same(tables["user"], state(107))
    assert same(tables["pin"], state(207))


def test_a_base_begun_with_its_own_rows_is_begun_so_again(registry: Registry) -> None:
    """They are right with all deltas since; those that others have put out in between are passed over."""
    base = publish(registry, 1)
    serve(registry, 1, 40)
    snapshot(base, 3, 60)
    serve(registry, 1, 70)
    publish(registry, 2)
    serve(registry, 2, 90)
    start = registry.start_for(base, 120, lambda s: False)
    assert (start.delta, start.position, start.settled) == (0, 40, 120)


def test_a_snapshot_of_another_base_is_none(registry: Registry) -> None:
    one, two = publish(registry, 1), publish(registry, 2)
    snapshot(one, 4)
    shutil.copytree(one.path / "snapshots", two.path / "snapshots")
    with pytest.raises(DamagedModelError, match="wrong place"):
        snapshots.read_snapshot(two, 4)
    assert list(snapshots.sound(two)) == []
    with pytest.raises(DraftError, match="can't be of delta"):
        write_snapshot(two, point(one, 4), {"user": state(1), "pin": state(2)})
    with pytest.raises(DraftError, match="no numbers"):
        write_snapshot(two, point(two, 4), {"user": state(1) | {"default": np.full(D, np.nan, np.float32)}, "pin": state(2)})
    with pytest.raises(NoModelError):
        snapshots.read_snapshot(two, 5)


def test_roles(registry: Registry) -> None:
    for seed in (1, 2, 3):
        publish(registry, seed)
    serve(registry, 1)
    registry.give("canary", registry.start_for(registry.base(2), 0), 0.05)
    registry.give("holdout", registry.start_for(registry.base(3), 0), 0.02)
    current = registry.current()
    users = np.arange(200_000)
    got = current.bases_of(users)
    of_some = users[::500]
    assert [current.starts()[current.role_of(user)].base for user in of_some.tolist()] == got[::500].tolist()
    shares = {base: float((got == base).mean()) for base in (1, 2, 3)}
    assert abs(shares[3] - 0.02) < 0.003
    assert abs(shares[2] - 0.05 * 0.98) < 0.003
    # Of one base nobody passes over deltas that say that there was a switch.
    assert current.beside(1) == {2, 3}
    assert current.beside(2) == {1, 3}
    assert current.beside(9) == frozenset()
    with pytest.raises(RoleError, match="is the one that is served"):
        registry.give("canary", registry.start_for(registry.base(1), 0), 0.5)
    with pytest.raises(RoleError, match="share"):
        registry.give("canary", registry.start_for(registry.base(2), 0), 0.000_001)
    # A holdout stays with its users whatever is served.
    serve(registry, 2)
    assert registry.current().canary is None
    assert np.array_equal(registry.current().bases_of(users) == 3, got == 3)
    registry.give("holdout", None)
    assert set(registry.current().bases_of(users)) == {2}


def test_candidates(registry: Registry) -> None:
    publish(registry, 1)
    publish(registry, 2)
    serve(registry, 1)
    registry.announce(registry.start_for(registry.base(2), 30))
    assert registry.current().beside(1) == {2}
    # What was announced is where its deltas may begin.
    assert registry.start_for(registry.base(2), 90).position == 30
    serve(registry, 2, 90)
    assert registry.current().candidates == ()
    assert registry.current().start.position == 30
    registry.announce(registry.start_for(registry.base(1), 95))
    assert registry.withdraw(1).candidates == ()


def test_a_sweep_takes_nothing_that_is_needed(registry: Registry) -> None:
    for seed in range(1, 9):
        base = publish(registry, seed)
        for delta in (1, 2, 3, 4):
            snapshot(base, delta)
    serve(registry, 1)
    registry.switch(registry.start_for(registry.base(2), 100, lambda s: s.point.delta == 1), 5, "published")
    registry.give("holdout", registry.start_for(registry.base(4), 100, lambda s: s.point.delta == 2), 0.1)
    planned = registry.unneeded(registry.current(), keep=1, keep_snapshots=2)
    assert registry.bases.numbers() == list(range(1, 9))
    assert registry.sweep(keep=1, keep_snapshots=2) == planned
    assert registry.bases.numbers() == [1, 2, 4, 8]
    # 2 is served from snapshot 1, 4 from 2; the newest two of each stay.
    assert {n: snapshots.numbers(registry.base(n)) for n in (1, 2, 4, 8)} == {1: [4, 3], 2: [4, 3, 1], 4: [4, 3, 2], 8: [4, 3]}
    assert registry.rollback(9, 100).base == 1
    assert registry.sweep(keep=1, keep_snapshots=2).bases == (2,)


def test_a_damaged_current_is_said(registry: Registry) -> None:
    publish(registry, 1)
    serve(registry, 1)
    path = registry.directory / "current.json"
    content = path.read_bytes()
    for spoiled in (content[:-9], content.replace(b'"base": 1', b'"base": 2'), b"", b"null"):
        path.write_bytes(spoiled)
        with pytest.raises(DamagedModelError, match="--anew"):
            registry.current()
        with pytest.raises(DamagedModelError):
            serve(registry, 1)
    start = registry.start_for(registry.base(1), 0)
    assert registry.switch(start, 7, "published", anew=True).base == 1
    assert registry.current().base == 1
