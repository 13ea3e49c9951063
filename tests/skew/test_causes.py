"""Which cause a row is put down to; and what is tried on it begins from what the log says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.events import hash_id
from flows.features import SEQUENCE_FIELDS
from flows.kernels import what_if
from flows.kernels.what_if_sequences import MORE, explain_sequences
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.partition import partition_of
from flows.positions import Positions
from flows.reading import FeatureReader
from flows.skew import causes
from flows.skew.causes import COLUMNS, MISTAKES, SHIFTS, chosen, packed
from flows.skew.explaining import _COUNTS
from flows.skew.trace import trace
from replay.rebuild.request import Request
from replay.rebuild.scan import Scope
from tests.replay.correcting import Site
from tests.state.house import House
from tests.state.small import LENGTH, small
from tests.strategies import adversarial, interesting_times

COLUMN = st.sampled_from(sorted(MISTAKES))


def pattern(*columns: int) -> bytes:
    hits = np.zeros((1, COLUMNS), np.bool_)
    hits[0, list(columns)] = True
    return packed(hits)[0]


@given(st.dictionaries(st.frozensets(COLUMN, max_size=5).map(lambda c: pattern(*c)), st.integers(1, 50), max_size=8))
def test_a_row_is_put_down_to_what_would_explain_it(patterns: dict[bytes, int]) -> None:
    found = chosen(patterns)
    assert found.keys() == patterns.keys()
    for one, mistake in found.items():
        explains = [MISTAKES[c] for c in np.flatnonzero(causes.unpacked(one)).tolist()]
        assert mistake in explains or (not explains and mistake.cause is causes.UNEXPLAINED)


def test_what_explains_most_rows_is_named_and_of_equals_what_says_most() -> None:
    old_read, lost = what_if.OLD_READ, what_if.WITHOUT_ONE
    both, one = pattern(old_read, lost), pattern(old_read)
    assert chosen({both: 100, one: 1})[both].cause is causes.OLD_READ
    assert chosen({both: 100})[both].cause is causes.LOST
    # Two mistakes in one log.
    apart = chosen({pattern(lost): 5, pattern(what_if.WITHOUT_LATE): 3, pattern(): 2})
    assert sorted(mistake.cause.name for mistake in apart.values()) == ["late_event_ignored", "lost_event", "unexplained"]


def test_only_what_a_row_says_itself_is_no_finding() -> None:
    assert [cause.name for cause in causes.CAUSES if cause.benign] == ["defaulted", "other_fingerprint"]
    assert {mistake.cause for mistake in MISTAKES.values()} <= set(causes.CAUSES)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_tried_begins_from_what_the_log_says(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without any mistake the events give the values that state gives, at any time: sequences, counters, topics."""
    partitions = 2
    events = adversarial(seed, 250, partitions=partitions)
    with small(sequences=True):
        house = House(tmp_path_factory.mktemp("house") / "data", events, partitions)
        house.finish((40,))
        with FeatureReader(house.settings) as reader, open_log(house.settings, ACTIONS, read_only=True) as log:
            positions = Positions.of(reader)
            users, pins = (np.unique(events[name].to_numpy().astype(np.int64)) for name in ("user_id", "pin_id"))
            topics = sorted({str(name) for name in events["topic"].dropna() if name})
            found = trace(
                house.settings, house.vocabulary, log, positions.actions.tolist(), positions.corrected_to.tolist(), users, pins, topics
            )
            times = interesting_times(events)
            for as_of in np.random.default_rng(seed).choice(times, 8).tolist():
                check(reader, positions, found, users, pins, topics, int(as_of))
        house.close()


@pytest.mark.parametrize("one_user", [False, True])
def test_what_is_tried_follows_corrections(one_user: bool, tmp_path: Path) -> None:
    """A correction of one user's records leaves the clock of all others as it was."""
    events = adversarial(9, 250, partitions=2)
    site = Site.of(tmp_path, events, 9)
    site.write(0.7)
    user = int(events["user_id"].mode()[0])
    scope = Scope(users=np.array([user])) if one_user else Scope()
    exclude = "action == 'save'" if one_user else "action == 'save' and surface == 'related_pins'"
    site.rebuild(Request(site.tasks(), exclude=exclude, scope=scope))
    site.write(1.0)
    with FeatureReader(site.settings) as reader, open_log(site.settings, ACTIONS, read_only=True) as log:
        positions = Positions.of(reader)
        assert positions.corrected_to.any()
        users, topics = np.unique(events["user_id"].to_numpy().astype(np.int64)), sorted({str(name) for name in events["topic"] if name})
        none = np.empty(0, np.int64)
        found = trace(
            site.settings, reader.vocabulary, log, positions.actions.tolist(), positions.corrected_to.tolist(), users, none, topics
        )
        for as_of in np.random.default_rng(3).choice(interesting_times(events), 8).tolist():
            check(reader, positions, found, users, none, topics, int(as_of), length=100)


def check(reader, positions, found, users, pins, topics, as_of, length=LENGTH):  # type: ignore[no-untyped-def]
    lateness = reader.settings.allowed_lateness_ms
    for ids, of, values, there, cuts, counts in (
        (users, found.users, *told(reader.user_counters(users, as_of)), np.tile(positions.actions, (len(users), 1)), slice(None)),
        (pins, found.pins, *told(reader.pin_counters(pins, as_of)), cuts_of(found, positions, pins), slice(None)),
        (
            found.topics.entities,
            found.topics,
            *of_topics(reader, found, topics, as_of),
            np.tile(positions.actions, (len(topics), 1)),
            _COUNTS,
        ),
    ):
        wanted = np.column_stack([values.astype(np.int64)[:, counts], there])
        agrees = np.zeros(len(ids), np.bool_)
        what_if.agrees(of.rows, of.bounds_of(ids), cuts, np.full(len(ids), as_of), wanted, lateness, of is found.topics, agrees)
        assert agrees.all()
        # What gives something else, doesn't.
        what_if.agrees(of.rows, of.bounds_of(ids), cuts, np.full(len(ids), as_of), wanted + 1, lateness, of is found.topics, agrees)
        assert not agrees.any()
        assert len(ids) or of is found.pins
    rows = reader.user_sequences(users, as_of)
    entries = np.column_stack([getattr(rows, field).astype(np.int64) for field in SEQUENCE_FIELDS])
    hits = np.zeros((len(users), what_if.FIRST_SHIFT + len(SHIFTS) + MORE), np.bool_)
    explain_sequences(
        found.sequences.rows, found.sequences.bounds_of(users), np.tile(positions.actions, (len(users), 1)), np.full(len(users), as_of),
        entries, rows.offsets, SHIFTS, length, hits,
    )  # fmt: skip
    assert hits[:, what_if.AS_IT_IS].all()


def told(rows):  # type: ignore[no-untyped-def]
    # A row of state that has expired still says that there was something.
    return rows.values, np.full(len(rows.values), -1)


def of_topics(reader, found, topics, as_of):  # type: ignore[no-untyped-def]
    order = np.argsort([hash_id(name) for name in topics])
    stats = reader.topic_stats([topics[i] for i in order], as_of)
    return stats.values, stats.found.astype(np.int64)


def cuts_of(found, positions, pins):  # type: ignore[no-untyped-def]
    homes = partition_of(pins, len(positions.actions)).tolist()
    cuts = [found.cut_of_pins(home, positions) for home in homes]
    return np.array(cuts, np.int64).reshape(len(pins), len(positions.actions))
