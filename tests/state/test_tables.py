"""When rows expire, and what of them a digest covers."""

from __future__ import annotations

import numpy as np
import pytest

from flows.kernels.rows import CUT, OFFSET_SHIFT
from flows.settings import DAY_MS, HOUR_MS, Settings
from flows.state.tables import ACTIONS_TABLES, LABELS, REVISITS, SEQUENCES, TILES, canonical, expiry, unexpired

NOW = 1_699_999_200_000


@pytest.mark.parametrize("lateness", [0, HOUR_MS, 10 * DAY_MS + 7])
@pytest.mark.parametrize("skew", [0, 300_000])
def test_what_expires_is_in_no_window_of_a_read_within_l_and_s_and_an_hour(lateness: int, skew: int) -> None:
    settings = Settings(allowed_lateness_ms=lateness, clock_skew_ms=skew)
    for newest in (NOW, NOW + 1, NOW + HOUR_MS - 1, NOW + HOUR_MS):
        before = expiry(settings, newest)
        earliest_read = newest - lateness - skew - HOUR_MS
        assert before % HOUR_MS == 0
        assert before <= earliest_read - 90 * DAY_MS < before + HOUR_MS, "the last hour that such a read can leave out"


def test_expiry_never_runs_back() -> None:
    settings = Settings()
    times = [expiry(settings, NOW + step * 60_000) for step in range(200)]
    assert times == sorted(times)


def revisit(entity: int, hour: int, weight: int = 1) -> list[int]:
    return [entity, 5, 0, hour * HOUR_MS, weight]


def parts(table: object, rows: list[list[int]], before: int) -> list[list[list[int]]]:
    return [part.tolist() for part in canonical(table, np.array(rows, np.int64), before)]  # type: ignore[arg-type]


def test_of_expired_rows_a_digest_covers_only_whose_they_were() -> None:
    before = 10 * HOUR_MS
    rows = [revisit(1, 3), revisit(1, 10), revisit(2, 9)]
    kept, entities = canonical(REVISITS, np.array(rows, np.int64), before)
    assert kept.tolist() == [revisit(1, 10)]
    assert entities.tolist() == [1, 2]
    assert parts(REVISITS, [revisit(1, 5), revisit(1, 10), revisit(2, 1)], before) == parts(REVISITS, rows, before)
    assert parts(REVISITS, rows[:2], before) != parts(REVISITS, rows, before)

    tiles = [[1, 0, 3, 1], [1, 2, 10, 1], [2, 0, 9, 1]]
    kept, entities = canonical(TILES, np.array(tiles, np.int64), before)
    assert kept.tolist() == [[1, 2, 10, 1]]
    assert entities.tolist() == [1, 2]


def test_expiry_is_by_the_end_of_the_hour_in_every_table() -> None:
    before = 10 * HOUR_MS
    revisits = np.array([revisit(e, hour) for e in (1, 2) for hour in (4, 8, 9, 10)], np.int64)
    assert unexpired(REVISITS, revisits, before).tolist() == [revisit(e, hour) for e in (1, 2) for hour in (9, 10)]
    tiles = np.array([[1, 0, hour, 1] for hour in (8, 9, 10)], np.int64)
    assert unexpired(TILES, tiles, before).tolist() == [[1, 0, 9, 1], [1, 0, 10, 1]]
    for table in (SEQUENCES, LABELS):
        rows = np.zeros((3, table.columns), np.int64)
        assert unexpired(table, rows, before) is rows


def test_a_digest_covers_the_declared_length_of_a_sequence_and_no_mark() -> None:
    def sequence(n: int, mark: int) -> np.ndarray:
        rows = np.zeros((n, 6), np.int64)
        rows[:, 1] = 1_000 - n + np.arange(n)
        rows[:, 3] = 4 | mark | (500 - n + np.arange(n)) << OFFSET_SHIFT
        return rows

    (want,) = canonical(SEQUENCES, sequence(100, 0), 0)
    assert len(want) == 100
    for n, mark in ((100, CUT), (128, 0), (101, 0)):
        rows = sequence(n, 0)
        rows[0, 3] |= mark
        (got,) = canonical(SEQUENCES, rows, 0)
        assert got.tolist() == want.tolist()


def test_every_table_has_a_name_of_its_own() -> None:
    assert len({table.name for table in ACTIONS_TABLES}) == len(ACTIONS_TABLES)
