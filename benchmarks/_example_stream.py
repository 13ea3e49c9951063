"""Made-up records of EXAMPLES as a log has them: a negative when a pin is seen, positives as outcomes come, final labels when they can't change.

For measuring and for tests of who learns online.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flows.examples.joining import joined
from flows.examples.record import HEADS, MASKED, OUTCOME_WINDOW_MS, Kind
from flows.examples.rows import ExampleRows
from flows.partition import partition_of

_WEEK_MS = 7 * 24 * 3_600_000
_SAVE, _REVISIT = HEADS.index("save"), HEADS.index("revisit")


def stream(final: ExampleRows, seed: int = 0) -> ExampleRows:
    """All records of some examples, by when they became known.

    Parameters
    ----------
    final : ExampleRows
        Of `benchmarks._examples.examples`: each with all labels.
    seed : int
        Of how long outcomes take.
    """
    rng = np.random.default_rng(seed)
    seen, n = final.impression_time, len(final)
    kinds = [replace(final, kind=np.full(n, Kind.NEGATIVE, np.int8), labels=np.zeros_like(final.labels), ready_time=seen + 100)]
    for head in range(len(HEADS)):
        came = np.flatnonzero(final.labels[:, head] == 1)
        within = _WEEK_MS if head == _REVISIT else OUTCOME_WINDOW_MS
        after = (within * rng.random(len(came)) ** 2).astype(np.int64)
        labels = np.full((len(came), len(HEADS)), MASKED, np.int8)
        labels[:, head] = 1
        some = final.take(came)
        kinds.append(replace(some, kind=np.full(len(came), Kind.POSITIVE, np.int8), labels=labels, ready_time=seen[came] + 200 + after))
    labels = final.labels.copy()
    labels[:, _REVISIT] = np.where(final.labels[:, _SAVE] == 1, MASKED, 0)
    kinds.append(replace(final, labels=labels, ready_time=seen + OUTCOME_WINDOW_MS))
    saved = final.take(final.labels[:, _SAVE] == 1)
    labels = np.full((len(saved), len(HEADS)), MASKED, np.int8)
    labels[:, _REVISIT] = saved.labels[:, _REVISIT]
    kinds.append(replace(saved, labels=labels, ready_time=saved.impression_time + OUTCOME_WINDOW_MS + _WEEK_MS))
    whole = joined(kinds)
    return whole.take(np.argsort(whole.ready_time, kind="stable"))


def partitioned(rows: ExampleRows, partitions: int) -> list[ExampleRows]:
    """The same, in the partition of each user."""
    partition = partition_of(rows.user_id, partitions)
    return [rows.take(np.flatnonzero(partition == p)) for p in range(partitions)]
