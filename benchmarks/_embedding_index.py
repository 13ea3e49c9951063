"""The index of pins beside exact search, and beside the other libraries of its kind that are installed: build, one query at a time, what is found.

Each library builds with the same M, efConstruction and efSearch, by one thread, and twice: whether the two are the same bytes is told. Queries are
interleaved, library by library.
"""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import _measure
from benchmarks._measure import CheckFailedError
from online_model.embedding.index import BUILD_WIDTH, LEAST_WIDTH, NEIGHBOURS, PinIndex, PinsManifest, build, exact

K = 100
_TOPICS = 200
Search = Callable[[np.ndarray], np.ndarray]


def units(n: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors that gather about some topics, as pins do."""
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(0).standard_normal((_TOPICS, dim))
    found = 0.7 * topics[rng.integers(0, _TOPICS, n)] + rng.standard_normal((n, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def plainly(vectors: np.ndarray) -> Search:
    """Exact search of one query by torch, in as many threads as it has, with no more sorting than it needs."""
    of = torch.from_numpy(vectors)

    def search(query: np.ndarray) -> np.ndarray:
        found: np.ndarray = torch.topk(of @ torch.from_numpy(query), K).indices.numpy()
        return found

    return search


def ours(vectors: np.ndarray) -> tuple[Search, bytes]:
    """That which serves."""
    import faiss

    graph = build(vectors)
    said = PinsManifest(1, "", 1, "", len(vectors), vectors.shape[1], {}, {}, {})
    index = PinIndex(Path(), said, np.arange(len(vectors)), graph)
    return (lambda query: index.nearest(query[None], K)[0][0]), faiss.serialize_index(graph).tobytes()


def hnswlib(vectors: np.ndarray) -> tuple[Search, bytes]:
    """Malkov's own."""
    # Not installed with the project.
    index = importlib.import_module("hnswlib").Index("ip", vectors.shape[1])
    index.init_index(len(vectors), ef_construction=BUILD_WIDTH, M=NEIGHBOURS, random_seed=1)
    index.set_num_threads(1)
    index.add_items(vectors, np.arange(len(vectors)))
    index.set_ef(LEAST_WIDTH)
    return (lambda query: index.knn_query(query[None], K, num_threads=1)[0][0]), _saved(index.save_index)


def usearch(vectors: np.ndarray) -> tuple[Search, bytes]:
    """Unum's."""
    widths = {"connectivity": NEIGHBOURS, "expansion_add": BUILD_WIDTH, "expansion_search": LEAST_WIDTH}
    index = importlib.import_module("usearch.index").Index(ndim=vectors.shape[1], metric="ip", dtype="f32", **widths)
    index.add(np.arange(len(vectors)), vectors, threads=1)
    return (lambda query: index.search(query, K, threads=1).keys), _saved(index.save)


LIBRARIES: dict[str, Callable[[np.ndarray], tuple[Search, bytes]]] = {"faiss": ours, "hnswlib": hnswlib, "usearch": usearch}


def measure(pins: int, dim: int, queries: int, repeats: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results and ratios.

    Raises
    ------
    CheckFailedError
        An index finds less than nine of ten.
    """
    vectors, asked = units(pins, dim, seed), units(queries, dim, seed + 1)
    right = exact(asked, vectors, K)
    searches: dict[str, Search] = {"exact": plainly(vectors)}
    results: dict[str, Any] = {"pins": pins, "dim": dim, "k": K, "m": NEIGHBOURS, "ef_construction": BUILD_WIDTH, "ef_search": LEAST_WIDTH}
    for name, make in LIBRARIES.items():
        if name != "faiss" and importlib.util.find_spec(name) is None:
            continue
        began = time.process_time()
        searches[name], data = make(vectors)
        took = time.process_time() - began
        same = hashlib.sha256(make(vectors)[1]).digest() == hashlib.sha256(data).digest()
        results[name] = {"build_cpu_s": took, "bytes": len(data), "same_bytes_again": same}
    for name, search in searches.items():
        found = np.mean([len(np.intersect1d(search(query), wanted)) for query, wanted in zip(asked, right, strict=True)]) / K
        if found < 0.9:
            raise CheckFailedError(f"{name} finds {found:.1%} of the {K} nearest")
        results.setdefault(name, {})["recall"] = float(found)
    took_s: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(repeats):
        for name, search in searches.items():
            began = time.process_time()
            for query in asked:
                search(query)
            took_s[name].append((time.process_time() - began) / queries)
    for name, values in took_s.items():
        results[name]["query_cpu_us"] = _measure.spread([value * 1e6 for value in values], 1)
    ratios = {
        f"{name}_query_vs_exact": _measure.ratio(took_s["exact"], took_s[name]) for name in searches if name != "exact"
    }  # how many times as fast
    return results, ratios


def _saved(save: Callable[[str], object]) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "index"
        save(str(path))
        return path.read_bytes()
