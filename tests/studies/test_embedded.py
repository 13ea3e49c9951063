"""Embeddings that a study keeps: found again only as long as pins' vectors would come out the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from online_model.embedding.config import EmbeddingConfig
from online_model.studies import embedded


def test_embeddings_are_made_anew_once_pins_vectors_are_made_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(stream: Any, config: Any, begin: int, until: int, draft: Path, progress: Any) -> None:
        made.append(begin)
        draft.mkdir()

    monkeypatch.setattr(embedded, "_make", make)
    monkeypatch.setattr(embedded, "taken_of", lambda place, version: None)
    monkeypatch.setattr(embedded, "ServedVectors", lambda place, taken: place)

    def place() -> Any:
        return embedded.embedding_of(SimpleNamespace(digest="history"), EmbeddingConfig(), 1, 2, tmp_path)  # type: ignore[arg-type]

    first = place()
    assert place() == first
    assert made == [1]
    monkeypatch.setattr(embedded, "MADE", embedded.MADE + 1)
    assert place() != first
    assert made == [1, 1]
