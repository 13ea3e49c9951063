"""What a newcomer meets on the first steps: each time what it is, and the way on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.processes import Ended, Simulated, ended, front_door, refused, start, start_bytewax
from tidemark import cli

T0 = 1_700_000_000_000
LONG = -(2**63) + 1


def test_names_with_line_breaks_are_quoted_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text('"a,b\n1,2\n')
    assert refused("ingest", tmp_path / "q.csv", data=tmp_path / "data").endswith("its columns: a,b\\n1,2\\n")


def test_what_lies_beside_simulated_events_is_told_from_them(simulated: Simulated, tmp_path: Path) -> None:
    for name in ("served.parquet", "truth-labels.parquet"):
        said = refused("ingest", simulated.directory / name, data=tmp_path / "data")
        assert "and no actions: give it events-*.parquet and events-bad.jsonl" in said


def test_a_file_that_is_not_there_is_told_so_whatever_its_name(tmp_path: Path) -> None:
    assert refused("ingest", tmp_path / "nofile", data=tmp_path / "data").endswith("nofile: No such file")


def test_before_a_run_the_way_on_is_named(simulated: Simulated, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    hint = "nothing has been applied yet: `tidemark run` applies what is in the log"

    def ask(*line: object) -> Ended:
        return front_door(*line, data=data, monkeypatch=monkeypatch)

    assert ask("features", "user", 1).err.strip() == hint
    assert ask("features", "user", 1, "--json").err == ""
    assert hint in ask("status").out
    assert hint in ask("features", "export", "--entity", "pin", "--out", tmp_path / "pins.parquet").out
    assert hint in ask("labels", "export", "--out", tmp_path / "labels.parquet").out


def test_records_that_are_refused_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, file, out = tmp_path / "data", tmp_path / "some.jsonl", tmp_path / "out.parquet"
    says_why = "were refused: `tidemark deadletters list` says why"

    def ask(*line: object) -> Ended:
        return front_door(*line, data=data, monkeypatch=monkeypatch)

    def take_in(*rows: tuple[int, str]) -> None:
        """Of each a user and an action."""
        rest = f'"pin_id": {LONG}, "surface": "related_pins", "event_time": {T0}'
        file.write_text("".join(f'{{"user_id": {user}, "action": "{action}", {rest}}}\n' for user, action in rows))
        ask("ingest", file)

    # Refused as it is decoded, and as it is judged: an event of a year to come.
    take_in(*((user, "saev") for user in range(6)))
    file.write_text(f'{{"user_id": 1, "pin_id": 7, "action": "save", "event_time": {T0 + 365 * 86_400_000}, "arrival_time": {T0}}}\n')
    ask("ingest", file)
    assert ask("run", "--workers", 2).out.splitlines()[-1] == f"7 of 7 records {says_why}"
    for entity in ("user", "pin"):
        assert ask("features", entity, 1).err.strip() == f"nothing is known of anything yet: 7 of 7 records {says_why}"
    assert f"7 of 7 records {says_why}" in ask("features", "export", "--entity", "pin", "--out", out).out
    assert f"7 of 7 records {says_why}" in ask("labels", "export", "--out", out).out
    # Of this run alone.
    take_in((1, "save"), (2, "saev"), (3, "save"))
    done = ask("run", "--json").json()
    assert (done["events"], done["refused"]) == (3, 1)
    shown = ask("features", "user", 1)
    assert shown.err == ""
    # Whole, though there is no terminal to say how wide it is.
    assert f" {LONG} " in shown.out
    take_in((4, "save"))
    assert "refused" not in ask("run").out


def groups(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Group]]:
    """Every command that has commands."""
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from groups(command, (*path, name))


@pytest.mark.parametrize("command", [path for path, _ in groups() if path], ids=" ".join)
def test_a_groups_help_ends_with_an_example(command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = front_door(*command, "--help", data=tmp_path, monkeypatch=monkeypatch)
    assert done.out.splitlines()[-1].startswith(f"  Example: tidemark {' '.join(command)} ")


@pytest.mark.parametrize("id", [("-5",), ("--", "-5")])
def test_a_negative_id_is_no_option(id: tuple[str, ...], simulated: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    assert front_door("features", "pin", *id, "--json", data=simulated.run, monkeypatch=monkeypatch).json()["pin_id"] == -5


def test_whole_digests_are_shown_where_there_is_no_terminal(simulated: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = front_door("status", "--digest", data=simulated.run, monkeypatch=monkeypatch).out.splitlines()
    assert {f"{task.replace('-', '/')} {digest}" for task, digest in simulated.clean.digests.items()} <= set(shown)


def test_what_simulate_takes_is_in_its_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "1<=x<=100000000" in front_door("simulate", "--help", data=tmp_path, monkeypatch=monkeypatch).out
    said = front_door("simulate", "--out", tmp_path / "out", "--users", "many", data=tmp_path, monkeypatch=monkeypatch, code=2).err
    assert said.splitlines()[-1] == "Error: Invalid value for '--users': 'many' is not a valid whole number."


def test_sigterm_says_what_ctrl_c_says(tmp_path: Path) -> None:
    fifo = tmp_path / "never.csv"
    os.mkfifo(fifo)
    process = start("ingest", fifo, data=tmp_path / "data")
    # Open for writing only once there is a reader, who then waits for what never comes.
    with fifo.open("wb"):
        process.send_signal(signal.SIGTERM)
        done = ended(process)
    assert (done.code, done.err) == (143, "interrupted; what was committed is safe, run the same command again to continue\n")


def test_bytewaxs_own_command_ends_with_one_line_too(tmp_path: Path) -> None:
    done = ended(start_bytewax("flows.all:flow", data=tmp_path / "data"))
    assert done.code == 1
    assert done.err.startswith("tidemark: there is no log 'actions'")
    assert len(done.err.splitlines()) == 1
