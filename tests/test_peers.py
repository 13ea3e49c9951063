"""The comparison with other tools: what judges them is tested here; they themselves aren't installed, and saying so is tested too."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks import _measure, _stream
from benchmarks._worker import Worker
from benchmarks.peers import __main__ as peers
from benchmarks.peers import _environments, _exactness, _input, _lines, _peer, _results
from benchmarks.peers._exactness import Expected, Verdict, judge
from flows.features import PIN_COUNTERS
from flows.settings import Settings

SEQUENCE = [(7, "save", "homefeed", 20, 0), (8, "click", "search", 10, 5)]
WANT = Expected(
    exact={"sequences": {1: SEQUENCE, 2: SEQUENCE[1:]}, "counters": {7: {"revisits_click_all_7d_count": 2}}},
    timeless={"sequences": {1: SEQUENCE, 2: SEQUENCE}, "counters": {7: {"revisits_click_all_7d_count": 2}, 9: {"a": 1}}},
    as_of=20,
)


def wrong(got: dict[int, Any], task: str = "sequences") -> tuple[int, int, int]:
    verdict = judge(got, WANT, task)
    return verdict.entities, verdict.differing, verdict.differing_by_lateness


def test_each_entity_is_judged_and_the_reason_is_told() -> None:
    right = WANT.exact["sequences"]
    assert wrong(dict(right)) == (2, 0, 0)
    assert wrong({**right, 2: []}) == (2, 1, 0)
    assert wrong({1: SEQUENCE}) == (2, 1, 0)
    assert wrong({**right, 2: SEQUENCE}) == (2, 1, 1)
    assert wrong({**right, 3: SEQUENCE}) == (3, 1, 0)
    assert wrong({**right, 1: SEQUENCE[::-1], 3: []}) == (2, 1, 0)
    assert wrong({7: {"revisits_click_all_7d_count": 2}, 9: {"a": 1}}, "counters") == (2, 1, 1)
    assert "2 has [], by the oracle" in judge({**right, 2: []}, WANT, "sequences").example


def test_what_the_tools_write_is_read_as_they_mean_it() -> None:
    assert _results.of_pathway(
        [
            '{"user_id":1,"sequence":[[7,"save","homefeed",20,0]],"diff":1,"time":2}',
            '{"user_id":1,"sequence":[[7,"save","homefeed",20,0]],"diff":-1,"time":4}',
            '{"user_id":1,"sequence":[[7,"save","homefeed",20,0],[8,"click","search",10,5]],"diff":1,"time":4}',
            '{"user_id":2,"sequence":[[8,"click","search",10,5]],"diff":1,"time":4}',
            '{"user_id":2,"sequence":[[8,"click","search",10,5]],"diff":-1,"time":6}',
        ],
        "sequences",
    ) == {1: SEQUENCE}
    # The new row of an update may stand before the old one.
    rows = [{"pin_id": 7, "counters": {"a": value, "b": 0}, "diff": diff, "time": 4} for value, diff in ((1, 1), (2, 1), (1, -1))]
    assert _results.of_pathway(map(json.dumps, rows), "counters") == {7: {"a": 2}}

    changes = ["+I[1, 10, 3, 8, click, search, 5]", "+I[1, 5, 2, 8, click, search, 5]", "a warning", "-D[1, 5, 2, 8, click, search, 5]"]
    assert _results.of_pyflink([*changes, "+I[1, 20, 4, 7, save, homefeed, 0]\n"], "sequences") == {1: SEQUENCE}
    counters = [0] * 24
    counters[6] = 2
    replaced = [f"{change}[7, {', '.join(map(str, row))}]" for change, row in (("+I", [1] * 24), ("-U", [1] * 24), ("+U", counters))]
    assert _results.of_pyflink(replaced, "counters") == {7: {"revisits_click_all_7d_count": 2}}

    entries = [[20, 4, 7, "save", "homefeed", 0], [10, 3, 8, "click", "search", 5]]
    messages = [(b"1", json.dumps({"sequence": sequence}).encode()) for sequence in (entries[1:], entries)]
    assert _results.of_quix(messages, "sequences", 20) == {1: SEQUENCE}


def test_counts_by_hour_are_summed_over_the_windows() -> None:
    hour, as_of = 3_600_000, 100 * 24 * 3_600_000
    # A week ago, to the hour: the tail is resolved to the hour, so the hour before it is the first that is out.
    ends_within, ends_before = as_of // hour - 7 * 24, as_of // hour - 7 * 24 - 1
    tiles = [([1, True, True, ends_within], 2), ([2, True, False, ends_before], 1), ([2, True, False, ends_within], 0)]
    messages = [(b"7", json.dumps({"pin_id": 7, "tile": tile, "count": count}).encode()) for tile, count in tiles]
    found = _results.of_quix(messages, "counters", as_of)[7]
    assert {name: value for name, value in found.items() if "7d" in name} == {
        "revisits_click_all_7d_count": 2,
        "revisits_click_all_7d_users": 1,
        "revisits_click_rp_7d_count": 2,
        "revisits_click_rp_7d_users": 1,
    }
    assert (found["revisits_click_all_30d_count"], found["revisits_click_all_30d_users"], found["revisits_click_rp_90d_count"]) == (3, 2, 2)


def test_lines_that_hold_code_are_counted() -> None:
    source = '''"""A docstring
