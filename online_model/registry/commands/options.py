"""What the commands of `tidemark models` share: the log of deltas, options, the clock that stamps a switch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import click
from rich.console import Console

from flows.open_log import log_exists, open_log
from flows.outputs import EMBEDDINGS
from flows.settings import Settings
from online_model.deltas.chain import holds
from online_model.deltas.record import PARTITION
from online_model.deltas.writer import fence
from online_model.registry.registry import Fits

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
DRY = click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
BASE = click.IntRange(1)


class Share(click.ParamType):
    """A share of the users: 0.05, 5%."""

    name = "SHARE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = 0.0
        if not 0.0001 <= share <= 0.9999:
            self.fail(f"'{text}' is no share of the users: give 0.05 or 5%, from 0.01% to 99.99%", param, ctx)
        return share


@contextmanager
def deltas(settings: Settings, left: int | None = None) -> Iterator[tuple[int, Fits]]:
    """Where EMBEDDINGS ends, and whether a snapshot is of what it holds; without that log no snapshot is.

    Parameters
    ----------
    left : int, optional
        A base whose learner puts out nothing more behind that end.
    """
    if not log_exists(settings, EMBEDDINGS):
        yield 0, lambda snapshot: False
        return
    with open_log(settings, EMBEDDINGS, read_only=left is None) as log:
        end = log.end_position(PARTITION) if left is None else fence(log, left)
        yield end, lambda snapshot: holds(log, snapshot.point)


@contextmanager
def working(quiet: bool, what: str) -> Iterator[None]:
    """Says what is at work while it is, where somebody looks."""
    console = Console(stderr=True)
    with nullcontext() if quiet or not console.is_terminal else console.status(what):
        yield


def now() -> int:
    """Wall clock, ms since 1970: stamps a switch, and decides nothing."""
    return time.time_ns() // 1_000_000
