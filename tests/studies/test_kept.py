"""Results of arms: found again for the same values alone, whole or not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows.errors import CorruptionError
from online_model.studies.kept import Kept

SAID = {"base": "b", "learner": {"rate": 0.05}}


def test_what_was_put_is_found_for_the_same_values_alone(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "arms")
    assert kept.get("1h", SAID) is None
    kept.put("1h", SAID, {"heads": np.array(["click", "save"]), "probabilities": np.array([[0.1, 0.2]])})
    found = kept.get("1h", dict(reversed(SAID.items())))
    assert found is not None
    assert found["heads"].tolist() == ["click", "save"]
    assert found["probabilities"].tolist() == [[0.1, 0.2]]
    assert kept.get("1d", SAID) is None
    assert kept.get("1h", {**SAID, "learner": {"rate": 0.06}}) is None
    assert [path.suffix for path in (tmp_path / "arms").iterdir()] == [".npz"]


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.put("1h", SAID, {"probabilities": np.zeros((3, 2))})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptionError, match="delete it, and run the study again"):
        kept.get("1h", SAID)
