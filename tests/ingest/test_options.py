"""Files of other people: their names of columns, actions and surfaces, and what is said of all that was done."""

from __future__ import annotations

import json
import time
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from flows.errors import SettingsError
from flows.ingest.command import ingest
from flows.settings import Settings
from tests.ingest.ingesting import T0, events, faults, lines, raw, row, run, summary, write


def test_arrival(tmp_path: Path, settings: Settings) -> None:
    summary(settings, write(tmp_path / "a.jsonl", [row(1), row(2, arrival_time=T0 + 500), row(3, event_time=-5)]))
    assert {r["event_id"]: r["timestamp"] for r in events(settings)} == {1: T0 + 1, 2: T0 + 500, 3: 0}
    before = time.time_ns() // 1_000_000
    path = lines(tmp_path / "b.jsonl", json.dumps(row(4)), json.dumps(row(5, arrival_time=T0 + 500)), "garbage")
    summary(settings, path, "--arrival", "now")
    stamps = {r["event_id"]: r["timestamp"] for r in events(settings)}
    assert stamps[5] == T0 + 500
    assert before <= stamps[4] <= time.time_ns() // 1_000_000
    assert raw(settings)[0][2] >= before


def test_columns_actions_and_surfaces(tmp_path: Path, settings: Settings) -> None:
    rows = [
        {"user": i, "item": i, "ts": T0 + i, "what": what, "topic": "kept"}
        for i, what in enumerate(["repin", "profile_tap", "tap", "impression", "feed_view", "profile_view", "other"])
    ]
    for suffix in ("csv", "parquet", "jsonl"):
        target = Settings(data=settings.data / suffix, partitions=1)
        summary(
            target,
            write(tmp_path / f"a.{suffix}", rows),
            "--columns", "user_id=user,pin_id=item", "--columns", "event_time=ts, action=what",
            "--actions", "repin=save,profile_tap=grid_click,tap=grid_click,feed_view=impression,profile_view=impression",
            "--surface-of", "grid_click=own_profile,profile_view=own_profile",
            "--surface", "homefeed",
        )  # fmt: skip
        assert [(r["action"], r["surface"], r["topic"]) for r in events(target)] == [
            ("save", "homefeed", "kept"),
            ("grid_click", "own_profile", "kept"),
            ("grid_click", "own_profile", "kept"),
            ("impression", "homefeed", "kept"),
            ("impression", "homefeed", "kept"),
            ("impression", "own_profile", "kept"),
            ("other", "homefeed", "kept"),
        ]


def test_a_rows_own_surface_comes_first(tmp_path: Path, settings: Settings) -> None:
    rows = [row(1, user_id=1, surface="search"), row(2, user_id=1, surface=None), row(3, user_id=1, action="hide", surface=None)]
    summary(settings, write(tmp_path / "a.jsonl", rows), "--surface-of", "save=own_profile")
    assert [r["surface"] for r in events(settings)] == ["search", "own_profile", None]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_surfaces_under_other_names(tmp_path: Path, settings: Settings, suffix: str) -> None:
    names = ["profile", "feed", "search", "elsewhere", None]
    rows = [row(i, user_id=1, surface=name) for i, name in enumerate(names)]
    summary(settings, write(tmp_path / f"a.{suffix}", rows), "--surfaces", "profile=own_profile,feed=homefeed", "--surface", "notification")
    assert sorted((r["event_time"] - T0, r["surface"]) for r in events(settings)) == [
        (0, "own_profile"), (1, "homefeed"), (2, "search"), (3, "elsewhere"), (4, "notification"),
    ]  # fmt: skip
    # Read otherwise they are other events; the same way, nothing is added.
    more = ("--surfaces", "feed=homefeed", "--surfaces", "profile=own_profile", "--surface", "notification")
    summary(settings, tmp_path / f"a.{suffix}", *more)
    assert len(events(settings)) == len(names)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_actions_that_are_numbers(tmp_path: Path, settings: Settings, suffix: str) -> None:
    rows = [row(i, action=i) for i in (1, 2, 3)]
    summary(settings, write(tmp_path / f"a.{suffix}", rows), "--actions", "1=save,2=click")
    assert sorted(r["action"] for r in events(settings) if r["action"] != "3") == ["click", "save"]
    assert sum(faults(settings).values()) == 1


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_surfaces_that_are_numbers(tmp_path: Path, settings: Settings, suffix: str) -> None:
    rows = [row(i, surface=i) for i in (1, 2, 3)]
    summary(settings, write(tmp_path / f"a.{suffix}", rows), "--surfaces", "1=own_profile,2=search")
    assert sorted(r["surface"] for r in events(settings) if r["surface"] != "3") == ["own_profile", "search"]
    assert sum(faults(settings).values()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--columns", "user=user_id"], "no column 'user' \\(did you mean 'user_id'"),
        (["--columns", "user_id"], "'user_id' is not NAME=VALUE"),
        (["--columns", "user_id="], "is not NAME=VALUE"),
        (["--columns", "user_id=u,,pin_id=p"], "is not NAME=VALUE"),
        (["--columns", "user_id=u,user_id=v"], "'user_id' is given twice"),
        (["--columns", "user_id=u,pin_id=u"], "column 'u' is mapped twice, to user_id and to pin_id"),
        (["--actions", "repin=sav"], "no action 'sav' \\(did you mean 'save'"),
        (["--actions", "repin=save,repin=click"], "'repin' is given twice"),
        (["--surface", "home"], "no surface 'home' \\(did you mean 'homefeed'"),
        (["--surfaces", "profile=own_profil"], "no surface 'own_profil' \\(did you mean 'own_profile'"),
        (["--surfaces", "profile=search,profile=other"], "'profile' is given twice"),
        (["--surface-of", "save=home"], "no surface 'home'"),
        (["--surface-of", "sav=homefeed"], "no action 'sav' \\(did you mean 'save'"),
        (["--time-unit", "m"], "--time-unit: 'm' is none of s, ms, us, ns"),
        (["--arrival", "later"], "--arrival: 'later' is none of"),
        (["--format", "avro"], "--format: 'avro' is none of"),
    ],
)
def test_bad_options(tmp_path: Path, settings: Settings, options: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        run(settings, write(tmp_path / "a.jsonl", [row(1)]), *options)
    assert not settings.data.exists()


def test_a_vocabulary_file_declares_actions(tmp_path: Path) -> None:
    (tmp_path / "v.toml").write_text("[actions]\nshare = 40\n")
    settings = Settings(data=tmp_path / "data", partitions=1, vocabulary=tmp_path / "v.toml")
    summary(settings, write(tmp_path / "a.jsonl", [row(1, action="sent")]), "--actions", "sent=share")
    assert events(settings)[0]["action"] == "share"


def test_summary_for_people(tmp_path: Path, settings: Settings) -> None:
    one = lines(tmp_path / "a.jsonl", orjson.dumps(row(1)), "garbage")
    two = write(tmp_path / "b.csv", [row(2)])
    output = run(settings, one, two).output
    assert "a.jsonl: 2 rows added (at least 1 dead letter, `tidemark run` judges the rest)" in output
    assert "b.csv: 1 rows added" in output
    assert "3 rows added from 2 files" in output


def test_help_names_every_option() -> None:
    text = CliRunner().invoke(ingest, ["--help"]).output
    for option in ("--columns", "--actions", "--surfaces", "--surface-of", "--surface", "--time-unit", "--arrival", "--format", "--json"):
        assert option in text
