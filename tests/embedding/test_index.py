"""The index against exact search; an index is never of other vectors, and what is damaged is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.sealed import sealed, unsealed
from online_model.embedding import index
from online_model.embedding.errors import DamagedIndexError
from online_model.embedding.index import GRAPH, MANIFEST, VECTORS, exact, numbers, open_index, share_of, write_index


def units(seed: int, n: int, d: int = 24) -> np.ndarray:
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((20, d))
    x = topics[rng.integers(0, 20, n)] + rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def made(version: Path, seed: int = 1, n: int = 2_000, **changes: Any) -> index.PinIndex:
    how = {"number_of_version": 1, "digest": "d" * 32, "source": "s" * 32, "queries": units(seed + 100, 50)} | changes
    return write_index(version, pin_ids=np.arange(n) * 3 - 100, vectors=units(seed, n), **how)


def test_exact_search_is_a_sort_of_all_products() -> None:
    of, queries = units(1, 300), units(2, 7)
    found = exact(queries, of, 10)
    for query, places in zip(queries, found, strict=True):
        products = [float(np.dot(query, row)) for row in of]
        assert sorted(products, reverse=True)[:10] == pytest.approx([products[place] for place in places])


def test_it_finds_what_exact_search_finds(tmp_path: Path) -> None:
    """Nearly: and how nearly stands in the manifest."""
    vectors, queries = units(1, 2_000), units(101, 50)
    found = made(tmp_path)
    right = exact(queries, vectors, 100)
    places, products = found.nearest(queries, 100)
    hits = np.mean([len(set(a) & set(b)) for a, b in zip(places.tolist(), right.tolist(), strict=True)]) / 100
    assert found.manifest.recall == {"at": 100, "queries": 50, "share": pytest.approx(hits)}
    assert hits > 0.95
    assert share_of(found.graph, vectors, queries) == pytest.approx(hits)
    assert np.allclose(products, np.einsum("qd,qkd->qk", queries, vectors[places]), atol=1e-5)
    assert (np.diff(products, axis=1) <= 1e-6).all()
    # A graph that is cut short finds less: the measure can fail.
    assert share_of(found.graph, units(2, 2_000), queries) < 0.5


def test_the_same_vectors_are_the_same_index(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one"), made(tmp_path / "other")
    for name in (GRAPH, VECTORS, MANIFEST):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name
    assert (made(tmp_path / "third", 2).path / GRAPH).read_bytes() != (one.path / GRAPH).read_bytes()


@pytest.mark.parametrize("n", [1, 2, 90])
def test_of_few_pins_all_are_found(n: int, tmp_path: Path) -> None:
    places, _ = made(tmp_path, n=n).nearest(units(5, 3), 100)
    assert places.shape == (3, n)
    assert all(sorted(row) == list(range(n)) for row in places.tolist())


@pytest.mark.parametrize("different", [1, 30])
def test_of_pins_with_the_same_vectors_as_many_are_found_as_are_asked_for(different: int, tmp_path: Path) -> None:
    n = 3_000
    vectors, queries = units(1, different)[np.arange(n) % different], units(101, 50)
    made_ = write_index(tmp_path, 1, "d" * 32, "s" * 32, np.arange(n), vectors, queries)
    assert made_.manifest.index["kind"] == "exact"
    assert made_.manifest.index["graph_share"] < 0.95
    assert made_.manifest.recall["share"] == 1
    exactly = np.sort(queries @ vectors.T, axis=1)[:, ::-1]
    # As an older Tidemark wrote it: the graph, whatever it finds.
    older = replace(made_, graph=index.build(vectors))
    for k in (10, 100, 1_000, 5_000):
        for one in (made_, older) if k > 100 else (made_,):
            places, products = one.nearest(queries, k)
            assert all(len(set(row)) == min(k, n) for row in places.tolist())
            assert places.min() >= 0
            assert np.allclose(products, exactly[:, :k], atol=1e-5)


def test_the_share_that_is_found_is_counted_plainly() -> None:
    """Eighths and few directions: ties are ties, and one is as good as another."""
    rng = np.random.default_rng(2)
    vectors, queries = ((rng.integers(-2, 3, (n, 4)) / 8).astype(np.float32) for n in (400, 20))
    vectors[200:] = 0
    graph = index.build(vectors)
    for k in (5, 150):
        places, hits = index.found(graph, queries, k)[0], 0
        for query, row in zip(queries, places.tolist(), strict=True):
            products = [float(query @ one) for one in vectors]
            least = sorted(products, reverse=True)[k - 1]
            hits += sum(place >= 0 and products[place] >= least for place in row)
        assert share_of(graph, vectors, queries, k) == pytest.approx(hits / (k * len(queries)))


def test_older_ones_go_and_numbers_are_given_once(tmp_path: Path) -> None:
    paths = [made(tmp_path, seed, 50).path for seed in range(4)]
    assert numbers(tmp_path) == [3, 4]
    assert open_index(tmp_path).path == paths[-1].resolve() or open_index(tmp_path).path == paths[-1]
    (tmp_path / "pins" / ".draft-9").mkdir()
    assert made(tmp_path, 9, 50).manifest.number == 5
    assert sorted(entry.name for entry in (tmp_path / "pins").iterdir()) == ["4", "5"]


@pytest.mark.parametrize("name", [GRAPH, VECTORS])
@pytest.mark.parametrize("how", ["flip", "cut", "gone", "link"])
def test_what_is_damaged_is_said(name: str, how: str, tmp_path: Path) -> None:
    path = made(tmp_path, n=50).path / name
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 1
    path.unlink()
    if how == "link":
        path.symlink_to("/etc/passwd")
    elif how != "gone":
        path.write_bytes(bytes(data[: -3 if how == "cut" else None]))
    with pytest.raises(DamagedIndexError, match=f"{name}.*; delete the directory and run"):
        open_index(tmp_path)


def test_a_manifest_that_is_not_what_was_written_is_said(tmp_path: Path) -> None:
    path = made(tmp_path, n=50).path / MANIFEST
    plain = path.read_bytes()
    content = {key: value for key, value in unsealed(plain).items() if key != "digest"}
    for data in (b"", b"{}", plain[:-9], plain.replace(b'"pins": 50', b'"pins": 51'), sealed(content | {"format": 9})):
        path.write_bytes(data)
        with pytest.raises(DamagedIndexError, match="is not what was written"):
            open_index(tmp_path)
    path.write_bytes(sealed(content | {"pins": 51}))
    with pytest.raises(DamagedIndexError, match="50 pins in its index"):
        open_index(tmp_path)
    with pytest.raises(DamagedIndexError, match="has no index of pins"):
        open_index(tmp_path / "elsewhere")
