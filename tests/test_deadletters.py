"""Dead letters: each is read once whatever was delivered, a gap is an error, and a redrive puts each back at most once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from flows.deadletters import counts, deadletters, newest, redrive, select, user_of
from flows.deadletters_command import deadletters as command
from flows.errors import CorruptionError, DataDirectoryError, InputError, SettingsError
from flows.events import hash_id
from flows.log import LocalLog
from flows.outputs import DEADLETTER_SCHEMA
from flows.settings import Settings
from tests.oracles.partition import partition_of

PARTITIONS = 4
GOOD = {"event_id": 1, "user_id": 21, "pin_id": 5, "action": "saev", "event_time": 1_700_000_000_000}


def letter(
    origin: int,
    sequence: int,
    offset: int,
    reason: str = "unknown_action",
    raw: bytes | None = None,
    generation: int = 0,
    size: int | None = None,
) -> dict[str, Any]:
    value = json.dumps(GOOD | {"event_id": offset}).encode() if raw is None else raw
    return {
        "generation": generation,
        "origin": origin,
        "sequence": sequence,
        "timestamp": 1_700_000_000_000 + offset,
        "log": "actions",
        "partition": origin,
        "offset": offset,
        "reason": reason,
        "detail": "[red]saev[/red]",
        "raw": value,
        "size": len(value) if size is None else size,
    }


def write(settings: Settings, *rows: dict[str, Any]) -> None:
    """As a task's outbox does: to the partition of its origin."""
    with LocalLog.open(settings.logs, "deadletters", PARTITIONS, create=True) as log:
        for row in rows:
            log.append([(row["origin"], pa.RecordBatch.from_pylist([row], DEADLETTER_SCHEMA))])


def raw_records(settings: Settings) -> list[tuple[int, bytes, int]]:
    with LocalLog.open(settings.logs, "actions") as log:
        return [
            (p, row["value"], row["timestamp"]) for p in range(PARTITIONS) for b in log.read(p, 0, 1 << 20) for row in b.records.to_pylist()
        ]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(data=tmp_path, partitions=PARTITIONS)
    LocalLog.open(settings.logs, "actions", PARTITIONS, create=True).close()
    return settings


def invoke(settings: Settings, *arguments: str) -> Result:
    result = CliRunner().invoke(command, list(arguments), obj=settings)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_repeats_are_read_once(settings: Settings) -> None:
    write(
        settings,
        letter(0, 0, 10),
        letter(0, 1, 12),
        letter(0, 0, 10),
        letter(0, 1, 12),
        letter(0, 2, 15),
        letter(2, 0, 7, "not_json", b"{"),
    )
    assert [x.id for x in deadletters(settings)] == ["0:10", "0:12", "0:15", "2:7"]
    assert counts(settings) == {"unknown_action": 3, "not_json": 1}
    assert [x.id for x in newest(settings, 2)] == ["0:12", "0:15"]
    assert [x.id for x in newest(settings, 9, "not_json")] == ["2:7"]
    assert newest(settings, 0) == []


def test_a_gap_is_corruption(settings: Settings) -> None:
    write(settings, letter(1, 0, 10), letter(1, 2, 12))
    with pytest.raises(CorruptionError, match="partition 1: record 1 of origin 1 is missing"):
        list(deadletters(settings))


def test_a_new_generation_goes_on_counting(settings: Settings) -> None:
    write(settings, letter(0, 0, 10), letter(0, 1, 12), letter(0, 1, 12, generation=1), letter(0, 2, 14, generation=1), letter(1, 0, 3))
    assert [x.id for x in deadletters(settings)] == ["0:10", "0:12", "0:14", "1:3"]


def test_without_dead_letters(settings: Settings, tmp_path: Path) -> None:
    assert list(deadletters(settings)) == []
    assert "no dead letters" in invoke(settings, "list").output
    with pytest.raises(DataDirectoryError):
        invoke(Settings(data=tmp_path / "nothing"), "list")


def test_list_and_show(settings: Settings) -> None:
    write(settings, letter(0, 0, 10), letter(0, 1, 12, "not_json", b"\xff{"))
    listed = invoke(settings, "list").output
    assert "2 dead letters" in listed
    assert "0:12" in listed
    assert "[red]saev[/red]" in listed
    assert "did you mean 'not_json'" in invoke(settings, "list", "--reason", "notjson").output
    data = json.loads(invoke(settings, "list", "--json", "--limit", "1").output)
    assert data["reasons"] == {"unknown_action": 1, "not_json": 1}
    assert data["newest"][0]["id"] == "0:12"
    assert data["newest"][0]["raw_hex"] == "ff7b"
    assert '"action": "saev"' in invoke(settings, "show", "0:10").output
    assert "\\xff{" in invoke(settings, "show", "0:12").output
    assert json.loads(json.loads(invoke(settings, "show", "0:10", "--json").output)["raw"])["user_id"] == 21
    for wrong, match in (("0:11", "there is no dead letter 0:11"), ("ten", "is no id")):
        with pytest.raises(InputError, match=match):
            invoke(settings, "show", wrong)


