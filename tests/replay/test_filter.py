"""What a filter takes, and what is no filter."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.errors import SettingsError
from flows.events import hash_id
from flows.vocabulary import Vocabulary
from replay.rebuild.filter import FIELDS, Filter

VOCABULARY = Vocabulary.load(None)
HOUR = 3_600_000
T = 1_772_323_200_000  # 2026-03-01T00:00Z


class Rows:
    """Five events."""

    _numbers: ClassVar = {
        "event_id": [1, 2, 3, 4, 5],
        "user_id": [7, 7, hash_id("alice"), -9, 9],
        "pin_id": [1, 2, 1, 2, 1],
        "event_time": [T - 1, T, T + HOUR, T + 2 * HOUR, T + 3 * HOUR],
        "arrival": [T, T, T, T + HOUR, T + HOUR],
        "duration_ms": [0, 10, 20, 30, 40],
        "offset": [0, 1, 2, 3, 4],
        "partition": [3] * 5,
        "action": [VOCABULARY.actions[name] for name in ("save", "impression", "save", "click", "hide")],
        "surface": [VOCABULARY.surfaces[name] for name in ("homefeed", "search", "other", "other", "own_profile")],
        "topic": [hash_id("food"), 0, hash_id("travel"), 0, 0],
    }
    _texts: ClassVar = {"producer": ["v12", "v13", None, "v13.1", ""], "request_id": [None] * 5}

    def __len__(self) -> int:
        return 5

    def numbers(self, field: str) -> np.ndarray:
        return np.array(self._numbers[field], np.int64)

    def texts(self, field: str) -> pa.Array:
        return pa.array(self._texts[field], pa.string())


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("producer == 'v13'", [1]),
        ("producer != 'v13'", [0, 2, 3, 4]),
        ("producer.startswith('v13')", [1, 3]),
        ("not producer.startswith('v13')", [0, 2, 4]),
        ("producer in ['v12', '']", [0, 4]),
        ("producer not in ('v12',)", [1, 2, 3, 4]),
        ("producer >= 'v13'", [1, 3]),
        ("producer == 'v13' and event_time >= '2026-03-01T00:00Z'", [1]),
        ("event_time >= '2026-03-01'", [1, 2, 3, 4]),
        ("event_time < '2026-03-01T02:00:00+01:00'", [0, 1]),
        (f"{T} < event_time <= {T + 2 * HOUR}", [2, 3]),
        (f"{T} <= event_time", [1, 2, 3, 4]),
        ("user_id == 'alice' or user_id == -9", [2, 3]),
        ("user_id in [7, 'alice']", [0, 1, 2]),
        ("user_id == '7'", [0, 1]),
        ("action == 'save' and not (surface == 'other')", [0]),
        ("action in ['save', 'hide'] and offset > 0", [2, 4]),
        ("topic == 'food' or topic == ''", [0, 1, 3, 4]),
        ("duration_ms >= 10 and duration_ms != 30 and partition == 3", [1, 2, 4]),
        ("  arrival > '2026-03-01T00:00:00Z'  ", [3, 4]),
        ("'v13' == producer", [1]),
        ("request_id == 'r'", []),
        ("request_id != 'r'", [0, 1, 2, 3, 4]),
    ],
)
def test_it_takes(text: str, taken: list[int]) -> None:
    assert np.flatnonzero(Filter(text, VOCABULARY).matches(Rows())).tolist() == taken


@pytest.mark.parametrize(
    ("text", "said", "under"),
    [
        ("producer = 'v13'", "invalid syntax", "= 'v13'"),
        ("", "invalid syntax", ""),
        ("producr == 'v13'", "there is no field 'producr' (did you mean 'producer'?)", "producr"),
        ("producer == 13", "producer is compared with a text in quotes", "13"),
        ("user_id == 1.5", "user_id is compared with a whole number", "1.5"),
        ("event_time > 'yesterday'", "'yesterday' is no time: write it as 2026-03-01T12:00Z", "'yesterday'"),
        ("action == 'savee'", "there is no action 'savee' (did you mean 'save'?)", "'savee'"),
        ("action > 'save'", "action has no order", "action"),
        ("topic < 'a'", "topic has no order", "topic"),
        ("user_id", "a condition is expected here", "user_id"),
        ("1 == 1", "one side of a comparison must be a field", "1"),
        ("user_id == pin_id", "user_id is compared with", "pin_id"),
        ("user_id in 7", "after 'in' comes a list", "7"),
        ("producer is None", "this comparison is not known", "producer"),
        ("__import__('os').system('true')", "the only call is FIELD.startswith('…')", "__import__"),
        ("producer.endswith('3')", "the only call is FIELD.startswith('…')", "producer"),
        ("user_id.startswith('3')", "only producer and request_id can be compared by how they start", "user_id"),
        ("user_id == 9223372036854775808", "user_id is a 64-bit number", "9223372036854775808"),
        ("(lambda: 1)() == 1", "one side of a comparison must be a field", "(lambda"),
        ("producer == 'é' and x == 1", "there is no field 'x'", "x == 1"),
        ("not " * 5_000 + "producer == 'a'", "", ""),
        ("(" * 300 + "1" + ")" * 300, "", ""),
        ("producer == '\x00'", "", ""),
    ],
)
def test_what_is_no_filter_is_told_where(text: str, said: str, under: str) -> None:
    with pytest.raises(SettingsError) as error:
        Filter(text, VOCABULARY).matches(Rows())
    message = str(error.value)
    assert message.startswith("filter: ")
    assert said in message
    if under and len(text) < 100:
        shown, mark = error.value.below
        assert shown[len(mark) - 1 :].startswith(under)


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from([*FIELDS, "and", "or", "not", "in", "==", "<", "(", ")", "'a'", "7", ".", ","]), max_size=12).map(" ".join)
)
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        found = Filter(text, VOCABULARY).matches(Rows())
    except SettingsError:
        return
    assert (found.dtype, found.shape) == (np.bool_, (5,))
