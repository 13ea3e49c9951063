"""A command that ends before its n-th change of the disk, as if killed there: ``python -m replay.drill.killed N WORDS…``.

What the command is at needs no help for that, and nothing of it is left in place of it.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any

_CHANGES = ("open", "fsync", "rename", "unlink", "rmdir", "mkdir")


def kill_before(number: int) -> None:
    """Have this process killed before its n-th change of the disk."""
    left = number

    def counted(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            # What is only read changes nothing.
            if name != "open" or (len(arguments) > 1 and arguments[1] & os.O_CREAT):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return call

    for name in _CHANGES:
        setattr(os, name, counted(getattr(os, name), name))


if __name__ == "__main__":
    # Before: what is loaded may write to a cache.
    import online_model.registry.commands.changing  # noqa: F401

    kill_before(int(sys.argv[1]))
    sys.argv = ["tidemark", *sys.argv[2:]]
    runpy.run_module("tidemark", run_name="__main__")
