"""The examples of a window, read from the offline store into columns. A window that doesn't fit into what memory is allowed is refused, not cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from flows import stopping
from flows.examples.rows import ExampleRows
from flows.examples.store import Examples, Fingerprints, final_rows
from online_model.model.served_vectors import ServedVectors
from online_model.retrain.errors import EmptyWindowError, ExamplesTooLargeError
from online_model.training.errors import TrainingStoppedError
from online_model.training.examples import TrainingExamples

EXAMPLE_BYTES, ACTION_BYTES = 160, 18
"""What an example takes as columns, and each action of its request, of which a request's examples have one set."""


def read_window(
    examples: Examples,
    begin: Sequence[int],
    end: Sequence[int],
    fingerprint: str,
    memory_bytes: int,
    told: Callable[[int, int], None] = lambda done, total: None,
    every: Fingerprints | None = None,
    vectors: ServedVectors | None = None,
) -> TrainingExamples | None:
    """The final rows of [begin, end), by partition and offset; None if there are none.

    Parameters
    ----------
    examples : Examples
    begin, end : sequence of int
    fingerprint : str
        What features must have been made under.
    memory_bytes : int
        What the columns may take.
    told : callable
        Told rows read, and records in all, of which final rows are a part.
    every : Fingerprints, optional
        What says of which other fingerprints rows are taken too.
    vectors : ServedVectors, optional
        For a model that takes user embeddings.

    Raises
    ------
    ExamplesTooLargeError
    FingerprintError, CorruptionError
        As of `flows.examples.store.final_rows`.
    TrainingStoppedError
    """
    total, done, held = sum(end) - sum(begin), 0, 0

    def chunks() -> Iterator[ExampleRows]:
        nonlocal done, held
        for rows in final_rows(examples, begin, end, every or fingerprint):
            if stopping.requested():
                raise TrainingStoppedError("retrain: stopped while examples were read; the same command goes on")
            done += len(rows)
            held += EXAMPLE_BYTES * len(rows) + ACTION_BYTES * len(rows.users.sequence)
            if vectors is not None:
                # At most: requests of one user and table share a vector.
                held += 4 * (vectors.taken.dim + 1) * len(rows.users)
            if held > memory_bytes:
                raise ExamplesTooLargeError(
                    f"retrain: {done:,} of the window's at most {total:,} examples take {held / 2**20:,.0f} MiB, and no more than "
                    f"{memory_bytes / 2**20:,.0f} MiB is allowed; allow more (--memory), or begin later (--from)"
                )
            told(done, total)
            yield rows

    rows = chunks()
    first = next(rows, None)
    if first is None:
        return None

    def whole() -> Iterator[ExampleRows]:
        yield first
        yield from rows

    return TrainingExamples.of(whole(), fingerprint, several=every is not None, vectors=vectors)


def refuse_empty(read: TrainingExamples | None, where: str) -> TrainingExamples:
    """What was read.

    Raises
    ------
    EmptyWindowError
        Nothing was.
    """
    if read is None:
        raise EmptyWindowError(
            f"retrain: no label has matured {where}; labels mature 30 minutes after a pin was seen, saves a week later: is `tidemark examples run` "
            "at work, or has `tidemark backfill` been run?"
        )
    return read
