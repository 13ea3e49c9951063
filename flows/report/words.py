"""Numbers as words: one way to write each kind, on the page and in the terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flows.settings import DAY_MS, HOUR_MS

_THIN = "\u202f"  # narrow and unbreakable
_MINUTE_MS = 60_000


def number(n: int) -> str:
    """12 345."""
    return f"{n:,}".replace(",", _THIN)


def share(value: float, digits: int = 2) -> str:
    """12.34 %."""
    return f"{value:.{digits}f}{_THIN}%"


def points(value: float, digits: int = 2) -> str:
    """+0.12 or −0.12; what comes to 0 has no sign."""
    rounded = round(value, digits)
    sign = "+" if rounded > 0 else "\u2212" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}"


def moment(ms: int) -> str:
    """2024-01-31 23:59:59 UTC."""
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms):%Y-%m-%d %H:%M:%S} UTC"


def day(days: int) -> str:
    """2024-01-31, of days since 1970-01-01."""
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days):%Y-%m-%d}"


def span(ms: int) -> str:
    """90 min, 4 h, 2 d: the coarsest unit that says it exactly."""
    for size, unit in ((DAY_MS, "d"), (HOUR_MS, "h"), (_MINUTE_MS, "min"), (1000, "s")):
        if ms >= size and ms % size == 0:
            return f"{number(ms // size)}{_THIN}{unit}"
    return f"{number(ms)}{_THIN}ms"


def plain(text: str) -> str:
    """Text of a user's data, without the characters that no document may hold."""
    return "".join(c if c >= " " and not "\x7f" <= c <= "\x9f" and c not in "\ufffe\uffff" else "\ufffd" for c in text)
