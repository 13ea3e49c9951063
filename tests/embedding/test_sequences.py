"""Histories as columns, and out of the log: what the stream accepts, by the oracle, and nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.errors import InputError, SettingsError
from online_model.embedding.actions import LogPrefix, read_actions
from online_model.embedding.files import read_events, read_pairs
from online_model.embedding.sequences import UserSequences
from tests.embedding.worlds import BEGIN, DAY, random_sequences
from tests.oracles.decide import decide
from tests.state.house import House
from tests.strategies import adversarial

Action = tuple[int, str, str, int, int]


def told(sequences: UserSequences) -> dict[int, list[Action]]:
    """Of each user (pin, action, surface, time, duration), oldest first."""
    actions, surfaces = ({code: name for name, code in of.items()} for of in (sequences.actions, sequences.surfaces))
    out = {}
    for i, user in enumerate(sequences.user_ids.tolist()):
        at = range(sequences.offsets[i], sequences.offsets[i + 1])
        s = sequences
        out[user] = [
            (int(s.pin_ids[s.pin[k]]), actions[s.action[k]], surfaces[s.surface[k]], int(s.time_ms[k]), int(s.duration_ms[k])) for k in at
        ]
    return out


def expected(decided: pd.DataFrame, users: set[int] | None = None) -> dict[int, list[Action]]:
    """The same by the oracle of what is accepted: ties in the order of the log."""
    rows = decided[(decided["status"] == "accepted") & (decided["action"] != "impression")].sort_values(["event_time", "offset"])
    out: dict[int, list[Action]] = {}
    for user, *action in rows[["user_id", "pin_id", "action", "surface", "event_time", "duration_ms"]].itertuples(index=False):
        if users is None or user in users:
            out.setdefault(user, []).append(tuple(action))
    return dict(sorted(out.items()))


@pytest.mark.parametrize("seed", range(3))
def test_the_log_says_what_the_oracle_accepts(seed: int, tmp_path: Path) -> None:
    events = adversarial(seed, 200, partitions=2)
    house = House(tmp_path / "data", events, 2, batch_records=37)
    decided = decide(events)
    assert (decided["status"] != "accepted").any()
    found = read_actions(house.settings)
    assert list(told(found).items()) == list(expected(decided).items())
    some = set(found.user_ids[::2].tolist())
    assert told(read_actions(house.settings, users=np.array(sorted(some)))) == expected(decided, some)

    ends = LogPrefix.now(house.settings)
    half = LogPrefix(tuple(end // 2 for end in ends.actions), ends.corrected_to)
    before = decide(events[events["offset"] < events["partition"].map(dict(enumerate(half.actions)))])
    assert told(read_actions(house.settings, until=half)) == expected(before)
    behind = decided[(decided["status"] == "accepted") & (decided["offset"] >= decided["partition"].map(dict(enumerate(half.actions))))]
    touched = set(behind["user_id"].tolist())
    assert told(read_actions(house.settings, since=half.actions)) == expected(decided, touched)
    with pytest.raises(SettingsError, match="has 3 positions; the log has 2"):
        read_actions(house.settings, since=[0, 0, 0])
    house.close()


@pytest.mark.parametrize("seed", range(5))
def test_parts_of_histories(seed: int) -> None:
    sequences, rng = random_sequences(seed), np.random.default_rng(seed)
    whole = told(sequences)
    for actions in whole.values():
        assert all(a[3] <= b[3] for a, b in itertools.pairwise(actions))
    some = np.sort(rng.choice(len(sequences), 5, replace=False))
    assert told(sequences.take(some)) == {user: whole[user] for user in sequences.user_ids[some].tolist()}
    moments = BEGIN + rng.integers(0, 50, len(sequences)) * DAY
    until = {user: [a for a in whole[user] if a[3] <= t] for user, t in zip(sequences.user_ids.tolist(), moments.tolist(), strict=True)}
    assert told(sequences.until(moments)) == until
    assert told(sequences.newest(3)) == {user: actions[-3:] for user, actions in whole.items()}
    assert sequences.take(np.arange(len(sequences))).digest() == sequences.digest() != sequences.newest(3).digest()


def test_files_of_events_and_of_pairs(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": [2, 1, 2], "item": [5, 5, 4], "action": ["b", "a", "a"], "ts": [30, 20, 10]})
    frame.to_parquet(tmp_path / "events.parquet")
    assert told(read_events(tmp_path / "events.parquet")) == {
        1: [(5, "a", "anywhere", 20, 0)],
        2: [(4, "a", "anywhere", 10, 0), (5, "b", "anywhere", 30, 0)],
    }
    (tmp_path / "pairs.txt").write_text("1 5\n2 4\n1 4\n")
    assert told(read_pairs(tmp_path / "pairs.txt")) == {
        1: [(5, "event", "anywhere", 0, 0), (4, "event", "anywhere", 1_000, 0)],
        2: [(4, "event", "anywhere", 0, 0)],
    }
    (tmp_path / "pairs.txt").write_text("1 5\n2\n")
    with pytest.raises(InputError, match=r"pairs\.txt: line 2: '2' is not a user and an item"):
        read_pairs(tmp_path / "pairs.txt")
    for nothing in ("", "\n\n"):
        (tmp_path / "pairs.txt").write_text(nothing)
        with pytest.raises(InputError, match=r"pairs\.txt: there is nothing in it; give a text file of lines: user item"):
            read_pairs(tmp_path / "pairs.txt")
    for wrong, message in (
        (frame.drop(columns="ts"), "there is no column 'ts'; it has user, item, action"),
        (frame.assign(item=[1, None, 2]), "column 'item' has nulls"),
        (frame.assign(ts=["x", "y", "z"]), "column 'ts' is"),
        (frame.assign(ts=[1, -1, -2]), r"row 1: 'ts' is -1; times are ms from 1970 to 9999.*\(so in 2 rows\)"),
        (frame.assign(ts=np.array([1, 2, 2**63 + 5], np.uint64)), "row 2: 'ts' is 9223372036854775813; times are ms"),
        (frame.assign(user=np.array([1, 2**64 - 1, 2], np.uint64)), "row 1: 'user' is 18446744073709551615; IDs are of 64 bits"),
        (frame.assign(item=[[1], [2], [3]]), "column 'item' is list.*, and can't be read as texts; give texts in UTF-8, or whole numbers"),
        (frame.assign(action=[{"a": 1}] * 3), "column 'action' is struct.*, and can't be read as texts"),
        (frame.assign(action=[b"save", b"\xff", b"hide"]), "column 'action' is binary, and can't be read as texts"),
    ):
        wrong.to_parquet(tmp_path / "events.parquet")
        with pytest.raises(InputError, match=message):
            read_events(tmp_path / "events.parquet")
