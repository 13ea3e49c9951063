"""Compares exports with the oracles, to the last value."""

from __future__ import annotations

import pandas as pd

from tests.oracles import features as oracle

SEQUENCE = ("pin_id", "action", "surface", "event_time", "duration_ms")


def check(exports: dict[str, pd.DataFrame], decided: pd.DataFrame, as_of: int, quiet_pins: bool = True) -> None:
    """Every export equals its oracle at a time; without `quiet_pins`, pins all of whose counters are 0 may be there or not."""
    check_users(exports["user"], decided, as_of)
    pins = [exports["pin"].set_index("pin_id"), oracle.counters(decided, "pin", as_of)]
    check_counters(*(pins if quiet_pins else [frame[(frame != 0).any(axis=1)] for frame in pins]))
    check_topics(exports["topic"].set_index("topic"), oracle.topics(decided, as_of))
    check_labels(exports["labels"], oracle.saves(decided, as_of))


def check_users(frame: pd.DataFrame, decided: pd.DataFrame, as_of: int) -> None:
    lists = [frame[f"sequence_{name}"] for name in SEQUENCE]
    got = {user: list(zip(*(list(x) for x in row), strict=True)) for user, *row in zip(frame["user_id"], *lists, strict=True)}
    want = oracle.sequences(decided, as_of)
    assert {user: s for user, s in got.items() if s} == want
    check_counters(
        frame.drop(columns=[f"sequence_{name}" for name in SEQUENCE]).set_index("user_id"), oracle.counters(decided, "user", as_of)
    )


def check_counters(got: pd.DataFrame, want: pd.DataFrame) -> None:
    assert set(got.columns) == set(want.columns)
    pd.testing.assert_frame_equal(got.sort_index()[list(want.columns)], want, check_dtype=True, check_index_type=False)


def check_topics(got: pd.DataFrame, want: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(got.sort_index()[list(want.columns)], want, check_exact=True, check_index_type=False)


def check_labels(got: pd.DataFrame, want: pd.DataFrame) -> None:
    names = [
        "user_id",
        "pin_id",
        "save_time",
        "save_surface",
        "label_1dRevImpre",
        "label_1dRevGrid",
        "label_7dRevGrid",
        "first_revisit_time",
        "matured",
    ]
    assert list(got.columns) == names

    def rows(frame: pd.DataFrame) -> list[tuple[object, ...]]:
        found = (tuple(None if pd.isna(v) else v for v in row) for row in frame[names].itertuples(index=False, name=None))
        # By value, none before any: how a value is written depends on its type, and the two sides have different ones.
        return sorted(found, key=lambda row: [(v is not None, v if v is not None else 0) for v in row])

    assert rows(got) == rows(want)
