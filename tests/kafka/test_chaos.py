"""The fault harness over a real broker, which is killed and paused too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_chaos import run


@pytest.mark.kafka
@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_fault_changes_anything_over_kafka(seed: int, tmp_path: Path) -> None:
    of = run(seed, tmp_path, kafka=True)
    assert (of["kills"], of["rescales"]) == (3, 1)
    assert (of["differences"], of["mismatches"], of["lost"], of["doubled"]) == ([], 0, 0, 0)
    assert of["clock_jumps"]
    assert int(str(of["values_compared"])) > 5_000
