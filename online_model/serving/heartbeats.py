"""Keeps SERVED going where nobody is served, and ACTIONS where nobody acts: a thread that appends heartbeats to partitions that lie behind.

It must never hold up an answer, nor end a server: what an append fails with is said once, and tried again.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack

from flows.errors import TidemarkError
from flows.examples.heartbeats import beat, beat_idle
from flows.log import Log
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS, SERVED
from flows.settings import Settings

_log = logging.getLogger(__name__)
_EACH_S = 1.0


class Heartbeats:
    """See the module.

    Parameters
    ----------
    settings : Settings
    each_s : float
        How often it is looked whether anything has moved.
    """

    def __init__(self, settings: Settings, each_s: float = _EACH_S) -> None:
        self._settings, self._each_s = settings, each_s
        self._ended = threading.Event()
        self._trouble: str | None = None
        self._thread = threading.Thread(target=self._work, name="heartbeats", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it; what it is at is not waited for longer than it takes."""
        self._ended.set()
        self._thread.join(10 * self._each_s)

    def _work(self) -> None:
        since, acted = [0] * self._settings.partitions, None
        while not self._ended.wait(self._each_s):
            try:
                # Both have to be there: nobody waits for what was served where nothing ever was.
                if not (log_exists(self._settings, ACTIONS) and log_exists(self._settings, SERVED)):
                    continue
                with ExitStack() as stack:
                    actions = stack.enter_context(open_log(self._settings, ACTIONS))
                    served = stack.enter_context(open_log(self._settings, SERVED))
                    since, acted = self._beat(actions, served, since, acted)
            except TidemarkError as error:
                self._say(str(error))

    def _beat(self, actions: Log, served: Log, since: list[int], acted: list[int] | None) -> tuple[list[int], list[int] | None]:
        """Beat on one pair of open logs until something goes wrong, or this is to end."""
        while True:
            since = beat(actions, served, since)
            acted = beat_idle(actions, acted)
            if self._trouble is not None:
                self._trouble = None
                _log.warning("heartbeats go on")
            if self._ended.wait(self._each_s):
                return since, acted

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("no heartbeats, examples wait for the next request or action of their partition: %s", trouble)
