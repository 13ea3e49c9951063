"""JSON documents that bear their own digest: what is read back is what was written, or it is refused by whoever reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson


def digest_of(content: Mapping[str, Any]) -> str:
    """BLAKE2b, 16 bytes in hex, of a document: whatever the order of its keys."""
    data = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def sealed(content: Mapping[str, Any]) -> bytes:
    """A document with its digest, as a file holds it."""
    # Tuples and lists are the same in JSON.
    plain = orjson.loads(orjson.dumps(content))
    return orjson.dumps(plain | {"digest": digest_of(plain)}, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


def unsealed(data: bytes) -> dict[str, Any]:
    """What `sealed` made a file of; the digest is still in it.

    Raises
    ------
    ValueError
        It is none, or another one.
    """
    content = orjson.loads(data)
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    rest = {key: value for key, value in content.items() if key != "digest"}
    if content.get("digest") != digest_of(rest):
        raise ValueError("its digest is another")
    return content
