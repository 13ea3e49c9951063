"""Both flows in one dataflow: `python -m bytewax.run flows.all:flow`, or "flows.all:flow(follow=True)"."""

from __future__ import annotations

from bytewax.dataflow import Dataflow

from flows.dataflow.graph import FLOWS, build


def flow(follow: bool | None = None) -> Dataflow:
    """Actions and revisits; up to the present end of the actions log unless it follows."""
    return build(FLOWS, follow)
