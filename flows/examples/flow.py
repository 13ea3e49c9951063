"""The examples flow, as a Bytewax dataflow: `python -m bytewax.run "flows.examples.flow:flow(follow=True)"`."""

from __future__ import annotations

from bytewax.dataflow import Dataflow

from flows.dataflow.joining import build_examples


def flow(follow: bool | None = None) -> Dataflow:
    """Examples; of all that both logs have now unless it follows them."""
    return build_examples(follow)
