"""What the kernel says comes out, with the features that were served: records of EXAMPLES.

Nothing is computed anew, and nothing is read but what was served.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from flows.examples.candidates import ServedStore
from flows.examples.joining import joined
from flows.examples.record import HEADS, MASKED, Kind
from flows.examples.rows import ExampleRows, heartbeats_at, user_features
from flows.kernels.joining import (
    FINAL,
    FINAL_REVISIT,
    HEARTBEAT,
    NEGATIVE,
    POSITIVE,
    REVISIT_HEAD,
    SAVE_HEAD,
    X_HEAD,
    X_INDEX,
    X_KIND,
    X_LABELS,
    X_NUMBER,
    X_PIN,
    X_READY,
    X_SEEN,
    X_TOPIC,
    X_USER,
)
from flows.served_rows import rows_of

_KINDS = {NEGATIVE: Kind.NEGATIVE, POSITIVE: Kind.POSITIVE, FINAL: Kind.FINAL, FINAL_REVISIT: Kind.FINAL}


def labels_of(out: np.ndarray, revisited: np.ndarray) -> np.ndarray:
    """The labels of what comes out: int8[n, 5], in the order of HEADS.

    Parameters
    ----------
    out : int64[n, OUT_COLUMNS]
    revisited : bool[n]
        Of those whose save's label has matured: what it is.
    """
    kind = out[:, X_KIND]
    labels = np.full((len(out), len(HEADS)), MASKED, np.int8)
    labels[kind == NEGATIVE] = 0
    positive = np.flatnonzero(kind == POSITIVE)
    labels[positive, out[positive, X_HEAD]] = 1
    final = np.flatnonzero(kind == FINAL)
    bits = out[final, X_LABELS, None] >> np.arange(len(HEADS)) & 1
    # One that was not saved can't be revisited; of one that was it is not known yet.
    bits[:, REVISIT_HEAD] = np.where(bits[:, SAVE_HEAD] == 1, MASKED, 0)
    labels[final] = bits
    later = np.flatnonzero(kind == FINAL_REVISIT)
    labels[later, REVISIT_HEAD] = revisited[later]
    return labels


def make_rows(
    out: np.ndarray, revisited: np.ndarray, served: ServedStore, surfaces: Mapping[str, int], topics: dict[int, str], where: str
) -> ExampleRows:
    """The records of what comes out, at least one.

    Parameters
    ----------
    out, revisited : int64[n, OUT_COLUMNS], bool[n]
        As of `labels_of`.
    served : ServedStore
    surfaces : mapping of str to int
        Codes of the vocabulary.
    topics : dict of int to str
        Names by ID.
    where : str
        Log and partition, for messages.
    """
    beats = out[:, X_KIND] == HEARTBEAT
    if not beats.any():
        return _examples(out, revisited, served, surfaces, topics, where)
    rows = heartbeats_at(out[beats, X_READY])
    if not beats.all():
        examples = _examples(out[~beats], revisited[~beats], served, surfaces, topics, where)
        place = np.argsort(np.concatenate([np.flatnonzero(beats), np.flatnonzero(~beats)]))
        rows = joined([rows, examples]).take(place)
    return rows


def _examples(
    out: np.ndarray, revisited: np.ndarray, served: ServedStore, surfaces: Mapping[str, int], topics: dict[int, str], where: str
) -> ExampleRows:
    numbers, request = np.unique(out[:, X_NUMBER], return_inverse=True)
    rows = rows_of(served.records(numbers), where)
    pin = rows.pin_offsets[request] + out[:, X_INDEX]
    kinds = np.array([_KINDS[kind] for kind in range(len(_KINDS))], np.int8)
    codes = np.array([surfaces.get(name, -1) for name in rows.surfaces] + [-1], np.int16)
    used, topic = np.unique(out[:, X_TOPIC], return_inverse=True)
    return ExampleRows(
        ready_time=out[:, X_READY].copy(),
        kind=kinds[out[:, X_KIND]],
        request_id=pa.array(rows.request_id, pa.string()).take(pa.array(request)),
        user_id=out[:, X_USER].copy(),
        pin_id=out[:, X_PIN].copy(),
        surface=codes[rows.surface[request]],
        topic=np.where(used == 0, -1, np.cumsum(used != 0) - 1)[topic].astype(np.int32),
        topics=tuple(topics[t] for t in used.tolist() if t),
        request_time=rows.timestamp[request],
        impression_time=out[:, X_SEEN].copy(),
        slot=rows.slot[pin],
        propensity=rows.propensity[pin],
        explored=rows.explored[pin],
        score=rows.score[pin],
        base=rows.base[request],
        delta=rows.delta[request],
        labels=labels_of(out, revisited),
        fingerprint=rows.fingerprint[request],
        fingerprints=rows.fingerprints,
        position=rows.prefix[request],
        positions=rows.prefixes,
        as_of=np.where((rows.prefix < 0) & (rows.as_of == 0), -1, rows.as_of)[request],
        pin_counters=rows.pin_counters[pin],
        request=request.astype(np.int32),
        users=user_features(rows.user_counters, rows.sequence_offsets, rows.sequence),
    )
