"""One class of damage at a time: harm a copy, find it, put it right as an operator would, compare."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from flows.examples.record import EXAMPLES
from replay.drill import poison
from replay.drill.classes import Corruption
from replay.drill.interrupted import done_again
from replay.drill.model_mending import mend_models
from replay.drill.operator import DrillError, Type, must
from replay.drill.outcome import Outcome, outcome
from replay.drill.row import Row
from replay.drill.site import Site, at

# Of looking and mending: what one damage has hidden shows once that is mended.
_ROUNDS = 4
_SEGMENT = re.compile(r"archive segment (\S+) is damaged")


class Runner:
    """Drills classes on copies of a site.

    Parameters
    ----------
    site : Site
        Sound; only read.
    tidemark : callable
        Types a command.
    scratch : Path
        Where copies are made.

    Raises
    ------
    DrillError
        The site is not sound to begin with.
    """

    def __init__(self, site: Site, tidemark: Type, scratch: Path) -> None:
        self._site = site
        self._tidemark = tidemark
        self._scratch = scratch
        found = self._look(site)
        if found["problems"]:
            raise DrillError(f"something is wrong before anything was damaged: {found['problems'][0]['what']}")
        self._repeats = found["repeats"]
        # On a copy: to take a digest opens the task, and what lies in its write-ahead log goes into tables.
        with_digests = site.copied(scratch / "undamaged")
        self.clean: Outcome = outcome(with_digests.settings)

    def drill(self, corruption: Corruption, seed: int, copy: Path) -> Row:
        """Damage a copy, and put it right.

        Parameters
        ----------
        copy : Path
            Where the copy is made; left as it is in the end.
        """
        if corruption.sent:
            return self._rebuild(corruption, seed, copy)
        if corruption.done_by is not None:
            return done_again(corruption, seed, self._site, copy, self._tidemark, self.clean)
        site = self._site.copied(copy)
        damage = corruption.damage(site, Random(f"{corruption.name}-{seed}"))
        began = time.perf_counter()
        found = self._look(site)
        detected = self._detected(found)
        detect_s = time.perf_counter() - began
        began = time.perf_counter()
        typed: list[str] = []
        replayed = 0

        def type_(*words: str) -> Any:
            typed.append(" ".join(("tidemark", *words)))
            return must(self._tidemark(site.settings, *words, "--json"), typed[-1]).json()

        differs: list[str] = []
        try:
            for _ in range(_ROUNDS):
                replayed += follow(found["problems"], type_)
                mend_models(found["problems"], site, self._site, type_)
                found = self._look(site)
                if not found["problems"]:
                    break
        except DrillError as error:
            differs.append(str(error))
        recover_s = time.perf_counter() - began
        differs += [f"{problem['where']}: {problem['what']}" for problem in found["problems"]]
        if not differs:
            now = outcome(site.settings)
            differs = [name for name in sorted(self.clean | now) if self.clean.get(name) != now.get(name)]
        return Row(corruption.name, damage, detected, round(detect_s, 3), replayed, round(recover_s, 3), typed, not differs, differs)

    def _rebuild(self, corruption: Corruption, seed: int, copy: Path) -> Row:
        """What was sent is wrong: found by who asks for it, put right by a rebuild without it; features are then those of the right events."""
        site = at(self._site.settings, copy)
        damage = corruption.damage(self._site, site, Random(f"{corruption.name}-{seed}"), self._tidemark)
        words = ("replay", "rebuild", "--exclude", poison.FILTER)
        began = time.perf_counter()
        planned = must(self._tidemark(site.settings, *words, "--dry-run", "--json"), "tidemark replay rebuild --dry-run").json()
        found = sum(part["excluded"] for part in planned["plan"]["parts"])
        detect_s = time.perf_counter() - began
        began = time.perf_counter()
        differs: list[str] = []
        replayed = 0
        typed = [f'tidemark replay rebuild --exclude "{poison.FILTER}" --yes', "tidemark run"]
        try:
            built = must(self._tidemark(site.settings, *words, "--yes", "--json"), typed[0]).json()
            replayed = built.get("built", {}).get("replayed", 0) + _applied(
                must(self._tidemark(site.settings, "run", "--json"), typed[1]).json()
            )
        except DrillError as error:
            differs.append(str(error))
        recover_s = time.perf_counter() - began
        if not differs:
            differs = [f"{problem['where']}: {problem['what']}" for problem in self._look(site)["problems"]]
        if not differs:
            time_ = poison.newest(self._site.settings)
            want, now = (poison.exports(one.settings, time_, copy / "exports") for one in (self._site, site))
            differs = [f"features of {name}" for name in want if not want[name].equals(now[name])]
            differs += self._from_zero(site)
        return Row(
            corruption.name,
            damage,
            "replay rebuild --dry-run" if found else "",
            round(detect_s, 3),
            replayed,
            round(recover_s, 3),
            typed,
            not differs,
            differs,
        )

    def _from_zero(self, site: Site) -> list[str]:
        """States that are not what their logs lead to, from the beginning."""
        anew = site.copied(site.data.with_name(f"{site.data.name}-anew"))
        try:
            shutil.rmtree(anew.settings.state)
            shutil.rmtree(anew.data / "checkpoints")
            must(self._tidemark(anew.settings, "run", "--json"), "tidemark run")
            now, want = outcome(site.settings), outcome(anew.settings)
            return [f"{name}, made anew from the log" for name in now if name.startswith("state") and now[name] != want[name]]
        finally:
            shutil.rmtree(anew.data)

    def _look(self, site: Site) -> Any:
        """What `tidemark replay verify` says; what it fails with is a problem too."""
        answer = self._tidemark(site.settings, "replay", "verify", "--json")
        try:
            return answer.json()
        except ValueError:
            return {"problems": [{"kind": "error", "where": "replay verify", "what": answer.err.strip(), "remedy": ""}], "repeats": {}}

    def _detected(self, found: Any) -> str:
        kinds = sorted({problem["kind"] for problem in found["problems"]})
        if found["repeats"] != self._repeats and not kinds:
            kinds.append("repeats")
        return f"replay verify: {', '.join(kinds)}" if kinds else ""


def follow(problems: list[dict[str, str]], type_: Callable[..., Any]) -> int:
    """Do what the runbook says, in its order: logs, archive, state, checkpoints; how many records were applied again.

    Parameters
    ----------
    problems : list
        Of `tidemark replay verify`.
    type_ : callable
        Types a command, and gives the object that it printed.
    """
    of: dict[str, list[dict[str, str]]] = {}
    for problem in problems:
        of.setdefault(problem["kind"], []).append(problem)
    applied = 0
    for name in sorted({problem["where"].split()[1].split("/")[0] for problem in of.get("log", [])}):
        type_("replay", "restore", "--log", name)
    if "archive" in of:
        for problem in of["archive"]:
            if damaged := _SEGMENT.search(problem["what"]):
                Path(damaged[1]).unlink(missing_ok=True)
        type_("archive", "run")
    if "state" in of:
        applied += _applied(type_("replay", "restore")["ran"])
    elif any(not problem["where"].startswith(f"state {EXAMPLES}/") for problem in of.get("behind", [])) or not of:
        # Without a problem: records were repeated, and a run must leave them out.
        applied += _applied(type_("run"))
    if "checkpoint" in of:
        type_("replay", "checkpoint", "--mend")
    return applied


def _applied(ran: dict[str, int] | None) -> int:
    return ran["events"] + ran["changes"] if ran else 0
