"""Examples of a history equal the oracle's, whatever is held together; features are those of the request's own moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.examples.backfill.drafts import What
from flows.settings import Settings
from tests.examples.histories import backfilled, decided_of, history, told, write
from tests.oracles.examples_of_history import examples
from tests.strategies import HOUR, MINUTE

PARTITIONS = 2


@pytest.mark.parametrize("seed", range(12))
def test_records_equal_the_oracle(seed: int, tmp_path: Path) -> None:
    lateness = [HOUR, 0, 10 * MINUTE, 2 * HOUR][seed % 4]
    events = history(seed, 150, PARTITIONS, lateness_ms=lateness)
    settings = Settings(data=tmp_path / "data", partitions=PARTITIONS, allowed_lateness_ms=lateness)
    write(settings, events, seed)
    delay = [0, 1, 5000][seed % 3]
    wanted = examples(decided_of(events, allowed_lateness_ms=lateness), delay, all_kinds=True)
    found = backfilled(settings, What(delay, all_kinds=True))
    for partition in range(PARTITIONS):
        assert (told(found[partition]) if partition in found else []) == wanted.get(partition, [])
