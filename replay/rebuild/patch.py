"""The file of `--patch`: corrected events, each in place of the one with its user_id and event_id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from flows.decode import Decoder
from flows.errors import InputError
from flows.events import EVENT_SCHEMA
from flows.ingest.normalise import normalise
from flows.ingest.options import IngestOptions
from flows.ingest.producer import check_file
from flows.partition import partition_of
from flows.vocabulary import Vocabulary


@dataclass(frozen=True)
class Patch:
    """Corrected events of one partition.

    Attributes
    ----------
    events : RecordBatch
        EVENT_SCHEMA.
    keys : pandas.MultiIndex
        (event_id, user_id) of each.
    """

    events: pa.RecordBatch
    keys: pd.MultiIndex

    def rows_for(self, event_id: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        """Which of the events takes the place of each record, -1 for none: int64[n]."""
        found = np.full(len(event_id), -1, np.int64)
        near = np.flatnonzero(np.isin(event_id, self.keys.get_level_values(0).to_numpy()))
        found[near] = self.keys.get_indexer(pd.MultiIndex.from_arrays([event_id[near], user_id[near]]))
        return found


def read_patch(path: Path, options: IngestOptions, vocabulary: Vocabulary, partitions: int) -> dict[int, Patch]:
    """Corrected events by partition, from a file of any kind that `tidemark ingest` takes.

    Raises
    ------
    InputError
        It can't be read, names no event_id, or holds what would be no event in the log.
    """
    file = check_file(path, options)
    if "event_id" not in file.source.names:
        raise InputError(f"{path}: a patch needs the column event_id, for by that and its user an event is found (--columns event_id=NAME)")
    batches: list[pa.RecordBatch] = []
    for chunk in file.source.chunks(0):
        if chunk.unreadable:
            raise InputError(f"{path}: row {chunk.unreadable[0][0] + 1} can't be read")
        for frame in chunk.frames:
            made = normalise(frame, options, file.source.digits, file.digest, None)
            if made.raw:
                raise InputError(f"{path}: row {made.raw[0].row + 1} is no event: {made.raw[0].value[:200].decode('utf-8', 'replace')}")
            columns = Decoder(vocabulary).decode(made.events)
            if columns.faults:
                i, (reason, detail) = min(columns.faults.items())
                raise InputError(f"{path}: row {int(made.rows[i]) + 1} is no event that counts: {reason} ({detail})")
            batches.append(made.events)
    if not batches:
        raise InputError(f"{path} holds no events")
    table = pa.Table.from_batches(batches, EVENT_SCHEMA).unify_dictionaries()
    keys = pd.MultiIndex.from_arrays([table.column(name).to_numpy() for name in ("event_id", "user_id")])
    if not keys.is_unique:
        event, user = keys[keys.duplicated()][0]
        raise InputError(f"{path}: event {event} of user {user} is there twice")
    homes = partition_of(table.column("user_id").to_numpy(), partitions)
    patches = {}
    for partition in np.unique(homes).tolist():
        at = np.flatnonzero(homes == partition)
        patches[partition] = Patch(table.take(pa.array(at)).combine_chunks().to_batches()[0], keys[at])
    return patches
