"""The baseline with Bytewax's own recovery, as a user has it who may not lose state: the like-for-like of committed state."""

from __future__ import annotations

from benchmarks import _idiomatic


class Contestant(_idiomatic.Contestant):
    """See the module."""

    durable = True
