"""A time on the command line, as scripts and people write it."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import click

# As many digits as any of them is 64 bits wide.
_MILLISECONDS = re.compile("-?[0-9]{1,18}")


class Time(click.ParamType):
    """Milliseconds since 1970, or ISO 8601: `2026-11-29`, `2026-11-29T12:00`, `…+02:00`; without a zone it is UTC."""

    name = "T"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value)
        if _MILLISECONDS.fullmatch(text) and len(text) > 8:
            return int(text)
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"'{text}' is no time: give ISO 8601 (2026-11-29T12:00Z) or milliseconds since 1970", param, ctx)
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
