"""Texts of records come out of typed and raw batches alike, and as a correction has them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from flows.events import RAW_SCHEMA
from flows.log import LogBatch
from flows.record_texts import texts_of

VALUES = ["a", None, "ü", "", "b", None, None, None, "c", None]


class Corrected:
    """An overlay that makes records 2 and 9 others."""

    def texts(self, offsets: np.ndarray, field: str) -> tuple[np.ndarray, list[str | None]]:
        assert field == "request_id"
        return np.array([2, 9]), ["two", None]


def batches() -> list[LogBatch]:
    typed = [pa.array(VALUES[:2], pa.string()), pa.array(VALUES[2:4], pa.string()).dictionary_encode()]
    parts = [pa.record_batch([column], ["request_id"]) for column in typed]
    raw = [b'{"request_id":"b"}', b'{"request_id":5}', b"no json", None, b'{"pin_id":1,"request_id":"c"}']
    parts.append(pa.record_batch([pa.array(raw, pa.binary()), pa.array([0] * 5)], schema=RAW_SCHEMA))
    parts.append(pa.record_batch([pa.array([1])], ["pin_id"]))
    ends = np.cumsum([len(part) for part in parts])
    return [LogBatch(0, int(end) - len(part), int(end), part) for part, end in zip(parts, ends, strict=True)]


@pytest.mark.parametrize("corrected", [False, True])
def test_texts_of_all_or_some(corrected: bool) -> None:
    overlay = Corrected() if corrected else None
    wanted = [*VALUES]
    if corrected:
        wanted[2], wanted[9] = "two", None
    assert texts_of(batches(), np.arange(10), "request_id", overlay).to_pylist() == wanted  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random(10) < 0.5
        found = texts_of(batches(), np.arange(10), "request_id", overlay, mask)  # type: ignore[arg-type]
        assert found.to_pylist() == [one for one, is_wanted in zip(wanted, mask.tolist(), strict=True) if is_wanted]
