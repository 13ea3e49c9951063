"""Pins of a version as vectors, and an index of them that finds a user's nearest: HNSW (Malkov and Yashunin 2018), by faiss.

Vectors and index lie in one directory that appears whole and never changes, so an index is never of other vectors. It is built by one thread: the
same vectors make the same graph. How much of the exact answer it finds was measured when it was made, and stands in its manifest. Where that is too
little, as of many pins with one vector (the graph's neighbours are then all of one kind, and lead nowhere), all pins are looked at instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.errors import SettingsError
from flows.sealed import unsealed
from online_model.embedding.errors import DamagedIndexError
from online_model.registry import durable, tensors
from online_model.registry.errors import DamagedModelError

try:
    import faiss
except ImportError as error:
    raise SettingsError(f"retrieval needs a package that is not installed ({error}): pip install 'tidemark[model]'") from error

FORMAT = 1
PINS, MANIFEST, VECTORS, GRAPH = "pins", durable.MANIFEST, "pins.safetensors", "index.faiss"
NEIGHBOURS, BUILD_WIDTH, LEAST_WIDTH = 32, 200, 256
"""Of the graph: M, efConstruction, and the least efSearch. docs/embedding.md has what they cost and find."""
RECALL_AT, RECALL_QUERIES = 100, 500
LEAST_RECALL = 0.95
"""A graph that finds less is not used."""
MOST = 1_000
"""So many are asked for at once at most, but for those that are left out: a graph must lead to as many."""
GRAPH_KIND, EXACT = "hnsw", "exact"
KEPT = 2
_SAME = 1e-6
_ADVICE = "delete the directory and run `tidemark embed infer`"


@dataclass(frozen=True)
class PinsManifest:
    """What a directory of pins is.

    Attributes
    ----------
    version : int
    version_digest : str
    number : int
        From 1 on, of the version's.
    vectors : str
        Digest of the vectors that the pin tower was given.
    pins, dim : int
    index : mapping
        What it was built with: of `kind` "hnsw" the graph's numbers, of "exact" the `graph_share` of the exact answer that a graph had found.
    recall : mapping
        Share of the `at` nearest that it finds, over `queries` vectors: of users, or of pins where there are none.
    files : mapping
    digest : str
    """

    version: int
    version_digest: str
    number: int
    vectors: str
    pins: int
    dim: int
    index: Mapping[str, Any]
    recall: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    format: int = FORMAT
    digest: str = ""


@dataclass(frozen=True, eq=False)
class PinIndex:
    """Pins of one version, ready to be searched by many threads at once.

    Attributes
    ----------
    path : Path
    manifest : PinsManifest
    pin_ids : int64[m]
        Ascending.
    graph : faiss index
    """

    path: Path
    manifest: PinsManifest
    pin_ids: np.ndarray
    graph: Any

    def nearest(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each vector the k pins with the greatest inner product, the first first.

        Parameters
        ----------
        vectors : float32[n, D]
        k : int

        Returns
        -------
        (int64[n, k], float32[n, k])
            Places in `pin_ids`, and products; of as many pins as there are, where there are fewer.
        """
        vectors, k = np.ascontiguousarray(vectors), min(k, len(self.pin_ids))
        places, products = found(self.graph, vectors, k)
        short = np.flatnonzero((places < 0).any(axis=1))
        if len(short) and isinstance(self.graph, faiss.IndexHNSW):
            # The graph has led to fewer: all vectors, as it holds them, are looked at.
            products[short], places[short] = self.graph.storage.search(vectors[short], k)
        return places, products


