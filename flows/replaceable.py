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


def refuse_unwritable(*paths: Path | None) -> None:
    """Refuse files that could not be written at the end, before all the work; None is passed over.

    Raises
    ------
    InputError
        The directory of one isn't there, or it would take the place of what is no regular file.
    """
    for path in paths:
        if path is None:
            continue
        if not path.absolute().parent.is_dir():
            raise InputError(f"can't write {path}: there is no directory {path.absolute().parent}; make it, or name another file")
        refuse_special(path)
