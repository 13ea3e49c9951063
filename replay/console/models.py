"""Which models there are and who gets which, what the gate said of them, how far the learner is, and whether a retrain is at work.

Manifests are read, weights never: `tidemark models list --verify` reads all.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.errors import TidemarkError
from flows.examples.record import EXAMPLES
from flows.log import Log
from flows.metrics_http import scraped
from flows.open_log import log_exists, open_live_log
from flows.outputs import EMBEDDINGS
from flows.settings import Settings
from flows.state.task_lock import is_held

if TYPE_CHECKING:
    from online_model.deltas.record import Closing
    from online_model.registry.bases import Base
    from online_model.registry.current import Current, Share
    from online_model.registry.registry import Registry

SHOWN = 8
"""Of the newest bases, and of the latest switches."""
LEARNERS, REFUSED = "learners", "refused"
"""Directories of the registry, as `online_model.learner.course` and `online_model.retrain.run` name them; both would load torch."""
METRICS = ("auc", "gauc", "logloss", "hit@3")
"""Of each head, of the many that a gate measures."""


@dataclass(frozen=True)
class Head:
    """What a head was measured to be worth, on examples that were new to it; `against` is the base that was served then."""

    head: str
    values: dict[str, float | None]
    against: dict[str, float | None] | None


@dataclass(frozen=True)
class Evaluation:
    """What the gate has found.

    Attributes
    ----------
    passed : bool
    reason : str
    rows : int or None
        Examples that were scored.
    heads : list of Head
    """

    passed: bool
    reason: str
    rows: int | None
    heads: list[Head]


@dataclass(frozen=True)
class BaseSaid:
    """A base.

    Attributes
    ----------
    roles : list of str
        served, canary, holdout, candidate.
    made_as_of : int or None
        ms.
    bytes : int
    snapshots : int
    newest_snapshot : int or None
        The delta that its newest snapshot reflects.
    evaluation : Evaluation or None
        None: it was published without a gate.
    problem : str or None
        Why it can't be served here.
    """

    base: int
    roles: list[str]
    made_as_of: int | None
    parent: int | None
    bytes: int
    snapshots: int
    newest_snapshot: int | None
    evaluation: Evaluation | None
    problem: str | None


@dataclass(frozen=True)
class ShareSaid:
    """Who gets a base other than the one that is served."""

    role: str
    base: int
    share: float


@dataclass(frozen=True)
class Switch:
    """What was served from a moment (ms) on, and why."""

    at: int
    base: int
    delta: int
    reason: str


@dataclass(frozen=True)
class Learner:
    """How far learning on the served base is.

    Attributes
    ----------
    running : bool
    delta : int or None
        The last that was put out; None: none yet.
    newest_event_time, ready_time : int or None
        Newest event that it reflects, and when the last example of it became known, ms.
    lag : int or None
        Records of EXAMPLES that are not in it.
    """

    running: bool
    delta: int | None
    newest_event_time: int | None
    ready_time: int | None
    lag: int | None


@dataclass(frozen=True)
class Retrain:
    """A retrain that was begun and hasn't ended: at work, or stopped, and then the same command goes on with it."""

    running: bool
    as_of: int | None
    stage: str


@dataclass(frozen=True)
class Refused:
    """A candidate that the gate has refused.

    Attributes
    ----------
    made_as_of : int
        ms.
    """

    made_as_of: int
    evaluation: Evaluation | None


@dataclass(frozen=True)
class Models:
    """All of it.

    Attributes
    ----------
    note : str
        In words, where there is nothing.
    refused : Refused or None
        The last candidate that the gate refused, while it lies there.
    """

    note: str
    served: int | None
    shares: list[ShareSaid]
    bases: list[BaseSaid]
    more_bases: int
    switches: list[Switch]
    learner: Learner | None
    retrain: Retrain | None
    refused: Refused | None


_NOTHING = Models("", None, [], [], 0, [], None, None, None)


