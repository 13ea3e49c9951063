"""A length of time on the command line, as people write it."""

from __future__ import annotations

import re

import click

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")


class Duration(click.ParamType):
    """`250ms`, `1s`, `5m`, `2h`, `7d`: a whole number of a unit, as ms.

    Parameters
    ----------
    most : int
        ms.
    """

    name = "DURATION"

    def __init__(self, most: int) -> None:
        self._most = most

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _DURATION.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"'{value}' is no length of time: give a whole number and a unit, {', '.join(_UNITS)} (1s)", param, ctx)
        length = int(found[1]) * _UNITS[found[2]]
        if length > self._most:
            self.fail(f"'{value}' is more than {self._most // _UNITS['d']}d", param, ctx)
        return length
