"""What `tidemark features served` does: the log of what was served as an entity frame, a row for each entity of each request.

The rows have the columns by which `feature_repo.entity_frame` takes them back to the very prefix that they were served from.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from feature_repo.entity_frame import AS_OF, FINGERPRINT, POSITIONS, TIMESTAMP
from flows.export import write_tables
from flows.served_rows import ServedRows
from flows.settings import Settings
from flows.skew.served import Chosen, Question, open_served

_KEYS = {"user": ("user_id", pa.int64()), "pin": ("pin_id", pa.int64()), "topic": ("topic", pa.string())}


def write_served_frame(settings: Settings, entity: str, first: int | None, until: int | None, out: Path) -> int:
    """Write the requests of a period; returns the number of rows.

    Parameters
    ----------
    entity : str
        user, pin or topic.
    first, until : int or None
        Time of the request, ms: from the first on, before the second.

    Raises
    ------
    DataDirectoryError
        Nothing was ever served.
    InputError, StorageFullError
        The file can't be written.
    """
    with open_served(settings) as log:
        tables = (_rows(served, entity) for served in Chosen(log, Question(first, until)).stretches())
        return write_tables(out, _schema(entity), tables, {})


def _schema(entity: str) -> pa.Schema:
    return pa.schema(
        [
            ("request_id", pa.string()),
            _KEYS[entity],
            (TIMESTAMP, pa.timestamp("ms", "UTC")),
            (POSITIONS, pa.binary()),
            (AS_OF, pa.int64()),
            (FINGERPRINT, pa.string()),
        ]
    )


def _rows(served: ServedRows, entity: str) -> pa.Table:
    keys: np.ndarray | list[str]
    if entity == "user":
        record, keys = np.flatnonzero(served.has_user), served.user_id[served.has_user]
    else:
        offsets, keys = (served.pin_offsets, served.pin_id) if entity == "pin" else (served.topic_offsets, served.topic)
        record = np.repeat(np.arange(len(served)), np.diff(offsets))
    # Where nothing was read there is no prefix to go back to, and a row without one would be taken for a training row.
    known = served.prefix[record] >= 0
    record = record[known]
    return pa.table(
        [
            pa.array(served.request_id, pa.string()).take(pa.array(record)),
            pa.array(keys, _KEYS[entity][1]).filter(pa.array(known)),
            pa.array(served.timestamp[record]).cast(pa.timestamp("ms", "UTC")),
            pa.array(served.prefixes, pa.binary()).take(pa.array(served.prefix[record])),
            pa.array(served.as_of[record]),
            pa.array(served.fingerprints, pa.string()).take(pa.array(served.fingerprint[record])),
        ],
        schema=_schema(entity),
    )
