"""The processes of a Bytewax cluster (`-i`, `-a`) stop together: none could end alone, for its tasks wait for the partitions that others read.

Whoever is asked to stop says so in a consumer group of ACTIONS, where the others look for it. `tidemark run` tells its workers itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from flows import stopping
from flows.errors import TidemarkError
from flows.log import Log
from flows.outputs import ACTIONS

STOP = f"{ACTIONS}.stop"
_ASK_SECONDS = 1.0


def clear_stop(actions: Log) -> None:
    """Before the first process of a cluster starts: nobody is to stop yet."""
    actions.commit_group(STOP, {0: 0})


def stop_together(open_actions: Callable[[], Log]) -> None:
    """Stop this process when another of its cluster is asked to, and the others when this one is."""
    threading.Thread(target=_watch, args=(open_actions,), name="stopping-together", daemon=True).start()


def _watch(open_actions: Callable[[], Log]) -> None:
    actions: Log | None = None
    asked = False
    while True:
        asked = asked or stopping.wait(_ASK_SECONDS)
        # A broker that is away now is asked again.
        with suppress(TidemarkError):
            actions = actions or open_actions()
            if asked:
                actions.commit_group(STOP, {0: 1})
                return
            if actions.group_positions(STOP).get(0):
                stopping.request()
                return
