"""Where pins for a user come from; apart from what finds them, so that whoever only tells of it needs no index library."""

from __future__ import annotations

from enum import StrEnum


class Source(StrEnum):
    """Where pins come from."""

    EMBEDDING = "embedding"
    """The nearest to the user's vector."""
    POPULAR = "popular"
    """The user has no vector: what was acted on the most of late, the same for everybody."""