def test_redrive_puts_each_back_once(settings: Settings) -> None:
    write(settings, letter(0, 0, 10), letter(0, 1, 12), letter(3, 0, 5, "not_json", b"oops"))
    assert "1 would be re-driven" in invoke(settings, "redrive", "--id", "0:10", "--dry-run").output
    assert raw_records(settings) == []
    assert invoke(settings, "redrive", "--id", "0:10").output == "1 re-driven\n"
    assert invoke(settings, "redrive", "--id", "0:10", "--id", "0:10").output == "0 re-driven; 1 had been before\n"
    assert json.loads(invoke(settings, "redrive", "--all", "--json").output) == {"redriven": 2, "before": 1, "cut": 0, "dry_run": False}
    assert json.loads(invoke(settings, "redrive", "--all", "--json").output) == {"redriven": 0, "before": 3, "cut": 0, "dry_run": False}
    records = raw_records(settings)
    home = partition_of(21, PARTITIONS)
    assert sorted(p for p, value, _ in records if value != b"oops") == [home, home]
    assert [p for p, value, _ in records if value == b"oops"] == [3]
    assert all(timestamp > 1_700_000_001_000 for _, _, timestamp in records)
    listed = json.loads(invoke(settings, "list", "--json").output)["newest"]
    assert all(entry["redriven"] for entry in listed)


def test_redrive_by_reason_with_a_change(settings: Settings) -> None:
    write(settings, letter(0, 0, 10), letter(0, 1, 12, "not_json", b"oops"))
    invoke(settings, "redrive", "--reason", "unknown_action", "--set", 'action="save"', "--set", "user_id=7", "--arrival", "original")
    [(partition, value, timestamp)] = raw_records(settings)
    assert json.loads(value) == GOOD | {"event_id": 10, "action": "save", "user_id": 7}
    assert partition == partition_of(7, PARTITIONS)
    assert timestamp == 1_700_000_000_010


def test_redrive_refuses_what_it_cannot_do(settings: Settings) -> None:
    write(settings, letter(0, 0, 10), letter(0, 1, 12, "not_json", b"oops"))
    for error, match, arguments in (
        (SettingsError, "one of", ()),
        (SettingsError, "one of", ("--all", "--reason", "not_json")),
        (InputError, "did you mean 'not_json'", ("--reason", "notjson")),
        (InputError, "no dead letter 0:11", ("--id", "0:10", "--id", "0:11")),
        (InputError, "no JSON object", ("--all", "--set", "pin_id=1")),
        (SettingsError, "is not JSON", ("--all", "--set", "action=save")),
        (SettingsError, "did you mean 'pin_id'", ("--all", "--set", "pinid=1")),
        (SettingsError, "FIELD=JSON", ("--all", "--set", "pin_id")),
    ):
        with pytest.raises(error, match=match):
            invoke(settings, "redrive", *arguments)
    assert raw_records(settings) == []


def test_one_of_which_only_the_start_is_kept(settings: Settings) -> None:
    write(settings, letter(0, 0, 10), letter(2, 0, 12, "oversize", b'{"event_id":1,"x":"\xc3', size=5_000_000))
    shown = invoke(settings, "show", "2:12").output
    assert "5000000 bytes, of which the first 20 are kept; the whole lies in log 'actions', partition 2, offset 12" in shown
    assert json.loads(invoke(settings, "show", "2:12", "--json").output)["size"] == 5_000_000
    with pytest.raises(
        InputError, match=r"2:12 can't be re-driven: of its 5000000 bytes .* partition 2, offset 12: append a smaller record"
    ):
        invoke(settings, "redrive", "--id", "0:10", "--id", "2:12", "--set", 'action="save"')
    assert raw_records(settings) == []
    assert (
        "1 re-driven; 1 left out, of which only the start is kept" in invoke(settings, "redrive", "--all", "--set", 'action="save"').output
    )
    assert [json.loads(value)["event_id"] for _, value, _ in raw_records(settings)] == [10]


def test_those_written_before_sizes_were_told_are_whole(settings: Settings) -> None:
    old = DEADLETTER_SCHEMA.remove(DEADLETTER_SCHEMA.get_field_index("size"))
    with LocalLog.open(settings.logs, "deadletters", PARTITIONS, create=True) as log:
        log.append([(0, pa.RecordBatch.from_pylist([letter(0, 0, 10)], old))])
    [found] = deadletters(settings)
    assert (found.size, found.cut) == (len(found.raw), False)


def test_two_redrives_at_once_add_one(settings: Settings) -> None:
    write(settings, letter(0, 0, 10))
    chosen = select(settings)
    with LocalLog.open(settings.logs, "actions") as actions:
        assert redrive(actions, chosen + chosen).redriven == 1
        assert redrive(actions, chosen).before == 1
    assert len(raw_records(settings)) == 1


@pytest.mark.parametrize(
    ("raw", "user"),
    [
        (b'{"user_id": 21}', 21),
        (b'{"user_id": "21"}', 21),
        (b'{"user_id": "alice"}', hash_id("alice")),
        (b'{"user_id": 3.0}', 3),
        (b'{"user_id": 3.5}', None),
        (b'{"user_id": true}', None),
        (b'{"user_id": 9223372036854775808}', None),
        (b"{}", None),
        (b"[1]", None),
        (b"{", None),
    ],
)
def test_user_of(raw: bytes, user: int | None) -> None:
    assert user_of(raw) == user
