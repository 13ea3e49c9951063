"""Corrections of actions: examples follow those that were there when their state began, all of them once it is made anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from flows.errors import DataDirectoryError
from flows.examples.record import EXAMPLES, Kind
from flows.examples.run import put_away
from replay.rebuild.request import Request
from tests.examples.playing import Driven, expected, play, write_served
from tests.examples.test_examples import KINDS, told
from tests.replay.correcting import Site, excluded


@pytest.mark.slow
def test_what_is_made_anew_follows_all_corrections(tmp_path: Path) -> None:
    played = play(1)
    site = Site.of(tmp_path, played.events, 0)
    site.write(1.0)
    write_served(site.settings, played)
    # Both partitions, or put_away would tell of one alone.
    made = []
    for partition in range(2):
        driven = Driven(site.settings, partition)
        driven.run(np.random.default_rng(0))
        made.append(driven.table())
        driven.close()
    time = int(played.events["event_time"].quantile(0.3))
    site.rebuild(Request(site.tasks(), exclude=f"action == 'click' and event_time > {time}"))

    driven = Driven(site.settings, 0)
    driven.run(np.random.default_rng(0))
    assert driven.table().equals(made[0])
    driven.close()

    assert put_away(site.settings, [0, 1]) == [f"{EXAMPLES}/0", f"{EXAMPLES}/1"]
    driven = Driven(site.settings, 0)
    with pytest.raises(DataDirectoryError, match=r"was made under correction 0, and state .* reflects correction 1: move the log away"):
        driven.open()
    driven.close()
    for path in site.settings.logs.glob(f"{EXAMPLES}.db*"):
        path.unlink()
    put_away(site.settings, [0, 1])
    mask = ((played.events["action"] == "click") & (played.events["event_time"] > time)).to_numpy()
    corrected = dataclasses.replace(played, events=excluded(played.events, mask))
    for partition in range(2):
        driven = Driven(site.settings, partition)
        driven.run(np.random.default_rng(0), kill_share=0.3)
        want, _ = expected(corrected, partition, site.settings)
        got = driven.rows()
        assert told(got) == [
            {name: value for name, value in one.items() if name != "served"} | {"kind": KINDS[one["kind"]]} for one in want
        ]
        examples = pc.sum(pc.not_equal(made[partition].column("kind"), int(Kind.HEARTBEAT))).as_py()
        assert np.count_nonzero(got.kind != Kind.HEARTBEAT) < examples
        assert set(driven.table().column("generation").to_pylist()) == {1}
        driven.close()
