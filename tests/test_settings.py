"""Settings: option over environment over file over default; a name that is no setting is an error with the nearest one named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flows.errors import SettingsError
from flows.settings import Settings, load_settings
from tests.processes import refused, tidemark, tidemark_process


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a tidemark.toml."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_defaults() -> None:
    assert load_settings(environment={}) == Settings()
    assert Settings().allowed_lateness_ms == Settings().dedup_horizon_ms == 3_600_000
    assert (Settings().clock_skew_ms, Settings().partitions, Settings().data) == (300_000, 8, Path("data"))


def test_option_over_environment_over_file_over_default(elsewhere: Path) -> None:
    write(elsewhere / "tidemark.toml", "partitions = 2\nbatch_records = 3\nclock_skew_ms = 4\n")
    environment = {"TIDEMARK_BATCH_RECORDS": "5", "TIDEMARK_CLOCK_SKEW_MS": "6", "TIDEMARK_ANCHOR_RECORDS": ""}
    settings = load_settings(environment=environment, clock_skew_ms=7)
    assert (settings.partitions, settings.batch_records, settings.clock_skew_ms) == (2, 5, 7)
    assert settings.anchor_records == Settings().anchor_records


def test_the_data_directory_of_a_file_lies_beside_it(elsewhere: Path) -> None:
    (elsewhere / "there").mkdir()
    named = write(elsewhere / "there" / "my.toml", 'data = "store"\nvocabulary = "words.toml"\n')
    settings = load_settings(config=named, environment={})
    assert (settings.data, settings.vocabulary) == (elsewhere / "there" / "store", elsewhere / "there" / "words.toml")
    assert load_settings(environment={"TIDEMARK_CONFIG": str(named)}) == settings
    assert load_settings(config=named, environment={"TIDEMARK_DATA": "env"}).data == Path("env")
    assert load_settings(data="option", config=named, environment={"TIDEMARK_DATA": "env"}).data == Path("option")


def test_the_archive_lies_in_the_data_directory_unless_it_is_said_elsewhere(elsewhere: Path) -> None:
    assert Settings(data=Path("d")).archives == Path("d/archive")
    assert load_settings(environment={"TIDEMARK_ARCHIVE": "a"}).archives == Path("a")
    write(elsewhere / "tidemark.toml", 'archive = "far"')
    assert load_settings(environment={}).archives == Path("far")


def test_settings_survive_the_way_to_a_child() -> None:
    settings = Settings(data=Path("some where"), partitions=3, batch_records=17, vocabulary=Path("v.toml"))
    assert load_settings(environment=settings.environment()) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("allowed_latness_ms = 5", "did you mean 'allowed_lateness_ms'"),
        ("[settings]\npartitions = 5", "there is no setting 'settings'"),
        ("partitions = ", "Invalid value"),
        ("partitions = 2\npartitions = 3", "my.toml"),
        ('partitions = "8"', "setting 'partitions' is '8'; it must be a whole number from 1 to 4096"),
        ("partitions = 8.0", "setting 'partitions' is 8.0"),
        ("partitions = true", "setting 'partitions' is True"),
        ("partitions = 0", "setting 'partitions' is 0"),
        ("clock_skew_ms = -1", "setting 'clock_skew_ms' is -1"),
        ("batch_records = 99999999999999999999", "setting 'batch_records' is"),
        ("data = 7", "'data' must be a path in quotes, not 7"),
    ],
)
def test_a_wrong_file_is_an_error_that_says_what(elsewhere: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(config=write(elsewhere / "my.toml", text), environment={})
    assert message in str(error.value)
    assert str(error.value).startswith(f"config {elsewhere / 'my.toml'}: ")


def test_a_file_that_can_not_be_read_is_an_error(elsewhere: Path) -> None:
    (elsewhere / "latin.toml").write_bytes(b"data = '\xe9'")
    for name, why in (("none.toml", "there is no such file"), ("", "Is a directory"), ("latin.toml", "no text in UTF-8")):
        path = elsewhere / name
        with pytest.raises(SettingsError, match=f"^config {re.escape(str(path))}: .*{why}"):
            load_settings(config=path, environment={})
        with pytest.raises(SettingsError, match=f"^vocabulary {re.escape(str(path))}: .*{why}"):
            Settings(vocabulary=path).load_vocabulary()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("TIDEMARK_ALLOWED_LATNESS_MS", "5", "did you mean 'allowed_lateness_ms'"),
        ("TIDEMARK_PARTITIONS", "many", "TIDEMARK_PARTITIONS is 'many'; it must be a whole number"),
        ("TIDEMARK_PARTITIONS", "5000", "from 1 to 4096"),
    ],
)
def test_a_wrong_variable_is_an_error_that_says_what(variable: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(environment={variable: value})
    assert message in str(error.value)


def test_the_front_door_prints_one_line_and_exits_with_2(elsewhere: Path) -> None:
    config = write(elsewhere / "my.toml", "partitons = 4")
    done = tidemark_process("status", "--config", config, data=elsewhere / "data", code=2)
    [line] = done.err.splitlines()
    assert line.startswith(f"tidemark: config {config}: there is no setting 'partitons' (did you mean 'partitions'?)")
    assert tidemark("--config", config, "status", data=elsewhere / "data", code=2).err == line + "\n"
    assert "did you mean 'dedup_horizon_ms'" in refused("status", data=elsewhere / "data", dedup_horizn_ms=5)


@pytest.mark.parametrize("url", ["ftp://tide:hush@host/path", "sftp://:hush@host/path", "https://tide:hush@host:80/x"])
def test_a_place_of_checkpoints_holds_no_password(tmp_path: Path, url: str) -> None:
    line = refused("replay", "checkpoint", data=tmp_path / "data", checkpoints=url)
    assert "environment variable TIDEMARK_CHECKPOINTS" in line
    assert "hush" not in line
    config = write(tmp_path / "tidemark.toml", f"checkpoints = '{url}'")
    with pytest.raises(SettingsError, match="without a password") as told:
        load_settings(config=config, environment={})
    assert "hush" not in str(told.value)


@pytest.mark.parametrize("url", ["abfs://container@account.dfs.core.windows.net/path", "s3://bucket/a@b:c@d", "memory://x", "here/a:b@c"])
def test_what_is_no_password_is_a_place(url: str) -> None:
    assert Settings(checkpoints=url).checkpoint_place == url