def found(graph: Any, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """What a faiss index of either kind finds by itself, as `PinIndex.nearest` gives it: -1 where a graph has led to fewer."""
    # Of this thread: a request must not start threads of its own.
    faiss.omp_set_num_threads(1)
    wide = faiss.SearchParametersHNSW(efSearch=max(LEAST_WIDTH, 2 * k)) if isinstance(graph, faiss.IndexHNSW) else None  # type: ignore[attr-defined]
    products, places = graph.search(vectors, k, params=wide)
    return places, products


def exact(vectors: np.ndarray, of: np.ndarray, k: int) -> np.ndarray:
    """Of each vector the k rows with the greatest inner product, the lowest first among equal ones: int64[n, k]."""
    found = []
    for begin in range(0, len(vectors), 256):
        products = vectors[begin : begin + 256] @ of.T
        found.append(np.argsort(-products, axis=1, kind="stable")[:, :k])
    return np.concatenate([np.empty((0, min(k, len(of))), np.int64), *found])


def build(vectors: np.ndarray) -> Any:
    """A graph of vectors, float32[m, D]: the same for the same vectors."""
    faiss.omp_set_num_threads(1)
    graph = faiss.IndexHNSWFlat(vectors.shape[1], NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = BUILD_WIDTH
    graph.add(np.ascontiguousarray(vectors))
    return graph


def share_of(graph: Any, vectors: np.ndarray, queries: np.ndarray, k: int = RECALL_AT) -> float:
    """The share of the k nearest that an index finds by itself: the mean over queries. One as near as the k-th is as good as it.

    Parameters
    ----------
    graph : faiss index
    vectors : float32[m, D]
        Of what is in it.
    queries : float32[q, D]
    k : int
    """
    k, hits = min(k, len(vectors)), 0
    for begin in range(0, len(queries), 256):
        some = np.ascontiguousarray(queries[begin : begin + 256])
        places, products = found(graph, some, k)[0], some @ vectors.T
        kth = np.partition(products, -k, axis=1)[:, -k][:, None]
        # The same product comes out of a multiplication of matrices with other last bits at another place.
        near = np.take_along_axis(products, np.maximum(places, 0), axis=1) >= kth - _SAME
        hits += int((near & (places >= 0)).sum())
    return hits / (k * len(queries))


def good_enough(vectors: np.ndarray, queries: np.ndarray) -> tuple[Any, dict[str, Any], float | None]:
    """A graph, or, where that finds too little of the exact answer, an index that looks at all; what it was built with; what share it finds.

    Parameters
    ----------
    vectors : float32[m, D]
    queries : float32[q, D]
        By which it is measured; none: it can't be.
    """
    graph = build(vectors)
    library = {"library": f"faiss {faiss.__version__}"}
    built = {"kind": GRAPH_KIND, "m": NEIGHBOURS, "ef_construction": BUILD_WIDTH, "ef_search": LEAST_WIDTH}
    if not len(queries):
        return graph, library | built, None
    share = share_of(graph, vectors, queries)
    most = min(MOST, len(vectors))
    led_to = float((found(graph, np.ascontiguousarray(queries), most)[0] >= 0).mean())
    if min(share, led_to) >= LEAST_RECALL:
        return graph, library | built, share
    flat = faiss.IndexFlat(vectors.shape[1], faiss.METRIC_INNER_PRODUCT)
    flat.add(np.ascontiguousarray(vectors))
    return flat, library | {"kind": EXACT, "graph_share": min(share, led_to)}, share_of(flat, vectors, queries)


def numbers(version: Path) -> list[int]:
    """Numbers of a version's directories of pins, in order."""
    try:
        return sorted(int(entry.name) for entry in os.scandir(version / PINS) if entry.name.isdecimal())
    except FileNotFoundError:
        return []


def write_index(
    version: Path, number_of_version: int, digest: str, source: str, pin_ids: np.ndarray, vectors: np.ndarray, queries: np.ndarray
) -> PinIndex:
    """Build the index of a version's pins and put both in place; the caller is the only one that does.

    Parameters
    ----------
    source : str
        Digest of what the vectors were made of.
    pin_ids : int64[m]
        Ascending.
    vectors : float32[m, D]
    queries : float32[q, D]
        By which recall is measured.
    """
    place = (version / PINS).absolute()
    number = max(numbers(version), default=0) + 1
    graph, index, share = good_enough(vectors, queries)
    held = {
        VECTORS: tensors.to_bytes({"ids": pin_ids, "vectors": vectors}),
        GRAPH: faiss.serialize_index(graph).tobytes(),
    }
    recall = {"at": min(RECALL_AT, len(pin_ids)), "queries": len(queries), "share": share}
    size = len(pin_ids), vectors.shape[1]
    content = asdict(PinsManifest(number_of_version, digest, number, source, *size, index, recall, durable.entries_of(held)))
    del content["digest"]
    durable.published(place, number, held, content)
    durable.sweep(place, numbers(version)[:-KEPT])
    return open_index(version, number)


def read_pins_manifest(version: Path, number: int | None = None) -> PinsManifest:
    """What a version's newest pins, or those of a number, say of themselves.

    Raises
    ------
    DamagedIndexError
        There are none, or they are not what was written.
    """
    known = numbers(version)
    if not known or (number is not None and number not in known):
        raise DamagedIndexError(f"embedding version {version} has no index of pins; `tidemark embed infer` makes one")
    path = version / PINS / str(known[-1] if number is None else number)
    try:
        content = unsealed(durable.read(path / MANIFEST))
        if content["format"] != FORMAT:
            raise ValueError(f"it has format {content['format']}, and this Tidemark reads {FORMAT}")
        return PinsManifest(**content)
    except (DamagedModelError, ValueError, KeyError, TypeError) as error:
        raise DamagedIndexError(f"{path / MANIFEST} is not what was written ({error}); {_ADVICE}") from error


def open_index(version: Path, number: int | None = None) -> PinIndex:
    """A version's newest pins, or those of a number, checked whole.

    Raises
    ------
    DamagedIndexError
    """
    manifest = read_pins_manifest(version, number)
    path = version / PINS / str(manifest.number)
    try:
        held = {name: durable.read(path / name, said["bytes"], said["sha256"]) for name, said in manifest.files.items()}
        pin_ids = tensors.from_bytes(held[VECTORS], str(path / VECTORS))["ids"]
        graph = faiss.deserialize_index(np.frombuffer(held[GRAPH], np.uint8))
    except (DamagedModelError, KeyError, RuntimeError) as error:
        raise DamagedIndexError(f"{path} can't be used ({error}); {_ADVICE}") from error
    if graph.ntotal != len(pin_ids) or len(pin_ids) != manifest.pins:
        raise DamagedIndexError(f"{path} has {graph.ntotal} pins in its index, and {len(pin_ids)} beside it; {_ADVICE}")
    return PinIndex(path, manifest, pin_ids, graph)
