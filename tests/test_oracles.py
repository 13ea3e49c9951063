"""The oracles themselves: each rule of docs/semantics.md by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tests.oracles.decide import decide
from tests.oracles.features import counters, credited, default_as_of, saves, sequences, topics
from tests.oracles.partition import murmur2, partition_of
from tests.oracles.records import DAY, HOUR, T, click, log, record, save, seen


def fates(*records: dict[str, Any], **limits: int) -> list[str]:
    """Of each record: its status, "late" for accepted and late."""
    decided = decide(log(*records), **limits)
    return ["late" if late else status for status, late in zip(decided["status"], decided["late"], strict=True)]


def credits(*records: dict[str, Any], **limits: int) -> list[int | None]:
    """Of each revisit, in log order: the offset of its save."""
    return [None if pd.isna(offset) else offset for offset in credited(decide(log(*records), **limits))["save_offset"]]


class TestPartition:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("21", -973932308),
            ("foobar", -790332482),
            ("a-little-bit-long-string", -985981536),
            ("a-little-bit-longer-string", -1486304829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            ("abc", 479470107),
        ],
    )
    def test_murmur2_is_javas(self, text: str, expected: int) -> None:
        assert murmur2(text.encode()) == expected

    def test_partition_masks_the_sign(self) -> None:
        assert partition_of(21, 8) == (-973932308 & 0x7FFFFFFF) % 8 == 4
        assert all(0 <= partition_of(user, 5) < 5 for user in (0, -1, -(2**63), 2**63 - 1))


class TestDecide:
    def test_future_is_beyond_the_skew(self) -> None:
        assert fates(record(300_000, timestamp=T), record(300_001, timestamp=T)) == ["accepted", "future_time"]

    def test_arrival_is_the_running_maximum_of_all_records(self) -> None:
        ahead = record(0, timestamp=T + 600_000, bad=True)
        stale = [record(900_000, timestamp=T - DAY), record(900_000, timestamp=T), record(900_001, timestamp=T)]
        assert fates(ahead, *stale) == ["bad", "accepted", "accepted", "future_time"]

    def test_arrival_of_another_partition_is_no_help(self) -> None:
        assert fates(record(0, partition=1, timestamp=T + DAY), record(300_001, timestamp=T)) == ["accepted", "future_time"]

    def test_what_is_dead_changes_nothing(self) -> None:
        dead = [record(DAY, event_id=1, bad=True), record(2 * DAY, event_id=1, timestamp=T)]
        decided = decide(log(*dead, record(0, event_id=1), record(0)))
        assert decided["status"].tolist() == ["bad", "future_time", "accepted", "accepted"]
        assert decided["late"].tolist() == [False] * 4
        assert decided["w_before"].tolist() == [pd.NA, pd.NA, pd.NA, T]

    def test_watermark_is_before_the_record_and_of_accepted_ones(self) -> None:
        decided = decide(log(record(0, event_id=1), record(10), record(20, event_id=1), record(5), record(30), record(40, partition=1)))
        assert decided["status"].tolist() == ["accepted", "accepted", "duplicate", "accepted", "accepted", "accepted"]
        assert decided["w_before"].tolist() == [pd.NA, T, T + 10, T + 10, T + 10, pd.NA]

    def test_late_is_strictly_before_the_lateness(self) -> None:
        assert fates(record(HOUR), record(0), record(-1), record(0)) == ["accepted", "accepted", "late", "accepted"]
        assert fates(record(10), record(0), record(-1), allowed_lateness_ms=10) == ["accepted", "accepted", "late"]

    def test_duplicate_up_to_the_horizon(self) -> None:
        assert fates(record(0, event_id=1), record(HOUR), record(0, event_id=1)) == ["accepted", "accepted", "duplicate"]
        assert fates(record(0, event_id=1), record(HOUR + 1), record(0, event_id=1)) == ["accepted", "accepted", "late"]
        assert fates(record(0, event_id=1), record(11), record(0, event_id=1), dedup_horizon_ms=10) == ["accepted"] * 3

    def test_duplicate_by_user_and_event_id_whatever_its_time(self) -> None:
        first = record(0, event_id=1)
        assert fates(first, save(5 * HOUR, event_id=1, pin_id=71)) == ["accepted", "duplicate"]
        assert fates(first, record(-5 * HOUR, event_id=1)) == ["accepted", "duplicate"]
        assert fates(first, record(0, event_id=1, user_id=8), record(0, event_id=-1)) == ["accepted"] * 3

    def test_a_duplicate_is_not_remembered(self) -> None:
        copy_in_time = record(HOUR, event_id=1)
        assert fates(record(0, event_id=1), copy_in_time, record(HOUR + 1), copy_in_time) == [
            "accepted",
            "duplicate",
            "accepted",
            "accepted",
        ]

    def test_a_key_is_remembered_by_any_of_its_accepted_records(self) -> None:
        again = [record(2 * HOUR), record(2 * HOUR, event_id=1), record(0, event_id=1)]
        assert fates(record(0, event_id=1), *again) == ["accepted", "accepted", "accepted", "duplicate"]

    def test_copies_of_what_came_after_the_horizon_are_accepted(self) -> None:
        assert fates(record(DAY), record(0, event_id=5), record(0, event_id=5)) == ["accepted", "late", "late"]

    def test_offsets_rule_not_rows(self) -> None:
        events = log(record(0), record(DAY), record(DAY, partition=1), record(1), record(1, partition=1))
        shuffled = decide(events.iloc[[3, 1, 4, 0, 2]])
        assert shuffled.index.tolist() == [3, 1, 4, 0, 2]
        pd.testing.assert_frame_equal(shuffled.sort_index(), decide(events))
        assert decide(events)["late"].tolist() == [False, False, False, True, True]


class TestSequences:
    def test_newest_first_late_ones_too_without_impressions(self) -> None:
        decided = decide(log(save(DAY, duration_ms=5), click(0, pin_id=71), seen(DAY), record(DAY, "impression", user_id=8)))
        assert sequences(decided) == {7: [(70, "save", "homefeed", T + DAY, 5), (71, "grid_click", "own_profile", T, 0)]}

    def test_ties_by_signed_event_id_then_offset(self) -> None:
        ids = {71: -5, 72: 2**63 - 1, 73: 0, 74: -(2**63)}
        tied = [record(0, pin_id=pin, event_id=i) for pin, i in ids.items()]
        late_copy = record(0, pin_id=75, event_id=0)
        decided = decide(log(*tied, record(DAY, pin_id=70), late_copy))
        assert [pin for pin, *_ in sequences(decided)[7]] == [70, 72, 75, 73, 71, 74]

    def test_hundred_of_those_up_to_as_of(self) -> None:
        decided = decide(log(*(record(i) for i in range(150))))
        assert [a[3] - T for a in sequences(decided)[7]] == list(range(149, 49, -1))
        assert [a[3] - T for a in sequences(decided, T + 120)[7]] == list(range(120, 20, -1))
        assert sequences(decided, T - 1) == {}


class TestCredit:
    def test_strictly_between_save_and_seven_days(self) -> None:
        assert credits(save(0), click(0), click(1), seen(7 * DAY - 1), seen(7 * DAY)) == [None, 0, 0, None]

    def test_same_user_same_pin_own_profile(self) -> None:
        others = [click(1, user_id=8), click(1, pin_id=71), record(1, "grid_click", "search"), record(1, "click", "own_profile")]
        assert credits(save(0), *others, click(1)) == [None, None, 0]

    def test_to_the_latest_save_only(self) -> None:
        assert credits(save(0), save(5), click(5), click(6)) == [0, 1]
        assert credits(save(0, event_id=9), save(0, event_id=-9), click(1)) == [0]

    def test_a_save_that_arrives_later_takes_over(self) -> None:
        assert credits(click(5), save(4)) == [1]
        assert credits(save(0), click(5), save(4, surface="related_pins")) == [2]
        assert credits(save(0), click(5), save(5), save(6)) == [0]

    def test_a_late_save_opens_nothing(self) -> None:
        assert credits(save(0), click(5), record(2 * HOUR), save(4)) == [0]
        decided = decide(log(record(2 * HOUR), save(0)))
        assert len(saves(decided)) == 0
        assert sequences(decided)[7][1][1] == "save"

    def test_a_late_revisit_counts_while_its_save_is_kept(self) -> None:
        end = 7 * DAY + HOUR
        assert credits(save(0), record(end - 1), click(1)) == [0]
        assert credits(save(0), record(end), click(1)) == [None]
        assert credits(save(0), record(7 * DAY), click(1), allowed_lateness_ms=0) == [None]
        assert credits(save(0), click(2), record(end), click(1)) == [0, None]

    def test_a_revisit_that_moves_the_watermark_is_judged_before_it(self) -> None:
        decided = decide(log(save(0), save(DAY), click(8 * DAY - 1), click(2)), dedup_horizon_ms=0)
        assert credited(decided)["save_offset"].tolist() == [1, pd.NA]

    def test_a_full_tie_goes_to_the_greater_offset(self) -> None:
        twice = [save(0, event_id=5), record(11), save(0, event_id=5, surface="related_pins"), click(20)]
        assert credits(*twice, dedup_horizon_ms=10) == [2]

    def test_columns(self) -> None:
        row = credited(decide(log(save(0, surface="related_pins"), click(1)))).iloc[0].to_dict()
        of_revisit = {"partition": 0, "offset": 1, "user_id": 7, "pin_id": 70, "event_id": 2, "event_time": T + 1, "type": "click"}
        assert row == of_revisit | {"save_offset": 0, "save_time": T, "save_event_id": 1, "save_surface": "related_pins", "rp": True}


class TestSaves:
    @pytest.mark.parametrize(
        ("revisit", "labels"),
        [
            (seen(1), [True, False, False]),
            (seen(DAY - 1), [True, False, False]),
            (seen(DAY), [False, False, False]),
            (click(DAY - 1), [False, True, True]),
            (click(DAY), [False, False, True]),
            (click(7 * DAY - 1), [False, False, True]),
            (click(7 * DAY), [False, False, False]),
        ],
    )
    def test_labels(self, revisit: dict[str, Any], labels: list[bool]) -> None:
        row = saves(decide(log(save(0), revisit))).iloc[0]
        assert [row["label_1dRevImpre"], row["label_1dRevGrid"], row["label_7dRevGrid"]] == labels

    def test_first_times_up_to_as_of(self) -> None:
        decided = decide(log(save(0, topic="food"), click(9), click(7), seen(5), save(20)))
        first = ["first_revisit_time", "first_click_time"]
        assert saves(decided)[first].values.tolist() == [[T + 5, T + 7], [pd.NA, pd.NA]]
        assert saves(decided, T + 6)[first].values.tolist() == [[T + 5, pd.NA]]
        assert saves(decided, T + 6)["label_7dRevGrid"].tolist() == [False]
        assert saves(decided)["topic"].tolist() == ["food", ""]

    def test_matured_by_the_watermark_of_its_partition_at_as_of(self) -> None:
        end = 7 * DAY + HOUR
        decided = decide(log(save(0), save(1), record(end), save(0, partition=1, user_id=8), record(DAY, partition=1)))
        assert saves(decided)["matured"].tolist() == [True, False, False]
        assert saves(decided, T + 2 * end)["matured"].tolist() == [True, False, False]
        assert saves(decided, T + end - 1)["matured"].tolist() == [False, False, False]

    def test_the_prefix_decides_then_as_of_cuts(self) -> None:
        decided = decide(log(save(0), click(5), save(4)))
        assert saves(decided, T + 4)["save_time"].tolist() == [T, T + 4]
        assert saves(decided, T + 5)["label_7dRevGrid"].tolist() == [False, True]
        assert saves(decided.iloc[:2], T + 5)["label_7dRevGrid"].tolist() == [True]


def nonzero(frame: pd.DataFrame, entity: Any) -> dict[str, int]:
    row = frame.loc[entity]
    return {name: int(value) for name, value in row.items() if value}


class TestCounters:
    def test_names_and_types(self) -> None:
        decided = decide(log(save(0), click(1)))
        for entity, distinct in (("pin", "users"), ("user", "pins")):
            frame = counters(decided, entity)  # type: ignore[arg-type]
            names = {
                f"revisits_{kind}_{scope}_{days}d_{what}"
                for kind in ("click", "impression")
                for scope in ("rp", "all")
                for days in (7, 30, 90)
                for what in ("count", distinct)
            }
            assert set(frame.columns) == names
            assert set(frame.dtypes.astype(str)) == {"int64"}

    def test_count_distinct_and_scope(self) -> None:
        a, b = {"user_id": 7}, {"user_id": 8}
        decided = decide(log(save(0, **a, surface="related_pins"), save(0, **b), click(5, **a), click(5, **a), click(6, **b), seen(6, **b)))
        days = ("7d", "30d", "90d")
        expected = {f"revisits_click_all_{d}_{what}": n for d in days for what, n in (("count", 3), ("users", 2))}
        expected |= {f"revisits_click_rp_{d}_{what}": n for d in days for what, n in (("count", 2), ("users", 1))}
        expected |= {f"revisits_impression_all_{d}_{what}": 1 for d in days for what in ("count", "users")}
        assert nonzero(counters(decided, "pin"), 70) == expected
        of_user = counters(decided, "user")
        assert (of_user.loc[7, "revisits_click_rp_7d_count"], of_user.loc[7, "revisits_click_rp_7d_pins"]) == (2, 1)

    @pytest.mark.parametrize("days", [7, 30, 90])
    def test_window_is_exact_at_its_head_and_hourly_at_its_tail(self, days: int) -> None:
        decided = decide(log(save(0), click(90 * 60_000)))  # in the second hour
        name = f"revisits_click_all_{days}d_count"
        end = T + 2 * HOUR + days * DAY
        assert [len(counters(decided, "pin", t)) for t in (T + 90 * 60_000 - 1, T + 90 * 60_000)] == [0, 1]
        assert [counters(decided, "pin", t).loc[70, name] for t in (T + 90 * 60_000, end - 1, end, end + DAY)] == [1, 1, 0, 0]

    def test_who_is_exported(self) -> None:
        decided = decide(log(save(0), record(0, pin_id=71, user_id=8), seen(0, user_id=9), click(1)))
        assert counters(decided, "user").index.tolist() == [7, 8]
        assert counters(decided, "pin").index.tolist() == [70]
        assert counters(decided, "pin", T).index.tolist() == []
        assert counters(decided, "pin", T + 400 * DAY).index.tolist() == [70]
        assert nonzero(counters(decided, "user", T + 400 * DAY), 7) == {}


class TestTopics:
    def test_statistics(self) -> None:
        of = {"topic": "food"}
        records = [save(0, **of), save(1, pin_id=71, **of), save(2, pin_id=72, **of), save(3, pin_id=73), save(4, pin_id=74, topic="art")]
        clicks = [click(3 * DAY - 1), click(1 + 3 * DAY, pin_id=71), click(4 * DAY), seen(4 * DAY, pin_id=72)]
        frame = topics(decide(log(*records, *clicks)))
        assert frame.index.tolist() == ["art", "food"]
        assert frame.loc["food"].to_dict() == {
            name.format(days): value
            for days in ("7d", "30d", "90d")
            for name, value in {
                "saves_{}_count": 3,
                "saves_{}_clicked": 2,
                "saves_{}_clicked_days_3_6": 1,
                "click_rate_{}": 2 / 3,
                "days_3_6_share_{}": 0.5,
            }.items()
        }
        assert (frame.loc["art", "saves_7d_count"], frame.loc["art", "click_rate_7d"], frame.loc["art", "days_3_6_share_7d"]) == (1, 0, 0)

    def test_window_and_as_of(self) -> None:
        decided = decide(log(save(1, topic="food"), click(DAY)))
        end = T + HOUR + 7 * DAY
        assert [topics(decided, t).loc["food", "saves_7d_count"] for t in (T + 1, end - 1, end)] == [1, 1, 0]
        assert [topics(decided, t).loc["food", "saves_7d_clicked"] for t in (T + DAY - 1, T + DAY, end)] == [0, 1, 0]
        assert topics(decided, end).loc["food", "saves_30d_clicked"] == 1
        assert topics(decided, T).empty


def test_default_as_of_is_over_all_partitions() -> None:
    decided = decide(log(record(5), record(9, partition=1), record(DAY, timestamp=T), record(DAY, bad=True)))
    assert default_as_of(decided) == T + 9
    assert default_as_of(decided.iloc[:0]) is None
