"""Manifests that somebody else has put where checkpoints are kept: their checksums are right, and nothing else need be."""

from __future__ import annotations

import uuid
from typing import Any

import orjson
import pytest

from flows.errors import CorruptionError
from replay.checkpoints.manifest import FORMAT, Manifest, UnfitError, checksum, listed, read, readable
from replay.place import Place

SOUND = Manifest("actions", 0, 7, 3, 0, None, "f" * 16, 1, 1_700_000_000_000, ())


def put(place: Place, data: bytes, position: int = 7) -> None:
    place.write(f"actions/0000/{position:020d}-{SOUND.made_at:015d}-{checksum(data)}.json", data)


@pytest.fixture
def place() -> Place:
    return Place(f"memory://{uuid.uuid4().hex}")


def changed(**changes: Any) -> bytes:
    return orjson.dumps({**orjson.loads(SOUND.to_bytes()), **changes})


def piece(name: object) -> dict[str, object]:
    return {"name": name, "keys": 1, "bytes": 1, "file": "0" * 32}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"format": 1}',
        changed(pieces=[piece("../../../../etc/hostname")]),
        changed(pieces=[piece("/etc/hostname")]),
        changed(pieces=[piece(f"{'0' * 32}.arrow/../x")]),
        changed(pieces=[piece(7)]),
        changed(pieces=[[]]),
        changed(pieces=None),
        changed(flow="../actions"),
        changed(position="7"),
        changed(position=8),
        changed(command="rm"),
    ],
)
def test_what_is_no_manifest_is_damage_and_passed_over(place: Place, data: bytes) -> None:
    put(place, data)
    [named] = listed(place, "actions", 0)
    with pytest.raises(CorruptionError) as told:
        read(place, named)
    assert "\n" not in str(told.value)
    put(place, SOUND.to_bytes(), SOUND.position)
    assert list(readable(place, "actions", 0)) == [SOUND]


def test_of_another_format(place: Place) -> None:
    put(place, changed(format=FORMAT + 1))
    with pytest.raises(UnfitError):
        read(place, listed(place, "actions", 0)[0])