of two lines."""

import os  # a comment

# another


def f(x):
    """What it does."""
    query = """
        SELECT 1

        FROM t
    """
    return (
        query
    )
'''
    assert _lines.lines_of_code(source) == 9
    assert _lines.lines_of_code("") == 0
    quix = {task: _lines.lines_of_files(_peer.QUIX.files(task)) for task in _exactness.TASKS}
    alone = _lines.lines_of_files([_environments.HERE / "quix_counters.py"])
    assert quix["counters"] > alone > quix["sequences"] > 0


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Settings]:
    return _input.records(tmp_path_factory.mktemp("stream"), events=6_000, users=100, seed=5)


def test_the_oracles_are_asked_of_what_everyone_reads(stream: tuple[pd.DataFrame, Settings], tmp_path: Path) -> None:
    rows, made = stream
    want = _exactness.expected(rows)
    assert all(len(want.exact[task]) > 50 for task in _exactness.TASKS)
    # The lateness rules matter in this stream, so what does without them can be told apart.
    assert not (rows["event_time"].diff().dropna() >= 0).all()

    lines = tmp_path / "events.jsonl"
    _input.write_lines(rows, lines)
    read = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [event["event_id"] for event in read] == rows["event_id"].tolist()
    assert set(read[0]) == set(_input.FIELDS)

    log = _input.fill_log(rows, tmp_path / "log", made)
    again = _stream.records(log)
    columns = ["partition", "offset", *_input.FIELDS, "timestamp"]
    assert (
        again[columns].sort_values(["partition", "offset"]).values.tolist()
        == rows[columns].sort_values(["partition", "offset"]).values.tolist()
    )


def test_tidemark_over_the_same_input_has_no_difference(stream: tuple[pd.DataFrame, Settings], tmp_path: Path) -> None:
    rows, made = stream
    want = _exactness.expected(rows)
    with Worker("_tidemark", _input.fill_log(rows, tmp_path / "log", made), tmp_path) as worker:
        assert worker.run()["events"] == len(rows)
        outcome = worker.outcome()
    vocabulary = made.load_vocabulary()
    got = _results.of_tidemark(outcome, vocabulary.action_names(), vocabulary.surface_names(), PIN_COUNTERS)
    for task in _exactness.TASKS:
        assert (judge(got[task], want, task).differing, judge(got[task], want, task).entities) == (0, len(want.exact[task]))
    outcome["pins"][0, 1:] += 1
    got = _results.of_tidemark(outcome, vocabulary.action_names(), vocabulary.surface_names(), PIN_COUNTERS)
    assert judge(got["counters"], want, "counters").differing == 1


# The command ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_environments, "ROOT", tmp_path)
    return tmp_path


def test_what_is_not_installed_is_said_to_be_not_measured(no_environments: Path) -> None:
    ended = CliRunner().invoke(peers.main, ["--json", "--events", "4000", "--repeats", "1", "--seed", "3"], catch_exceptions=False)
    assert ended.exit_code == 0
    result = json.loads(ended.stdout)
    assert list(result) == ["benchmark", "results", "ratios", "machine", "seed"]
    assert (result["benchmark"], result["seed"], result["ratios"]) == ("peers", 3, {})
    for name in ("pathway", "pyflink", "quix"):
        for task in _exactness.TASKS:
            row = result["results"][f"{name}_{task}"]
            assert row["not_measured"] == f"not installed; python -m benchmarks.peers --install --peer {name}"
            assert row["lines_of_code"] > 10
            assert "events_per_s" not in row
    ours = result["results"]["tidemark_local"]
    assert ours["events_per_s"]["median"] > 0
    assert [ours["exactness"][task]["differing"] for task in _exactness.TASKS] == [0, 0]
    assert "tidemark_kafka" not in result["results"]
    console = _measure.console()
    with console.capture() as shown:
        peers.show(result, console)
    assert "not measured: not installed" in shown.get()


def test_a_tool_that_fails_is_not_measured_and_says_why(no_environments: Path, tmp_path: Path) -> None:
    place = no_environments / ".peers" / "pathway" / "bin"
    place.mkdir(parents=True)
    (place / "python").symlink_to(sys.executable)
    source = _peer.Source(tmp_path / "events.jsonl", tmp_path / "warm-up.jsonl")
    with pytest.raises(_environments.NotInstalledError, match="not installed"):
        _peer.run(_peer.PATHWAY, "sequences", source, 20, tmp_path / "one")
    # Another version than the requirements name is as good as none.
    (place.parent / "installed.txt").write_text("pathway==0.1\n")
    assert _peer.missing(_peer.PATHWAY).startswith("not installed")
    (place.parent / "installed.txt").write_text(_environments.version("pathway") + "\n")
    assert _peer.missing(_peer.PATHWAY) == ""
    with pytest.raises(_peer.RunFailedError, match="No module named 'pathway'"):
        _peer.run(_peer.PATHWAY, "sequences", source, 20, tmp_path / "two")


def test_wrong_results_of_our_own_end_with_1_and_no_figure(no_environments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "judge", lambda got, want, task: Verdict(9, 1, 0, "7 has nothing"))
    ended = CliRunner().invoke(peers.main, ["--json", "--events", "2000", "--repeats", "1"])
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "tidemark_local_sequences: 1 entities differ from the oracles, 7 has nothing" in ended.stderr


def test_ratios_are_of_the_rows_that_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(rate: float) -> dict[str, Any]:
        return {"events_per_s": rate, "events_per_cpu_s": rate / 2}

    runs = {"tidemark_local": [run(100.0), run(80.0)], "tidemark_kafka": [run(60.0), run(60.0)]}
    runs |= {"pathway_sequences": [run(10.0), run(20.0)], "quix_counters": [run(30.0), run(15.0)]}
    found = peers._ratios([_peer.PATHWAY, _peer.QUIX], runs, {"pathway_sequences", "quix_counters"})
    assert found["vs_pathway_sequences"] == {"median": 7, "min": 4, "max": 10}
    assert found["vs_quix_counters"] == {"median": 3, "min": 2, "max": 4}
    assert set(found) == {f"vs_{name}{suffix}" for name in ("pathway_sequences", "quix_counters") for suffix in ("", "_per_core")}