class ModelsSection:
    """See the module.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = scraped(settings)
        # A look opens logs, which over Kafka takes a client each.
        self.every_s = 10.0 if settings.kafka else 3.0
        self._registry: Registry | None = None
        self._last: tuple[int, int, Closing | None] | None = None

    def look(self) -> Models:
        """Look again."""
        if not (self._settings.data / "models").is_dir():
            return _with(_NOTHING, note="there is no model in this data directory yet; `tidemark retrain --from-scratch` makes the first")
        registry = self._opened()
        if registry is None:
            return _with(_NOTHING, note="models are read with `pip install 'tidemark[model]'`, which is not installed here")
        return self._look(registry)

    def close(self) -> None:
        """Nothing is open between looks."""

    def _opened(self) -> Registry | None:
        if self._registry is None:
            try:
                # Not before there is a model: its tensors are read with a package of their own.
                from online_model.registry.registry import Registry
            except ImportError:
                return None
            self._registry = Registry.of(self._settings)
        return self._registry

    def _look(self, registry: Registry) -> Models:
        from online_model.registry.errors import NoModelError

        note, current = "", None
        try:
            current = registry.current()
        except NoModelError as error:
            note = str(error)
        numbers = registry.bases.numbers()
        return Models(
            note=note,
            served=current.base if current is not None else None,
            shares=[_share(role, share) for role, share in _shares(current).items()],
            bases=[_base(registry, current, number) for number in reversed(numbers[-SHOWN:])],
            more_bases=max(0, len(numbers) - SHOWN),
            switches=[Switch(p.as_of, p.start.base, p.start.delta, p.reason) for p in reversed(current.history[-SHOWN:])]
            if current
            else [],
            learner=self._learner(registry, current.base) if current is not None else None,
            retrain=_retrain(registry),
            refused=_refused(registry),
        )

    def _learner(self, registry: Registry, base: int) -> Learner:
        running = is_held(registry.directory / LEARNERS / f"{base}.lock")
        with ExitStack() as stack:
            embeddings, examples = (self._log(stack, name) for name in (EMBEDDINGS, EXAMPLES))
            last = self._last_delta(embeddings, base) if embeddings is not None else None
            if last is None:
                return Learner(running, None, None, None, None)
            lag = None
            if examples is not None and len(last.positions) == examples.partitions:
                lag = sum(max(0, end - at) for end, at in zip(examples.end_positions(), last.positions, strict=True))
            newest, ready = (time if time >= 0 else None for time in (last.newest_event_time, last.ready_time))
            return Learner(running, last.delta, newest, ready, lag)

    def _last_delta(self, embeddings: Log, base: int) -> Closing | None:
        """What closes the last delta of a base; read where the log has grown."""
        from online_model.deltas.chain import last_closing

        end = embeddings.end_position(0)
        if self._last is None or self._last[:2] != (base, end):
            self._last = base, end, last_closing(embeddings, base)
        return self._last[2]

    def _log(self, stack: ExitStack, name: str) -> Log | None:
        return stack.enter_context(open_live_log(self._settings, name, read_only=True)) if log_exists(self._settings, name) else None


def _with(models: Models, note: str) -> Models:
    return Models(**{**models.__dict__, "note": note})


def _shares(current: Current | None) -> dict[str, Share]:
    held = {"canary": current.canary, "holdout": current.holdout} if current is not None else {}
    return {role: share for role, share in held.items() if share is not None}


def _share(role: str, share: Share) -> ShareSaid:
    from online_model.registry.buckets import BUCKETS

    return ShareSaid(role, share.start.base, share.buckets / BUCKETS)


def _base(registry: Registry, current: Current | None, number: int) -> BaseSaid:
    from online_model.registry import snapshots
    from online_model.registry.registry import describe_roles

    roles, base, problem = describe_roles(current, number), None, None
    try:
        base = registry.bases.opened(number)
        registry.bases.expected.check(base.manifest.about, f"base {number}")
    except TidemarkError as error:
        problem = str(error)
    if base is None:
        return BaseSaid(number, roles, None, None, 0, 0, None, None, problem)
    about, taken = base.manifest.about, snapshots.numbers(base)
    return BaseSaid(
        base=number,
        roles=roles,
        made_as_of=about.made_as_of,
        parent=about.parent,
        bytes=_bytes(base),
        snapshots=len(taken),
        newest_snapshot=taken[0] if taken else None,
        evaluation=evaluation(about.metrics),
        problem=problem,
    )


def _bytes(base: Base) -> int:
    return sum(entry.bytes for entry in base.manifest.files.values())


def evaluation(metrics: Mapping[str, Any]) -> Evaluation | None:
    """What a manifest's metrics say of the gate; None where it was asked nothing. Whoever wrote the manifest decides what is there."""
    gate = metrics.get("gate")
    if not isinstance(gate, Mapping) or not isinstance(gate.get("passed"), bool):
        return None
    candidate, incumbent = (_measured(gate.get(side)) for side in ("candidate", "incumbent"))
    heads = [Head(head, values, incumbent.get(head)) for head, values in candidate.items()]
    rows = gate.get("rows")
    return Evaluation(gate["passed"], str(gate.get("reason", "")), rows if type(rows) is int else None, heads)


def _measured(said: Any) -> dict[str, dict[str, float | None]]:
    if not isinstance(said, Mapping):
        return {}
    return {
        str(head): {name: _number(values.get(name)) for name in METRICS if name in values}
        for head, values in said.items()
        if isinstance(values, Mapping)
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _retrain(registry: Registry) -> Retrain | None:
    from online_model.retrain.work import Work

    work = Work(registry)
    plan = work.plan()
    if plan is None:
        return None
    done = [name for name in ("trained", "judged", "published") if work.has(f"{name}.json")]
    stage = {"trained": "the gate judges it", "judged": "it is being published", "published": "it catches up, to be served"}
    spans = plan.get("spans")
    as_of = spans.get("as_of") if isinstance(spans, Mapping) else None
    said = stage[done[-1]] if done else "it is being trained"
    return Retrain(is_held(registry.directory / "RETRAIN"), as_of if type(as_of) is int else None, said)


def _refused(registry: Registry) -> Refused | None:
    from online_model.registry import durable
    from online_model.registry.manifest import MANIFEST, Manifest

    path = registry.directory / REFUSED / MANIFEST
    if not path.is_file():
        return None
    about = Manifest.from_bytes(durable.read(path), str(path)).about
    return Refused(about.made_as_of, evaluation(about.metrics))
