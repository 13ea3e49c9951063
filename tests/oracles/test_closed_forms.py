"""The closed forms of the oracles against all pairs, and what the generated streams reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from tests.oracles.decide import decide
from tests.oracles.features import counters, credited, saves, sequences, topics
from tests.strategies import COLUMNS, adversarial, hot_pin, hot_user, play, random_stream, reads, streams

SECOND, HOUR, DAY = 1_000, 3_600_000, 86_400_000


def check_all_pairs(events: pd.DataFrame, lateness: int = HOUR, horizon: int = HOUR, skew: int = 300_000) -> None:
    """Decisions and credits by the very words of docs/semantics.md, all pairs of records."""
    decided = decide(events, lateness, horizon, skew)
    rows: list[dict[str, Any]] = decided.sort_values(["partition", "offset"]).to_dict("records")  # type: ignore[assignment]
    for r in rows:
        before = [b for b in rows if b["partition"] == r["partition"] and b["offset"] < r["offset"]]
        arrival = max(b["timestamp"] for b in [*before, r])
        accepted = [b for b in before if b["status"] == "accepted"]
        r["w"] = max((b["event_time"] for b in accepted), default=float("-inf"))
        same = [b for b in accepted if (b["user_id"], b["event_id"]) == (r["user_id"], r["event_id"])]
        if r["bad"]:
            expected = "bad"
        elif r["event_time"] > arrival + skew:
            expected = "future_time"
        else:
            expected = "duplicate" if any(b["event_time"] >= r["w"] - horizon for b in same) else "accepted"
        assert r["status"] == expected
        assert r["late"] == (expected == "accepted" and r["event_time"] < r["w"] - lateness)

    opened = [r for r in rows if r["status"] == "accepted" and r["action"] == "save" and not r["late"]]
    columns = credited(decided)[["partition", "offset", "save_offset"]].to_numpy(dtype=object).tolist()
    found = {(partition, offset): None if pd.isna(of_save) else of_save for partition, offset, of_save in columns}
    for r in rows:
        if r["status"] == "accepted" and r["surface"] == "own_profile" and r["action"] in ("impression", "grid_click"):
            candidates = [
                (s["event_time"], s["event_id"], s["offset"])
                for s in opened
                if (s["user_id"], s["pin_id"]) == (r["user_id"], r["pin_id"])
                and s["event_time"] < r["event_time"] < s["event_time"] + 7 * DAY
                and s["event_time"] + 7 * DAY + lateness > r["w"]
            ]
            assert found.pop((r["partition"], r["offset"])) == (max(candidates)[2] if candidates else None)
    assert not found


@settings(max_examples=60, deadline=None)
@given(streams(max_events=60))
def test_closed_forms_are_all_pairs(events: pd.DataFrame) -> None:
    check_all_pairs(events)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("lateness", "horizon"), [(HOUR, HOUR), (2 * HOUR, SECOND), (0, HOUR), (DAY, 0)])
def test_closed_forms_are_all_pairs_on_long_streams(seed: int, lateness: int, horizon: int) -> None:
    check_all_pairs(adversarial(seed, 250, 2, lateness_ms=lateness, horizon_ms=horizon), lateness, horizon)


@settings(max_examples=60, deadline=None)
@given(reads(max_events=60))
def test_reads_agree_with_each_other(read: tuple[pd.DataFrame, int]) -> None:
    events, as_of = read
    decided = decide(events)
    of_user, of_pin, kept = counters(decided, "user", as_of), counters(decided, "pin", as_of), saves(decided, as_of)
    assert set(of_user.index) == set(sequences(decided, as_of))
    totals = [name for name in of_pin.columns if name.endswith("_count")]
    assert of_user[totals].sum().tolist() == of_pin[totals].sum().tolist()
    assert (kept["label_1dRevGrid"] <= kept["label_7dRevGrid"]).all()
    assert (kept["label_7dRevGrid"] == kept["first_click_time"].notna()).all()
    assert topics(decided, as_of)["saves_90d_count"].sum() <= len(kept)


def test_adversarial_streams_reach_every_situation() -> None:
    reached: dict[str, int] = {}

    def reach(name: str, times: Any) -> None:
        reached[name] = reached.get(name, 0) + int(times)

    for seed in range(60):
        decided = decide(adversarial(seed, 200))
        revisits, kept = credited(decided), saves(decided)
        found = revisits[revisits["save_time"].notna()]
        accepted = decided[decided["status"] == "accepted"]
        for status in ("accepted", "duplicate", "bad", "future_time"):
            reach(status, (decided["status"] == status).sum())
        reach("late save", (accepted["late"] & (accepted["action"] == "save")).sum())
        none_late = credited(decided.assign(late=False))
        reach("late save that would take a revisit", (none_late["save_event_id"] != revisits["save_event_id"]).sum())
        reach("late save that would change a scope", (revisits["save_time"].notna() & (none_late["rp"] != revisits["rp"])).sum())

        afterwards = found[found["save_offset"] > found["offset"]]
        reach("save after its revisit", len(afterwards))
        takers = set(afterwards[["partition", "save_offset"]].itertuples(index=False, name=None))
        is_taker = [key in takers for key in decided[["partition", "offset"]].itertuples(index=False, name=None)]
        untaken = credited(decided[~np.array(is_taker)])
        taken = untaken["save_time"].notna() & (untaken["save_event_id"] != revisits["save_event_id"])
        reach("revisit taken over from another save", taken.sum())
        reach("takeover that changes the scope", (taken & (untaken["rp"] != revisits["rp"])).sum())
        reach("related_pins", found["rp"].sum())
        age = found["event_time"] - found["save_time"]
        for at in (1, DAY - 1, DAY, DAY + 1, 7 * DAY - 1):
            reach(f"revisit at {at}", (age == at).sum())
        limit = accepted["w_before"] - accepted["event_time"]
        for at in (HOUR - 1, HOUR, HOUR + 1):
            reach(f"at lateness {at}", (limit == at).sum())
        reach("copy accepted beyond the horizon", accepted.duplicated(["user_id", "event_id"]).sum())
        reach("time ties", accepted.duplicated(["user_id", "event_time"]).sum())
        reach("matured", kept["matured"].sum())
        reach("not matured", (~kept["matured"]).sum())
        reach("counters gone back to 0", (counters(decided, "pin").sum(axis=1) == 0).sum())
        for label in ("label_1dRevImpre", "label_1dRevGrid", "label_7dRevGrid"):
            reach(label, kept[label].sum())
        reach("negative time", (decided["event_time"] < 0).sum())
        reach("least ID", (accepted["user_id"] == -(2**63)).sum())
        reach("greatest ID", (accepted["event_id"] == 2**63 - 1).sum())
    assert {name: n for name, n in reached.items() if n < 4} == {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: random_stream(1, 20_000, 4, 500, 800),
        lambda: hot_user(5_000, 2),
        lambda: hot_pin(3_000, 3),
        lambda: random_stream(0, 0),
        lambda: random_stream(0, 1),
        lambda: play([]),
    ],
    ids=["random", "hot user", "hot pin", "empty", "one", "nothing played"],
)
def test_generated_streams_are_well_formed(make: Callable[[], pd.DataFrame]) -> None:
    events = make()
    assert events.columns.tolist() == COLUMNS
    types = dict.fromkeys(COLUMNS, "int64") | dict.fromkeys(["action", "surface", "topic"], "object") | {"bad": "bool"}
    assert events.dtypes.astype(str).to_dict() == types
    for _, of_partition in events.groupby("partition"):
        assert of_partition["offset"].tolist() == list(range(len(of_partition)))
    decided = decide(events)
    assert (decided["status"] == "accepted").sum() >= 0.9 * len(events)
    if len(events) > 1_000:
        revisits = credited(decided)
        assert revisits["save_time"].notna().sum() > 0.1 * len(events)
        assert set(decided["status"]) == {"accepted", "duplicate", "bad", "future_time"}
        assert decided["late"].any()
    assert len(sequences(decided)) == len(counters(decided, "user"))
    assert len(topics(decided)) <= 20
