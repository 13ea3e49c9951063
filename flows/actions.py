"""The actions flow, as a Bytewax dataflow: `python -m bytewax.run flows.actions:flow`, or "flows.actions:flow(follow=True)"."""

from __future__ import annotations

from bytewax.dataflow import Dataflow

from flows.dataflow.graph import build


def flow(follow: bool | None = None) -> Dataflow:
    """The actions flow; up to the present end of its log unless it follows."""
    return build(["actions"], follow)
