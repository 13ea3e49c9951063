"""Whether a file that is written whole may take the place of what is there."""

from __future__ import annotations

import os
from pathlib import Path

from flows.errors import InputError


def refuse_special(path: Path) -> None:
    """Refuse what is there and is no regular file: a new file in its place would take away a device, a pipe or a directory.

    Raises
    ------
    InputError
        It is one.
    """
    if os.path.exists(path) and not path.is_file():
        raise InputError(f"can't write {path}: it is there, and it is no regular file that could be replaced; name another")
