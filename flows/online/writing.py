"""Writes of one task's hash: rows and mark at once, and only over the mark that the writer has seen.

So of two writers one finds that it was overtaken, whatever the order in which they write; nothing that one has read before it was overtaken gets in.
A hash that is made anew grows under a name of its own and takes the old one's place in one step: no reader ever sees a mix, and a writer that is
killed leaves the old one as it was.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from itertools import chain

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import WatchError

from flows.online.held import MARK, Pairs

# Of one command: some 2 MB of sequences. Redis serves others between two commands of a hash in the making.
_PAIRS = 2_000
# How long Redis keeps what a killed writer has left, from its last command.
_DRAFT_S = 600


def seen_mark(client: Redis, key: str) -> bytes | None:
    """The mark that is there, None without a hash."""
    found: bytes | None = client.hget(key, MARK.decode())  # type: ignore[assignment]
    return found


def change(client: Redis, key: str, seen: bytes, mark: bytes, pairs: Pairs, gone: list[bytes]) -> bool:
    """Write the rows of entities that have changed, and the mark that they reflect; False, with nothing done, if the mark is no longer `seen`."""
    with client.pipeline(transaction=True) as pipeline:
        if not _still(pipeline, key, seen):
            return False
        pipeline.multi()
        for at in range(0, len(pairs), _PAIRS):
            pipeline.hset(key, items=pairs[at : at + _PAIRS])
        for at in range(0, len(gone), _PAIRS):
            pipeline.hdel(key, *gone[at : at + _PAIRS])
        pipeline.hset(key, items=[MARK, mark])
        return _done(pipeline)


def replace(client: Redis, key: str, seen: bytes | None, mark: bytes, parts: Iterable[Pairs]) -> tuple[bool, int]:
    """Make a task's hash anew, in place of the one with the mark `seen`, if there is one.

    Returns
    -------
    done : bool
        False, with the old one in its place, if its mark is no longer `seen`.
    fields : int
        How many fields were written.
    """
    draft, fields = f"{key}.draft.{uuid.uuid4().hex}", 0
    try:
        for pairs in chain(parts, [[MARK, mark]]):
            for at in range(0, len(pairs), _PAIRS):
                with client.pipeline(transaction=False) as pipeline:
                    pipeline.hset(draft, items=pairs[at : at + _PAIRS])
                    pipeline.expire(draft, _DRAFT_S)
                    pipeline.execute()
            fields += len(pairs) // 2
        with client.pipeline(transaction=True) as pipeline:
            # Had it run out, or been evicted, between two of our commands, it would lack what came before.
            if not _still(pipeline, key, seen, draft) or pipeline.hlen(draft) != fields:
                return False, fields
            pipeline.multi()
            pipeline.persist(draft)
            if seen is not None:
                # Not overwritten by the other, which would free it at once, while all others wait.
                pipeline.rename(key, f"{draft}.old")
            pipeline.rename(draft, key)
            pipeline.unlink(f"{draft}.old")
            return _done(pipeline), fields
    finally:
        client.unlink(draft)


def remove(client: Redis, keys: Iterable[str]) -> None:
    """Remove hashes of tasks that are no more."""
    client.unlink(*keys)


def _still(pipeline: Pipeline, key: str, seen: bytes | None, *others: str) -> bool:
    """Have what follows done only if nobody changes the hash meanwhile, and see that nobody has."""
    pipeline.watch(key, *others)
    return pipeline.hget(key, MARK.decode()) == seen


def _done(pipeline: Pipeline) -> bool:
    try:
        pipeline.execute()
    except WatchError:
        return False
    return True
