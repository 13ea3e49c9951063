"""What the runbook says of models, deltas and examples, done in its order."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from typing import Any

from flows.examples.record import EXAMPLES
from flows.outputs import EMBEDDINGS
from online_model.registry.registry import Registry
from replay.drill.site import Site

_BASE = re.compile(r"model base (\d+)")
_SNAPSHOT = re.compile(r"model base (\d+), snapshot (\d+)")
_CURRENT = "models/current.json"


def mend_models(problems: list[dict[str, str]], site: Site, sound: Site, type_: Callable[..., Any]) -> None:
    """Put the model side right, after logs and states.

    Parameters
    ----------
    problems : list
        Of `tidemark replay verify`.
    site, sound : Site
        What is damaged, and a copy of what it was: of that files are put back.
    type_ : callable
        Types a command.
    """
    where = [problem["where"] for problem in problems]
    if any(one.startswith(f"state {EXAMPLES}/") for one in where):
        type_("examples", "run")
    if not (sound.data / "models").is_dir():
        return
    registry = Registry.of(site.settings)
    served = Registry.of(sound.settings).current().base
    if _CURRENT in where:
        type_("models", "publish", str(served), "--anew")
    for damaged in sorted({int(found[1]) for one in where if (found := _BASE.fullmatch(one))}):
        if damaged == served:
            # Served again at once, by what was served before; then the file is put back from a copy, and the base with it.
            type_("models", "rollback")
        path = registry.bases.directory / str(damaged)
        shutil.rmtree(path)
        shutil.copytree(Registry.of(sound.settings).bases.directory / str(damaged), path)
        if damaged == served:
            type_("models", "publish", str(damaged))
    gone = [(int(found[1]), found[2]) for one in where if (found := _SNAPSHOT.fullmatch(one))]
    for base, delta in gone:
        shutil.rmtree(registry.bases.directory / str(base) / "snapshots" / delta)
    if gone or any(one.startswith(f"log {EMBEDDINGS}") for one in where):
        type_("learn")
        type_("models", "publish", str(served))
