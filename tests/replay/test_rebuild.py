"""A correction changes what every later read, restore and rebuild says, and just that: the oracle sees the stream without what was wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.corrections.history import History
from flows.outputs import ACTIONS, REVISITS
from replay.checkpoints.make import make
from replay.place import Place
from replay.rebuild.request import Request
from replay.rebuild.scan import Scope
from tests.replay.correcting import Site, excluded, excluded_as_it_was
from tests.sparing import first
from tests.state.small import small
from tests.strategies import adversarial, interesting_times


def some_times(events: pd.DataFrame, rng: np.random.Generator) -> list[int]:
    times = interesting_times(events)
    return sorted({times[-1], times[-1] + 200 * 86_400_000, *rng.choice(times, 3).tolist()})


def random_filter(events: pd.DataFrame, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A filter, and which of all events it takes."""
    users = rng.choice(events["user_id"].unique(), 2).tolist()
    low, high = np.sort(rng.choice(events["event_time"].to_numpy(), 2)).tolist()
    user, time = events["user_id"].isin(users).to_numpy(), events["event_time"].between(low, high).to_numpy()
    save = (events["action"] == "save").to_numpy()
    offset = int(rng.integers(len(events) // 2))
    chosen: list[tuple[str, np.ndarray]] = [
        (f"user_id in {users}", user),
        (f"{low} <= event_time <= {high}", time),
        (f"action == 'save' and not user_id in {users}", save & ~user),
        (f"event_time >= {low} and event_time <= {high} or user_id == {users[0]}", time | (events["user_id"] == users[0]).to_numpy()),
        (
            f"offset > {offset} and surface == 'own_profile'",
            ((events["offset"] > offset) & (events["surface"] == "own_profile")).to_numpy(),
        ),
    ]
    return chosen[int(rng.integers(len(chosen)))]


def check_seed(seed: int, directory: Path) -> None:
    events = adversarial(seed, 300, partitions=2)
    site = Site.of(directory, events, seed)
    rng = np.random.default_rng(seed)
    place = Place(site.settings.checkpoint_place)
    corrected = site.events
    for share in (0.3, 0.6):
        site.write(share)
        if rng.random() < 0.5:
            for flow in (ACTIONS, REVISITS):
                for partition in range(2):
                    make(site.settings, place, flow, partition)
        text, mask = random_filter(site.events, rng)
        # Only what is there by now.
        mask &= np.arange(len(mask)) < site.written
        site.rebuild(Request(site.tasks(), exclude=text))
        corrected = excluded(corrected, mask)
        site.check(corrected, some_times(site.known, rng), directory / "out")
    site.write(1.0)
    digests = site.run()
    site.check(corrected, some_times(site.known, rng), directory / "out")
    # From nothing, and from checkpoints that no correction has made wrong, by the same logs.
    shutil.rmtree(site.settings.state)
    assert site.run() == digests
    site.check(corrected, some_times(site.known, rng), directory / "out")
    shutil.rmtree(site.settings.state)
    for name in (REVISITS, "late", "deadletters"):
        (site.settings.logs / f"{name}.db").unlink()
    site.run()
    site.check(corrected, some_times(site.known, rng), directory / "out")


@pytest.mark.parametrize("seed", range(2))
def test_corrected_streams_equal_the_oracles(seed: int, tmp_path: Path) -> None:
    with small():
        check_seed(seed, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 54))
def test_corrected_streams_equal_the_oracles_by_many_seeds(seed: int, tmp_path: Path) -> None:
    with small():
        check_seed(seed, tmp_path)


@pytest.mark.parametrize("seed", first(1, range(3)))
def test_named_users_change_and_nothing_else(seed: int, tmp_path: Path) -> None:
    """Every other entity says the same to the byte, though what no longer counts has moved the watermark."""
    events = adversarial(100 + seed, 300, partitions=2)
    site = Site.of(tmp_path, events, seed)
    site.write(0.7)
    rng = np.random.default_rng(seed)
    users = rng.choice(events["user_id"].unique(), 2)
    low = int(np.sort(events["event_time"].to_numpy())[len(events) // 4])
    mask = (events["user_id"].isin(users) & (events["event_time"] >= low)).to_numpy() & (np.arange(len(events)) < site.written)
    before = _frames(site, tmp_path)
    site.rebuild(Request(site.tasks(), exclude=f"event_time >= {low}", scope=Scope(users=np.sort(users))))
    corrected = excluded_as_it_was(site.events, mask, 2, site.written)
    site.check(corrected, some_times(site.known, rng), tmp_path / "out")
    after = _frames(site, tmp_path)
    for frame in ("user", "labels"):
        left_alone = [f[~f["user_id"].isin(users)].reset_index(drop=True) for f in (before[frame], after[frame])]
        pd.testing.assert_frame_equal(*left_alone)
    site.write(1.0)
    site.check(corrected, some_times(site.known, rng), tmp_path / "out")


def _frames(site: Site, directory: Path) -> dict[str, pd.DataFrame]:
    from tests import driving

    return driving.exported(site.settings, int(site.known["event_time"].max()), directory / "frames")


def test_an_undone_correction_has_never_been(tmp_path: Path) -> None:
    events = adversarial(7, 300, partitions=2)
    site = Site.of(tmp_path, events, 7)
    site.write(0.6)
    times = some_times(site.known, np.random.default_rng(7))
    site.rebuild(Request(site.tasks(), exclude="action == 'save'"))
    site.rebuild(Request(site.tasks(), exclude="surface == 'own_profile'"))
    numbers = [c.generation for c in History.of(site.settings, 0).corrections]
    site.rebuild(Request(site.tasks(), undo=(numbers[0],)))
    mask = (site.events["surface"] == "own_profile").to_numpy() & (np.arange(len(events)) < site.written)
    site.check(excluded(site.events, mask), times, tmp_path / "out")
    site.rebuild(Request(site.tasks(), undo=(numbers[1],)))
    site.check(site.events, times, tmp_path / "out")
    # What undid it is undone: it counts again; and once more.
    site.rebuild(Request(site.tasks(), undo=(History.of(site.settings, 0).generation,)))
    site.check(excluded(site.events, mask), times, tmp_path / "out")
    site.rebuild(Request(site.tasks(), undo=(History.of(site.settings, 0).generation,)))
    site.check(site.events, times, tmp_path / "out")
    site.write(1.0)
    site.check(site.events, some_times(site.known, np.random.default_rng(8)), tmp_path / "out")
