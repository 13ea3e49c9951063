"""State so small that a little stream reaches everything: runs of few rows merge at once, through several levels, in several blocks and slices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import flows.past
import flows.state.runs
import flows.state.tables
from flows.kernels import reads, rows
from flows.state.runs import RunReader
from tests.oracles import features as oracle

KEPT, LENGTH = 5, 3


@contextmanager
def small(sequences: bool = False) -> Iterator[None]:
    """For a while; `sequences` also makes them LENGTH long, KEPT rows of which are kept, in the oracle too."""
    with ExitStack() as stack:
        for module, name, value in ((flows.state.runs, "FANOUT", 2), (flows.state.runs, "BLOCK_ROWS", 4), (flows.past, "_GATHER", 20)):
            stack.enter_context(mock.patch.object(module, name, value))
        stack.enter_context(mock.patch.object(RunReader.scan, "__defaults__", (8,)))
        if sequences:
            stack.enter_context(mock.patch.object(rows.fold_sequences, "__defaults__", (KEPT,)))
            stack.enter_context(mock.patch.object(reads.newest, "__defaults__", (LENGTH,)))
            stack.enter_context(mock.patch.object(flows.state.tables, "SEQUENCE_LENGTH", LENGTH))
            stack.enter_context(mock.patch.object(oracle.sequences, "__defaults__", (None, LENGTH)))
        yield
