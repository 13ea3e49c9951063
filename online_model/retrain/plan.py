"""What is asked of a retrain, and where that makes it begin: the parent, what it is compared with, which examples. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.errors import FingerprintError, SettingsError
from flows.examples.store import Examples
from flows.run.display import moment
from online_model.model.config import ModelConfig
from online_model.registry.bases import Base
from online_model.registry.errors import NoModelError
from online_model.registry.registry import Registry
from online_model.retrain.errors import NoParentError
from online_model.retrain.gate import Rule
from online_model.retrain.spans import HeldBack, Spans, learned_by, next_spans, whole_store


@dataclass(frozen=True)
class Request:
    """What is asked for; with the offline store and the last full base it decides every byte of the new one.

    Attributes
    ----------
    held : HeldBack
    rule : Rule
    from_scratch : bool
        Begin with nothing, and learn the whole store; else go on from the base that is served.
    since : int or None
        From scratch: only what became known since then, ms.
    seed : int
    model, training, table : mapping
        From scratch: settings of `ModelConfig`, `TrainingConfig` and `TableConfig`; otherwise they are the parent's.
    learner : mapping
        Settings of `LearnerConfig` for the gate and the catching up, where they are to be others than those by which the served base is learned on.
    any_fingerprint : bool
        Examples of other fingerprints are learned from too, if their columns mean the same.
    user_embedding : int or None
        From scratch: the version of user embeddings that the model takes; otherwise it is the parent's.
    """

    held: HeldBack = field(default_factory=HeldBack)
    rule: Rule = field(default_factory=Rule)
    from_scratch: bool = False
    since: int | None = None
    seed: int = 0
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    table: Mapping[str, Any] = field(default_factory=dict)
    learner: Mapping[str, Any] = field(default_factory=dict)
    any_fingerprint: bool = False
    user_embedding: int | None = None


@dataclass(frozen=True)
class Planned:
    """What a retrain would do."""

    spans: Spans
    parent: Base | None
    incumbent: Base | None
    uncompared: str

    @property
    def note(self) -> str:
        """What whoever reads the outcome should know; empty if nothing."""
        spans = self.spans
        if spans.learned_until == spans.cut or spans.learned != spans.calibrated:
            return self.uncompared
        plain = f"nothing became known between {moment(spans.learned_until)} and {moment(spans.cut)}, so probabilities are not calibrated"
        return f"{self.uncompared}; {plain}" if self.uncompared else plain


def planned(registry: Registry, examples: Examples, request: Request, as_of: int) -> Planned:
    """Where a retrain begins, and which examples it takes. Changes nothing.

    Raises
    ------
    NoParentError, EmptyWindowError
    DamagedModelError, OtherFeaturesError, OtherVocabularyError
        The base that it would begin from is of no use.
    """
    incumbent, note = incumbent_of(registry, request.from_scratch)
    if incumbent is not None:
        _refuse_unknown_head(request, incumbent)
    if request.from_scratch:
        before = None if incumbent is None else learned_by(incumbent)
        spans = whole_store(examples, before, as_of, request.held, request.since)
        return Planned(spans, None, incumbent, note)
    if incumbent is None:
        raise NoParentError("there is no base to go on from; the first one is trained by `tidemark retrain --from-scratch`")
    return Planned(next_spans(examples, learned_by(incumbent), as_of, request.held), incumbent, incumbent, note)


def incumbent_of(registry: Registry, from_scratch: bool) -> tuple[Base | None, str]:
    """What is served, checked whole; None, with why, where a training from scratch can't be compared with it."""
    try:
        return registry.base(registry.current().base), ""
    except NoModelError:
        return None, ""
    except FingerprintError as error:
        if not from_scratch:
            raise
        return None, f"there is no comparison: {error}"


def _refuse_unknown_head(request: Request, incumbent: Base) -> None:
    """Before all the work: the gate decides by a head that both models have."""
    theirs = ModelConfig.from_dict(incumbent.manifest.about.config["model"])
    ours = ModelConfig.from_dict(dict(request.model)) if request.from_scratch else theirs
    if request.rule.head not in ours.heads or request.rule.head not in theirs.heads:
        both = ", ".join(head for head in ours.heads if head in theirs.heads)
        raise SettingsError(f"gate: head '{request.rule.head}' is not one of both models; decide by one of {both} (--gate)")
