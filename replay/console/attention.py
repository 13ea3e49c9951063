"""What an operator should look at, out of what the sections say: facts, each with where it is told and what to do, the gravest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flows.run.display import refusals
from replay.console.board import Told
from replay.console.checks import Checks
from replay.console.models import Models
from replay.console.replays import Replays
from replay.console.requests import Requests
from replay.console.stands import NOTHING, Stands

BAD, WORTH_A_LOOK = "bad", "look"
# Flows that keep up commit several times a second; an event that waits longer is late for whoever serves it.
SLOW_MS = 60_000
# Some records are always refused; so many of them, and a producer was changed or columns were taken for others.
_REFUSED_SHARE = 0.1
_MOST = 20


@dataclass(frozen=True)
class Attention:
    """One thing.

    Attributes
    ----------
    level : str
        "bad": something is wrong; "look": it may be meant so.
    section : str
        Where it is told.
    what : str
        In words, with what to do.
    """

    level: str
    section: str
    what: str


def attention(told: Mapping[str, Told[Any]], now: int) -> list[Attention]:
    """Out of what each section has told.

    Parameters
    ----------
    told : mapping of str to Told
        By the name of the section.
    now : int
        ms.
    """
    rules: dict[str, Callable[[Any, int], Iterator[Attention]]] = {
        "flows": _of_flows,
        "requests": _of_requests,
        "models": _of_models,
        "checks": _of_checks,
        "replays": _of_replays,
    }
    found = [Attention(BAD, name, f"can't be read: {one.problem}") for name, one in told.items() if one.problem is not None]
    for name, rule in rules.items():
        if name in told and told[name].said is not None:
            found += rule(told[name].said, now)
    return sorted(found, key=lambda one: one.level != BAD)[:_MOST]


def _of_flows(said: Stands, now: int) -> Iterator[Attention]:
    for problem in said.problems:
        yield Attention(BAD, "flows", problem)
    if said.source == NOTHING:
        yield Attention(WORTH_A_LOOK, "flows", "nothing has been applied yet; `tidemark run` applies what the log holds")
        return
    records, dead = said.counts.get("records", 0), sum(n for name, n in said.counts.items() if name.startswith("deadletter."))
    if dead > _REFUSED_SHARE * records:
        yield Attention(WORTH_A_LOOK, "flows", refusals(dead, records))
    for flow in said.flows:
        if flow.running is False and flow.lag:
            command = "examples run" if flow.flow == "examples" else "run"
            yield Attention(BAD, "flows", f"{flow.flow} lags and nobody runs it; `tidemark {command} --follow` does")
        elif flow.waiting_since is not None and now - flow.waiting_since > SLOW_MS:
            yield Attention(
                BAD, "flows", f"{flow.flow}: an event waits for longer than {SLOW_MS // 1000} s; is the flow slow, or was a task set aside?"
            )
        for task in flow.tasks:
            if task.handed_over:
                yield Attention(WORTH_A_LOOK, "flows", f"{flow.flow}/{task.partition} is being replaced by another command")


def _of_requests(said: Requests, _: int) -> Iterator[Attention]:
    if said.trouble is not None:
        yield Attention(BAD, "requests", f"the store does not answer: {said.trouble}")
    if said.log_trouble is not None:
        yield Attention(BAD, "requests", f"what is served is not kept: {said.log_trouble}")
    if said.lost:
        yield Attention(BAD, "requests", f"{said.lost:,} rows that were served are not in the log 'served'")
    # That there is no model is no trouble of one.
    if said.model.get("trouble") and said.model.get("arms"):
        yield Attention(BAD, "requests", f"rankings are by an old model: {said.model['trouble']}")
    if said.embedding.get("trouble"):
        what = "users' embeddings are old" if "version" in said.embedding else "users' embeddings can't be served"
        yield Attention(BAD, "requests", f"{what}: {said.embedding['trouble']}")


def _of_models(said: Models, _: int) -> Iterator[Attention]:
    for base in said.bases:
        if base.problem is not None and base.roles:
            yield Attention(BAD, "models", f"base {base.base}, which is {', '.join(base.roles)}: {base.problem}")
    newest = max((base.made_as_of or 0 for base in said.bases), default=0)
    if said.refused is not None and said.refused.made_as_of > newest:
        reason = said.refused.evaluation.reason if said.refused.evaluation is not None else "see `tidemark retrain`"
        yield Attention(WORTH_A_LOOK, "models", f"the gate refused the last retrain: {reason}")
    if said.retrain is not None and not said.retrain.running:
        yield Attention(WORTH_A_LOOK, "models", "a retrain was begun and stopped; `tidemark retrain --once` goes on with it")
    if said.learner is not None and said.learner.lag and not said.learner.running:
        yield Attention(WORTH_A_LOOK, "models", "there are examples to learn from, and nobody learns; `tidemark learn --follow` does")


def _of_checks(said: Checks, _: int) -> Iterator[Attention]:
    for name, last, wrong, command in (
        ("the last audit", said.audit, "mismatches", "tidemark replay audit"),
        ("the last skew check", said.skew, "findings", "tidemark skew check"),
    ):
        if last is None:
            continue
        if last.said.get("problem"):
            yield Attention(BAD, "checks", f"{name} could not be done: {last.said['problem']}")
        if last.said.get("problems"):
            yield Attention(BAD, "checks", f"{name} left out tasks: {last.said['problems'][0]}")
        if last.said.get(wrong):
            yield Attention(BAD, "checks", f"{name} has {last.said[wrong]:,} {wrong}; `{command}` says what to do")


def _of_replays(said: Replays, _: int) -> Iterator[Attention]:
    for work in said.work:
        if not work.running:
            yield Attention(WORTH_A_LOOK, "replays", f"{work.kind} that is not at work: {work.what}")
