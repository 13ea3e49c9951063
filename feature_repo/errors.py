"""What this package refuses to do, as errors of the project's one tree."""

from __future__ import annotations

from flows.errors import TidemarkError


class StateIsWrittenByItsLogError(TidemarkError):
    """Somebody asked Feast to write features that only the flows may write."""

    exit_code = 2

    def __init__(self, view: str, action: str) -> None:
        super().__init__(
            f"feature view '{view}': {action} is refused. Its values are task state, which is written by its log alone, so that it stays a "
            "function of a log prefix. The flows keep it current by themselves (`tidemark run`); to change it, append events to the log."
        )


class FeastReadError(TidemarkError):
    """A read through Feast asks for what task state doesn't hold."""

    exit_code = 2


class HistoricalReadError(TidemarkError):
    """A historical read through Feast asks for what can't be given, or its entity frame is not as it must be."""

    exit_code = 2
