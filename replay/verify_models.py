"""Whether models are what was written: every base with its snapshots, and what `current.json` says of them. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator

from flows.errors import TidemarkError
from flows.log import Log
from flows.settings import Settings
from replay.verify import Advance, Problem

_BACK = "`tidemark models rollback`, or put it back from a copy"


def models_size(settings: Settings) -> int:
    """Bytes of all models."""
    directory = settings.data / "models"
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def verify_models(settings: Settings, embeddings: Log | None, advance: Advance) -> Iterator[Problem]:
    """Every base, every snapshot, and that what is served can be loaded. Where there are no models this asks for no package of theirs.

    Parameters
    ----------
    embeddings : Log or None
        With its archive; None: it isn't there, or can't be read.
    """
    if not (settings.data / "models").is_dir():
        return
    from online_model.registry import snapshots
    from online_model.registry.errors import NoModelError
    from online_model.registry.registry import Registry

    registry = Registry.of(settings)
    end = embeddings.end_position(0) if embeddings is not None else None
    for number in registry.bases.numbers():
        try:
            base = registry.bases.opened(number)
            base.verify()
        except TidemarkError as error:
            yield Problem("model", f"model base {number}", str(error), _BACK)
            continue
        advance(sum(entry.bytes for entry in base.manifest.files.values()))
        for delta in snapshots.numbers(base):
            try:
                snapshot = snapshots.read_snapshot(base, delta)
                snapshot.verify()
                advance(sum(entry.bytes for entry in snapshot.files.values()))
                if end is not None and snapshot.point.position > end:
                    what = f"is of a delta at offset {snapshot.point.position} of log 'embeddings', which ends at {end}: deltas were lost"
                    remedy = "delete its directory; `tidemark learn` puts out again what is missing"
                    yield Problem("model", f"model base {number}, snapshot {delta}", what, remedy)
            except TidemarkError as error:
                yield Problem("model", f"model base {number}, snapshot {delta}", str(error), "delete its directory; older ones stay usable")
    try:
        for role, start in registry.current().starts().items():
            try:
                registry.load(start)
                if end is not None and start.position > end:
                    what = f"begins at offset {start.position} of log 'embeddings', which ends at {end}: deltas were lost"
                    again = f"`tidemark learn` puts them out again; then `tidemark models publish {start.base}`"
                    yield Problem("model", f"model {role}", what, again)
            except TidemarkError as error:
                yield Problem("model", f"model {role}", str(error), _BACK)
    except NoModelError:
        return
    except TidemarkError as error:
        yield Problem(
            "model", "models/current.json", str(error), "`tidemark models publish` with the base that is to be served, and --anew"
        )
