"""The declared actions and surfaces, with the small codes under which kernels and state know them.

A code is written into state, so it never changes its meaning: new names get new codes. It must never be derived from the order of a file.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.errors import SettingsError
from flows.toml_file import read_toml

IMPRESSION, SAVE, GRID_CLICK = "impression", "save", "grid_click"
RELATED_PINS, OWN_PROFILE = "related_pins", "own_profile"

_ACTIONS: dict[str, int] = {
    IMPRESSION: 0,
    "closeup": 1,
    "click": 2,
    "long_click": 3,
    SAVE: 4,
    "hide": 5,
    GRID_CLICK: 6,
}
_SURFACES: dict[str, int] = {
    "homefeed": 0,
    RELATED_PINS: 1,
    "search": 2,
    OWN_PROFILE: 3,
    "notification": 4,
    "other": 5,
}
FIRST_USER_CODE, LAST_CODE = 32, 126


@dataclass(frozen=True)
class Vocabulary:
    """Names and codes of actions and surfaces.

    Parameters
    ----------
    actions, surfaces : mapping of str to int
        Name to code, 0 to 126. The built-in names are always there with their own codes; a user's names take codes from 32.
    """

    actions: Mapping[str, int] = field(default_factory=lambda: dict(_ACTIONS))
    surfaces: Mapping[str, int] = field(default_factory=lambda: dict(_SURFACES))

    @classmethod
    def load(cls, path: Path | None) -> Vocabulary:
        """The built-in vocabulary plus what a TOML file declares.

        The file has tables ``[actions]`` and ``[surfaces]`` of ``name = code``.

        Raises
        ------
        SettingsError
            If the file can't be read, or a name or code clashes.
        """
        if path is None:
            return cls()
        declared = read_toml("vocabulary", path)
        for table in declared:
            if table not in ("actions", "surfaces"):
                raise SettingsError(f"vocabulary {path}: unknown table [{table}]; there are [actions] and [surfaces]")
        return cls(
            _merge(path, "actions", _ACTIONS, declared.get("actions", {})),
            _merge(path, "surfaces", _SURFACES, declared.get("surfaces", {})),
        )

    def fingerprint(self) -> str:
        """16 hex digits that change whenever a name or a code does."""
        text = json.dumps([sorted(self.actions.items()), sorted(self.surfaces.items())])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def action_names(self) -> dict[int, str]:
        """Code to name."""
        return {code: name for name, code in self.actions.items()}

    def surface_names(self) -> dict[int, str]:
        """Code to name."""
        return {code: name for name, code in self.surfaces.items()}


def suggestion(wrong: str, known: Mapping[str, object] | list[str]) -> str:
    """`` (did you mean 'save'?)`` or nothing, to end an error message with."""
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _merge(path: Path, table: str, built_in: dict[str, int], declared: object) -> dict[str, int]:
    if not isinstance(declared, dict):
        raise SettingsError(f"vocabulary {path}: [{table}] must be a table of name = code")
    merged = dict(built_in)
    for name, code in declared.items():
        if name in built_in:
            if built_in[name] == code:
                continue
            raise SettingsError(f"vocabulary {path}: {table} '{name}' is built in with code {built_in[name]}, not {code!r}")
        if type(code) is not int or not FIRST_USER_CODE <= code <= LAST_CODE:
            raise SettingsError(
                f"vocabulary {path}: {table} '{name}' needs a whole code from {FIRST_USER_CODE} to {LAST_CODE}, not {code!r}"
            )
        if code in merged.values():
            raise SettingsError(f"vocabulary {path}: {table} '{name}' has code {code}, which another name has")
        merged[name] = code
    return merged
