"""What a study or an evaluation has found, given to whoever asked: as a page, as JSON, as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click


def give(found: Mapping[str, Any], package: str, as_json: bool, html: Path | None) -> None:
    """Write the page, if one is asked for, and print the rest.

    Parameters
    ----------
    found : mapping
    package : str
        Whose `page.write_page` and `told.show` know it.
    as_json : bool
    html : Path or None

    Raises
    ------
    InputError, StorageFullError
        The page can't be written.
    """
    if html is not None:
        # Matplotlib takes most of a second to import, and only pages need it.
        import_module(f"{package}.page").write_page(found, html)
    if as_json:
        click.echo(json.dumps(found, allow_nan=False))
        return
    import_module(f"{package}.told").show(found)
    if html is not None:
        click.echo(f"{html}: open it in a browser")
