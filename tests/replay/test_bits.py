"""A bit turned over anywhere in what is stored: `verify` says so, or nobody who reads sees a difference; and never a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.processes import Simulated, front_door, outcome, settings_of, tidemark
from tests.replay.site import SMALL, Site


@pytest.fixture(scope="module")
def site(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Site:
    directory = tmp_path_factory.mktemp("bits")
    data = directory / "data"
    tidemark("ingest", *simulated.files[:3], data=data, **SMALL)
    tidemark("run", data=data, **SMALL)
    for command in (("replay", "checkpoint"), ("archive", "run")):
        tidemark(*command, data=data, **SMALL)
    return Site(data, outcome(settings_of(data), directory / "exports"))


@pytest.mark.parametrize("where", ["logs", "state", "archive", "checkpoints"])
@pytest.mark.parametrize("times", [12, pytest.param(150, marks=pytest.mark.soak)])
def test_a_bit_anywhere_is_found_or_harmless(site: Site, where: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, found = Random(f"{where}-{times}"), 0
    data = site.copy(tmp_path / "data")
    for _ in range(times):
        with turned(data / where, rng) as bit:
            done = front_door("replay", "verify", "--json", monkeypatch=monkeypatch, code=None, data=data, **SMALL)
            said = json.loads(done.out)["problems"] if done.out else done.err
            assert done.code == (1 if said else 0), (bit, done)
            found += bool(said)
            if not said:
                site.check(data, tmp_path / "exports")
    assert found


@contextmanager
def turned(directory: Path, rng: Random) -> Iterator[str]:
    """A bit of a file, for so long."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size)
    # Half of the time by size, so that what is large is met, but what RocksDB tells of its work; else each file alike, so that what is small is.
    sizes = [0 if path.name.startswith("LOG") else path.stat().st_size for path in files]
    [path] = rng.choices(files, sizes if rng.random() < 0.5 else None)
    at = rng.randrange(path.stat().st_size * 8)
    whole = path.read_bytes()
    harmed = bytearray(whole)
    harmed[at // 8] ^= 1 << at % 8
    path.write_bytes(harmed)
    yield f"bit {at % 8} of byte {at // 8} of {path}"
    path.write_bytes(whole)
