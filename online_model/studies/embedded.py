"""User embeddings of a simulated history: a version trained on its first days, and a table of each day behind, kept by a digest of what decides them.

They are made by `online_model.embedding`, day after day as production makes them, so no table knows of a later day, and no weight of a day that a
ranker is trained or scored on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from flows.directories import make_directory, translated
from flows.settings import DAY_MS, Settings
from online_model.embedding.actions import LogPrefix, read_actions
from online_model.embedding.config import EmbeddingConfig
from online_model.embedding.inference import alone, infer
from online_model.embedding.learned_vectors import MADE, learned_vectors
from online_model.embedding.training import train
from online_model.embedding.version import load, read_manifest, write
from online_model.model.embedding_input import taken_of
from online_model.model.served_vectors import ServedVectors
from online_model.registry.build import build_of
from online_model.studies.kept import digest_of, take_place
from online_model.studies.stream import Stream, ingested

_VERSION = 1


def embedding_of(
    stream: Stream,
    config: EmbeddingConfig,
    begin: int,
    until: int,
    work: Path,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> ServedVectors:
    """The vectors that users of a history had, made if they are not there yet.

    Parameters
    ----------
    stream : Stream
    config : EmbeddingConfig
    begin, until : int
        The version learns from actions up to `begin`; tables are of that moment and of each day behind it before `until`, ms.
    work : Path
    progress : callable

    Raises
    ------
    NoPositivesError
        Nobody has done anything positive before `begin`.
    """
    said = {
        "history": stream.digest,
        # Their digest would say more, but to have it takes the history's log, which isn't kept.
        "vectors": MADE,
        "config": config.to_dict(),
        "begin": begin,
        "until": until,
        "build": asdict(build_of(config.seed)),
    }
    place = work / digest_of(said)
    if not place.exists():
        draft = work / f".{place.name}.{os.getpid()}"
        with translated(f"study's embedding {place}"):
            make_directory(work.absolute())
            try:
                _make(stream, config, begin, until, draft, progress)
                take_place(draft, place)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return ServedVectors(place, taken_of(place, _VERSION))


def _make(stream: Stream, config: EmbeddingConfig, begin: int, until: int, draft: Path, progress: Callable[[str, int, int], None]) -> None:
    settings = Settings(data=draft)
    ingested(stream.plan, settings, draft / "simulated", lambda what: progress(what, 0, 0))
    sequences = read_actions(settings).until(begin)
    vectors = learned_vectors(sequences, config.vector_dim, config.seed)
    model, metrics = train(sequences, vectors, config, progress=lambda done, total: progress("training an embedding", done, total))
    path = write(
        settings,
        model,
        sequences=sequences.digest(),
        vectors=vectors.digest(),
        vectors_from="log",
        reflects=LogPrefix.now(settings),
        build=build_of(config.seed),
        metrics=metrics,
    )
    model, manifest = load(path), read_manifest(path)
    days = range(begin, until, DAY_MS)
    with alone(path):
        for i, as_of in enumerate(days):
            infer(settings, model, manifest, path, as_of=as_of)
            progress("inferring users day by day", i + 1, len(days))
    shutil.rmtree(draft / "simulated")
    shutil.rmtree(settings.logs)
