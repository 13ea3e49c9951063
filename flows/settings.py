"""Settings of one data directory: a TOML file, overridden by environment variables, frozen once read.

Precedence: option > environment (``TIDEMARK_ALLOWED_LATENESS_MS``…) > ``tidemark.toml`` > default. A name that is not a setting is an
error with the nearest one named, never ignored.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.errors import SettingsError
from flows.toml_file import read_toml
from flows.vocabulary import Vocabulary, suggestion

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
ENVIRONMENT_PREFIX = "TIDEMARK_"
# Environment variables with the prefix that are not settings of a data directory.
_OTHER_VARIABLES = {
    ENVIRONMENT_PREFIX + name for name in ("CONFIG", "REQUIRE", "FOLLOW", "WORKER", "WORKERS", "UNTIL", "PROGRESS", "TOKEN")
}

_PATHS = ("data", "vocabulary", "kafka_options", "archive", "online_options")
_TEXTS = ("kafka", "kafka_prefix", "checkpoints", "online", "online_prefix")
_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,100}")
_ONLINE = re.compile(r"rediss?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/[0-9]{1,5})?/?")


@dataclass(frozen=True)
class Settings:
    """What a user may set. Times are milliseconds.

    Attributes
    ----------
    data : Path
        The data directory; holds logs/, state/, archive/, offline/ and the feature registry.
    partitions : int
        Partitions of every log, fixed when the data directory is created.
    allowed_lateness_ms : int
        L of docs/semantics.md.
    dedup_horizon_ms : int
        H of docs/semantics.md.
    clock_skew_ms : int
        S of docs/semantics.md.
    batch_records : int
        Greatest number of records of a micro-batch. Never changes a result.
    anchor_records : int
        A task saves its working set each time that it has applied so many records; a start replays at most as many. Never changes a result.
    read_cache_mb : int
        What a reader of features keeps of task state in memory, MiB. Never changes a result.
    vocabulary : Path or None
        TOML file with further actions and surfaces.
    kafka : str or None
        Kafka's bootstrap servers, ``host:port,…``; None: the embedded logs in the data directory.
    kafka_prefix : str
        Begins the name of every topic and consumer group.
    kafka_options : Path or None
        File of ``name=value`` lines for the Kafka client (security.protocol, sasl.username, …); a value ``env:NAME`` or ``file:PATH`` is read
        from there, so that the file need not hold a secret.
    kafka_patience_ms : int
        How long to wait for brokers that don't answer before it is an error. Never changes a result.
    archive : Path or None
        Where archived segments of the logs lie; None: archive/ in the data directory.
    checkpoints : str or None
        Where checkpoints of state are kept: a path, or a URL that fsspec knows (``s3://bucket/path``); None: checkpoints/ in the data directory.
    online : str or None
        The Redis that features are served from, ``redis://host:port/database`` (``rediss://``: with TLS); None: task state, where it lies.
    online_prefix : str
        Begins the name of every key in Redis. One prefix is of one data directory.
    online_options : Path or None
        File of ``name=value`` lines for the Redis client (username, password, ssl_ca_certs, …), as `kafka_options` has them.
    """

    data: Path = Path("data")
    partitions: int = 8
    allowed_lateness_ms: int = HOUR_MS
    dedup_horizon_ms: int = HOUR_MS
    clock_skew_ms: int = 5 * 60_000
    batch_records: int = 262_144
    anchor_records: int = 262_144
    read_cache_mb: int = 256
    vocabulary: Path | None = None
    kafka: str | None = None
    kafka_prefix: str = "tidemark."
    kafka_options: Path | None = None
    kafka_patience_ms: int = 5 * 60_000
    archive: Path | None = None
    checkpoints: str | None = None
    online: str | None = None
    online_prefix: str = "tidemark."
    online_options: Path | None = None

    def __post_init__(self) -> None:
        for name, least, most in (
            ("partitions", 1, 4096),
            ("allowed_lateness_ms", 0, 30 * DAY_MS),
            ("dedup_horizon_ms", 0, 30 * DAY_MS),
            ("clock_skew_ms", 0, 30 * DAY_MS),
            ("batch_records", 1, 1 << 22),
            ("anchor_records", 1, 1 << 40),
            ("read_cache_mb", 1, 1 << 20),
            ("kafka_patience_ms", 1_000, DAY_MS),
        ):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise SettingsError(f"setting '{name}' is {value!r}; it must be a whole number from {least} to {most}")
        for name in ("kafka_prefix", "online_prefix"):
            if not _PREFIX.fullmatch(getattr(self, name)):
                raise SettingsError(f"setting '{name}' is '{getattr(self, name)}'; use at most 100 letters, digits, '.', '_' and '-'")
        if self.online is not None and not _ONLINE.fullmatch(self.online):
            # Not repeated: it may hold a password.
            raise SettingsError(
                "setting 'online' must be redis://host:port/database (rediss:// for TLS), without user and password, which go into the file "
                "that 'online_options' names"
            )

    @property
    def logs(self) -> Path:
        """Directory of the logs."""
        return self.data / "logs"

    @property
    def state(self) -> Path:
        """Directory of task state."""
        return self.data / "state"

    @property
    def archives(self) -> Path:
        """Directory of archived segments, one for each log below it."""
        return self.archive if self.archive is not None else self.data / "archive"

    @property
    def checkpoint_place(self) -> str:
        """Path or URL of the directory of checkpoints."""
        return self.checkpoints if self.checkpoints is not None else str(self.data / "checkpoints")

    @property
    def offline(self) -> Path:
        """Directory of the offline store."""
        return self.data / "offline"

    @property
    def registry(self) -> Path:
        """The Feast registry file."""
        return self.data / "registry.db"

    def load_vocabulary(self) -> Vocabulary:
        """The built-in vocabulary, extended by the declared file."""
        return Vocabulary.load(self.vocabulary)

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, to hand them to a child process."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {ENVIRONMENT_PREFIX + k.upper(): str(v) for k, v in values.items() if v is not None}


def load_settings(
    data: str | Path | None = None,
    config: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    **overrides: Any,
) -> Settings:
    """Settings from options, the environment, the config file and defaults, in this order of precedence.

    Parameters
    ----------
    data : path, optional
        ``--data``; otherwise TIDEMARK_DATA, the file's ``data``, ``./data``.
    config : path, optional
        ``--config``; otherwise TIDEMARK_CONFIG, ``./tidemark.toml`` if it is there.
    environment : mapping, optional
        Instead of ``os.environ``.
    **overrides
        Any other setting, None meaning "not given".

    Raises
    ------
    SettingsError
        Unknown name, wrong type, out of range, unreadable file.
    """
    env = os.environ if environment is None else environment
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}

    named = config or env.get("TIDEMARK_CONFIG")
    path = Path(named) if named else Path("tidemark.toml")
    if named or path.exists():
        for name, value in read_toml("config", path).items():
            if name not in fields:
                raise SettingsError(f"config {path}: there is no setting '{name}'{suggestion(name, fields)}; settings: {', '.join(fields)}")
            if name in _PATHS or name in _TEXTS:
                if not isinstance(value, str):
                    raise SettingsError(
                        f"config {path}: '{name}' must be a {'path' if name in _PATHS else 'text'} in quotes, not {value!r}"
                    )
                if name in _PATHS:
                    value = path.parent / value
                elif name == "checkpoints" and "://" not in value:
                    value = str(path.parent / value)
            values[name] = value
            _check(f"config {path}", name, value)

    for variable, text in env.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in _OTHER_VARIABLES or not text:
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name not in fields:
            raise SettingsError(
                f"environment variable {variable}: there is no setting '{name}'{suggestion(name, fields)}; settings: {', '.join(fields)}"
            )
        values[name] = text if name in _PATHS or name in _TEXTS else _whole(variable, text)
        _check(f"environment variable {variable}", name, values[name])

    if data is not None:
        values["data"] = data
    values.update({k: v for k, v in overrides.items() if v is not None})
    for name in _PATHS:
        if values.get(name) is not None:
            values[name] = Path(values[name])
    return Settings(**values)


def _check(where: str, name: str, value: Any) -> None:
    """Refuse a value while it is known where it stands."""
    try:
        Settings(**{name: value})
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None


def _whole(where: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{where} is '{text}'; it must be a whole number") from None
