"""What the last round of a check has found, left beside the data for who looks at all of it later: a page, a person.

For people alone: no command decides by it, and nothing is lost with it. So it never ends a check, not even where there is no room for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.errors import CorruptionError
from flows.sealed import sealed, unsealed
from flows.settings import Settings

AUDIT, SKEW = "audit", "skew"
FORMAT = 1
# Of a file that is ours; what is larger is not read.
_MOST_BYTES = 1 << 20


def tell(settings: Settings, check: str, said: Mapping[str, Any]) -> None:
    """Leave what a round has found, in the place of the one before; in vain where the data directory can't be written.

    Parameters
    ----------
    check : str
        AUDIT or SKEW.
    said : mapping
        JSON, with the greatest list cut short.
    """
    path = _path(settings, check)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    content = sealed({"format": FORMAT, "told_at": time.time_ns() // 1_000_000, "said": said})
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        try:
            draft.write_bytes(content)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def last(settings: Settings, check: str) -> tuple[int, dict[str, Any]] | None:
    """When the last round was told, ms, and what it has found; None if none ever was.

    Raises
    ------
    CorruptionError
        The file is not what was written.
    """
    path = _path(settings, check)
    try:
        with path.open("rb") as file:
            content = unsealed(file.read(_MOST_BYTES))
        if content["format"] != FORMAT:
            raise ValueError(f"it has format {content['format']}, and this Tidemark reads {FORMAT}")
        return int(content["told_at"]), dict(content["said"])
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CorruptionError(f"{path} can't be read ({error}); delete it, the next round of the check writes it anew") from error


def _path(settings: Settings, check: str) -> Path:
    return settings.data / "last" / f"{check}.json"
