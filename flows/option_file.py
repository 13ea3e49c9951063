"""Files of `name=value` lines for the client of a server: what must not stand in a setting, where logs and children would see it.

A value `env:NAME` or `file:PATH` is read from there, so that the file itself need not hold a secret. No message repeats a value.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from flows.errors import SettingsError


def option_lines(setting: str, path: Path) -> Iterator[tuple[str, str, str]]:
    """Where each option stands, its name, and its value as it is written.

    Parameters
    ----------
    setting : str
        The setting that names the file, for messages.

    Raises
    ------
    SettingsError
        The file can't be read, or a line is none.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"{setting} {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{setting} {path}: it is no text in UTF-8 (byte {error.start})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not name:
            raise SettingsError(f"{setting} {path}, line {number}: expected name=value")
        yield f"{setting} {path}, line {number}", name, value


def option_value(where: str, value: str) -> str:
    """What a value stands for.

    Raises
    ------
    SettingsError
        The variable is not set, or the file can't be read.
    """
    kind, colon, name = value.partition(":")
    if colon and kind == "env":
        if name not in os.environ:
            raise SettingsError(f"{where}: the environment variable {name} is not set")
        return os.environ[name]
    if colon and kind == "file":
        try:
            return Path(name).read_text("utf-8").rstrip("\n")
        except OSError as error:
            raise SettingsError(f"{where}: {name}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{where}: {name} is no text in UTF-8 (byte {error.start})") from error
    return value
