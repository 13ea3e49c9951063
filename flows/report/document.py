"""A document that needs nothing else, no script and no network, and how it is written: whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from flows.errors import InputError, StorageFullError
from flows.replaceable import refuse_special
from flows.report.markup import text, tiles

_DISK_FULL = (28, 27, 122)  # ENOSPC, EFBIG, EDQUOT


def document(title: str, about: str, of_tiles: Iterable[tuple[str, str, str]], parts: Iterable[str], footer: str) -> str:
    """The whole of it.

    Parameters
    ----------
    about : str
        Under the title.
    of_tiles : iterable of (str, str, str)
        As of `markup.tiles`.
    parts : iterable of str
        Sections.
    footer : str
    """
    style = Path(__file__).with_name("page.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        # Without an icon of its own a page on a server makes the browser ask for one.
        f'<title>{text(title)}</title>\n<link rel="icon" href="data:,"/>\n<style>\n{style}</style>\n</head>\n<body>\n'
        f'<header>\n<h1>{text(title)}</h1>\n<p class="about">{text(about)}</p>\n{tiles(of_tiles)}</header>\n'
        f"<main>\n{''.join(parts)}</main>\n<footer><p>{text(footer)}</p></footer>\n</body>\n</html>\n"
    )


def write_document(content: str, out: Path) -> None:
    """Write it; the file is replaced when the new one is whole.

    Raises
    ------
    InputError
        `out` can't be written.
    StorageFullError
        The disk is full.
    """
    if not out.parent.is_dir():
        raise InputError(f"can't write {out}: there is no folder {out.parent}; make it, or give another")
    refuse_special(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        temporary.write_text(content, "utf-8", newline="\n")
        os.replace(temporary, out)
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise StorageFullError(f"{out}: the disk is full ({error.strerror}); nothing was written, free space and run again") from error
        raise InputError(f"can't write {out}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
