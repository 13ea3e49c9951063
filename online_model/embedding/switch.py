"""Which embedding version is served, by one file that is replaced whole: users, pins and index of a version switch together.

Where the served ranker takes user embeddings, its own switch (`models/current.json`) is theirs, and this file decides nothing: so a ranker never
meets vectors of another version than it was trained on.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from feature_repo.embedding_table import CURRENT, EMBEDDINGS, FORMAT, served_version, version_of_ranker
from feature_repo.errors import DamagedEmbeddingError, NoEmbeddingError
from flows.directories import make_directory, translated
from flows.sealed import sealed
from flows.settings import Settings
from flows.state.task_lock import holding
from online_model.embedding.errors import DamagedIndexError, SwitchError
from online_model.embedding.retrieval import Retriever, open_retriever
from online_model.embedding.version import read_manifest, version_path
from online_model.registry import durable


def servable(settings: Settings, version: int) -> Retriever:
    """Users, pins and index of a version, read and found sound, and of this very version.

    Raises
    ------
    NoVersionError, DamagedVersionError
    SwitchError
        Something of it is missing or not what was written.
    """
    manifest = read_manifest(version_path(settings, version))
    try:
        found = open_retriever(settings, version)
    except (NoEmbeddingError, DamagedEmbeddingError, DamagedIndexError) as error:
        raise SwitchError(f"embedding version {version} can't be served: {error}") from error
    if found.table.manifest.version_digest != manifest.digest:
        raise SwitchError(
            f"embedding version {version} can't be served: its users were inferred by another version of that number; "
            f"`tidemark embed infer --version {version} --full` infers them anew"
        )
    return found


def switch(settings: Settings, version: int) -> Retriever:
    """Serve a version from now on; returns what is served.

    Raises
    ------
    NoVersionError, DamagedVersionError, SwitchError
        It can't be; nothing has changed.
    LockedError
    """
    place = (settings.data / EMBEDDINGS).absolute()
    with _alone(place):
        taken = version_of_ranker(settings.data)
        if taken is not None and taken != version:
            raise SwitchError(
                f"the ranker that is served takes user embeddings of version {taken}; train one on version {version} and publish it "
                "(`tidemark models publish BASE`): both switch together"
            )
        found = servable(settings, version)
        said = {"format": FORMAT, "version": version, "version_digest": found.table.manifest.version_digest}
        durable.replace(place / CURRENT, sealed(said))
        return found


def serve_first(settings: Settings, version: int) -> bool:
    """Serve a version if none is served yet; returns whether it is this one that is served now."""
    if served_version(settings.data) is None:
        switch(settings, version)
    return served_version(settings.data) == version


def _alone(place: Path) -> AbstractContextManager[None]:
    with translated(f"can't write to {place}"):
        make_directory(place)
    return holding(
        place / "SWITCH", lambda who: f"embedding versions {place} are being switched by another command ({who}); wait until it is done"
    )
