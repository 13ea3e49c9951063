"""A command that was killed: what is there is what was, or what it was to lead to; and the same command does the rest."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from random import Random

from replay.drill.classes import Corruption
from replay.drill.operator import DrillError, Type, must
from replay.drill.outcome import Outcome, outcome
from replay.drill.row import Row
from replay.drill.site import Site

_MODELS = "models"


def done_again(corruption: Corruption, seed: int, sound: Site, copy: Path, tidemark: Type, clean: Outcome) -> Row:
    """Kill a publish on a copy, look at what is served, publish again as an operator would, and compare with one that nobody disturbed.

    Parameters
    ----------
    sound : Site
        Only read.
    copy : Path
        Where the copy is made; left as it is in the end.
    clean : dict of str to str
        The outcome of the sound one.
    """
    assert corruption.done_by is not None
    undisturbed = sound.copied(copy.with_name(f"{copy.name}-undisturbed"))
    must(tidemark(undisturbed.settings, *corruption.done_by(undisturbed), "--json"), "tidemark models publish")
    wanted = outcome(undisturbed.settings)
    shutil.rmtree(undisturbed.data)
    site = sound.copied(copy)
    damage = corruption.damage(site, Random(f"{corruption.name}-{seed}"))
    differs: list[str] = []
    began = time.perf_counter()
    # Beside it: to take a digest changes files of the state.
    looked_at = site.copied(copy.with_name(f"{copy.name}-looked-at"))
    now = outcome(looked_at.settings)
    shutil.rmtree(looked_at.data)
    if now[_MODELS] not in (clean[_MODELS], wanted[_MODELS]):
        differs.append("what is served after the kill is neither the old model nor the new one")
    differs += [f"{one['where']}: {one['what']}" for one in _verified(site, tidemark)]
    typed: list[str] = []

    def type_(*words: str) -> None:
        typed.append(" ".join(("tidemark", *words)))
        must(tidemark(site.settings, *words, "--json"), typed[-1])

    listed = must(tidemark(site.settings, "models", "list", "--json"), "tidemark models list").json()
    detect_s = time.perf_counter() - began
    began = time.perf_counter()
    newest = max(row["base"] for row in listed["bases"])
    try:
        if newest > max(_bases(sound)):
            type_("models", "publish", str(newest))
        else:
            type_(*corruption.done_by(site))
    except DrillError as error:
        differs.append(str(error))
    recover_s = time.perf_counter() - began
    differs += [f"{one['where']}: {one['what']}" for one in _verified(site, tidemark)]
    if not differs:
        now = outcome(site.settings)
        differs = [name for name in sorted(wanted | now) if wanted.get(name) != now.get(name)]
        differs += [f"{name} was left behind" for name in _left(site)]
    found = f"models list: base {listed['served']} is served, of {newest}"
    return Row(corruption.name, damage, found, round(detect_s, 3), 0, round(recover_s, 3), typed, not differs, differs)


def _verified(site: Site, tidemark: Type) -> list[dict[str, str]]:
    problems: list[dict[str, str]] = tidemark(site.settings, "replay", "verify", "--json").json()["problems"]
    return problems


def _bases(site: Site) -> list[int]:
    return [int(path.name) for path in (site.data / "models" / "bases").iterdir() if path.name.isdecimal()]


def _left(site: Site) -> list[str]:
    return [path.name for path in (site.data / "models" / "bases").iterdir() if not path.name.isdecimal()]
