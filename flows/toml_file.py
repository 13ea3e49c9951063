"""Reads the TOML files that a user writes. What is wrong with one is said in plain words, with its name; it never decides what a name means."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from flows.errors import SettingsError


def read_toml(what: str, path: Path) -> dict[str, Any]:
    """The content of a file.

    Parameters
    ----------
    what : str
        What the file is, for messages.
    path : Path

    Raises
    ------
    SettingsError
        It isn't there, can't be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{what} {path}: there is no such file") from None
    except OSError as error:
        raise SettingsError(f"{what} {path}: it can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{what} {path}: it is no text in UTF-8 (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{what} {path}: it is no TOML: {error}") from error
