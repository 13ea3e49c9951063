"""When retrains are due: the same times for production and for a replay, as a calendar says them."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from flows import stopping
from flows.errors import SettingsError
from online_model.retrain.schedule import Schedule, run_on_schedule


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def by_calendar(after: datetime, until: datetime) -> list[int]:
    """Monday and Thursday at three, hour by hour."""
    found, at = [], after.replace(minute=0, second=0, microsecond=0)
    while at < until:
        if at >= after and at.hour == 3 and at.weekday() in (0, 3):
            found.append(ms(at))
        at += timedelta(hours=1)
    return found


@pytest.mark.parametrize(
    "after", [datetime(2026, 3, 20, 17, 5, tzinfo=UTC), datetime(2026, 10, 22, 3, tzinfo=UTC), datetime(2028, 2, 20, tzinfo=UTC)]
)
def test_times_are_those_of_the_calendar(after: datetime) -> None:
    until = after + timedelta(days=45)
    assert list(Schedule().between(ms(after), ms(until))) == by_calendar(after, until)


def test_cut_anywhere_the_times_are_the_same() -> None:
    first, last = ms(datetime(2026, 1, 1, tzinfo=UTC)), ms(datetime(2026, 3, 1, tzinfo=UTC))
    whole = list(Schedule().between(first, last))
    for cut in (whole[3] - 1, whole[3], whole[3] + 1):
        assert list(Schedule().between(first, cut)) + list(Schedule().between(cut, last)) == whole
    assert Schedule().latest(whole[5]) == whole[5]
    assert Schedule().latest(whole[5] - 1) == whole[4]
    assert Schedule().next(whole[5]) == whole[6]
    assert Schedule().next(whole[5] - 1) == whole[5]


@pytest.mark.parametrize(
    ("line", "said"), [("0 3 * *", "no cron line"), ("0 25 * * MON", "no cron line"), ("0 3 * * 1", "by name"), ("", "no cron")]
)
def test_what_is_no_cron_line_is_refused(line: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Schedule(line)


def test_what_a_job_raises_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_requested", False)

    def job(due: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_on_schedule(_each_second(), job, pytest.fail)


def _each_second() -> Schedule:
    schedule = Schedule()
    schedule.trigger = type(schedule.trigger)(second="*", timezone=UTC)
    return schedule


def test_it_does_what_is_due_and_ends_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_requested", False)
    done: list[int] = []

    def job(due: int) -> None:
        done.append(due)
        stopping.request()

    before = threading.active_count()
    run_on_schedule(_each_second(), job, pytest.fail)
    assert len(done) >= 1
    assert all(due % 1000 == 0 for due in done)
    assert threading.active_count() == before
