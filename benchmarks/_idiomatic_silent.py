"""The baseline that keeps its state in memory and its features to itself; see benchmarks/_idiomatic.py."""

from __future__ import annotations

from benchmarks import _idiomatic


class Contestant(_idiomatic.Contestant):
    """The same flow, but nothing is stored and no feature goes out."""

    serving = False
