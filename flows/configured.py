"""Configurations out of the plain values that a file or a manifest keeps: a name that isn't known is refused with the nearest one, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from flows.errors import SettingsError
from flows.vocabulary import suggestion

T = TypeVar("T")


def configured(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A configuration of these values, all others being the defaults.

    Parameters
    ----------
    kind : dataclass
        Says itself which values make none.
    values : mapping of field to value
    where : str
        What or whose they are, for messages.

    Raises
    ------
    SettingsError
        A field isn't known, or a value makes no configuration.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise SettingsError(
                f"{where}: there is no setting '{name}'{suggestion(name, known)}; it has {', '.join(known)}, and a newer Tidemark may know more"
            )
    return kind(**values)
