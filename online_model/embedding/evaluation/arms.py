"""One arm of an evaluation on one seed: trained, inferred, measured, and what came of it user by user, so that any two rows can be compared.

What an arm gives is a function of world, split and configuration, and is kept by a digest of these; so is a training that is stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from online_model.embedding.config import EmbeddingConfig
from online_model.embedding.embedding_model import EmbeddingModel
from online_model.embedding.evaluation.measures import ENTROPY_K, K, entropy_of_topics, found, nearest, recall_of_users
from online_model.embedding.evaluation.plan import ALL, EvaluationPlan
from online_model.embedding.evaluation.refresh import Refresh, known_before, prefixes
from online_model.embedding.evaluation.split import Split, split
from online_model.embedding.evaluation.worlds import EvaluatedWorld
from online_model.embedding.learned_vectors import learned_vectors
from online_model.embedding.pin_vectors import PinVectors
from online_model.embedding.positives import is_positive
from online_model.embedding.training import train
from online_model.embedding.version import trained_vectors
from online_model.registry.build import build_of
from online_model.studies.kept import Kept, digest_of

Told = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Measured:
    """What an arm has shown under one refresh.

    Attributes
    ----------
    recall : dict of str to float64[u]
        By type of what is to be found: of each evaluated user that has something to be found of any type; nan for those without one of this type.
    entropy : float64[u] or None
        None where nobody knows topics.
    near : int64[u, k]
        The nearest pins, as places in the corpus.
    """

    recall: Mapping[str, np.ndarray]
    entropy: np.ndarray | None
    near: np.ndarray


class Bench:
    """A world and a split, on which all arms of a seed are made.

    Parameters
    ----------
    plan : EvaluationPlan
    world : EvaluatedWorld
    seed : int
    work : Path
        Where results lie.

    Attributes
    ----------
    split : Split
    corpus : int64[c]
        The pins that others are ranked among: places in `pin_ids`, ascending. All have a vector.
    users : int64[u]
        Those who have something to be found: places in the evaluated users.
    """

    def __init__(self, plan: EvaluationPlan, world: EvaluatedWorld, seed: int, work: Path) -> None:
        self.plan, self.world, self.seed = plan, world, seed
        # Intervals over seeds take their users for different ones: so they are, in one world too.
        self._who = (seed, 0) if plan.simulated else (plan.seeds[0], plan.seeds.index(seed))
        self.split: Split = split(world.sequences, plan.window_days, plan.evaluated, self._who[0], plan.history_days, self._who[1])
        self._kept, self._checkpoints = Kept(work / "arms"), work / "checkpoints"
        self._rules: dict[str, Sequence[str]] = {ALL: plan.embedding.positives, **plan.types}
        self._vectors: dict[int, PinVectors] = {}
        known = self.vectors(plan.embedding.vector_dim).rows_of(world.sequences.pin_ids) >= 0
        self._asked = {name: self.split.targets(rules) for name, rules in self._rules.items()}
        self.targets = {name: targets.where(known[targets.pin]) for name, targets in self._asked.items()}
        self.users = np.unique(np.concatenate([targets.user for targets in self.targets.values()]))
        pins = np.flatnonzero(known)
        if 0 < plan.corpus < len(pins):
            pins = np.sort(np.random.default_rng([seed, 2]).choice(pins, plan.corpus, replace=False))
        self.corpus = pins

    @property
    def asked(self) -> int:
        """Pins that could be found if all had a vector."""
        return len(self._asked[ALL])

    def vectors(self, dim: int) -> PinVectors:
        """Pins' vectors, learned from what training users did before the window."""
        if dim not in self._vectors:
            self._vectors[dim] = learned_vectors(self.split.train, dim, self.seed)
        return self._vectors[dim]

    @cached_property
    def _said(self) -> dict[str, Any]:
        """What decides results beside an arm: not how often users are drawn."""
        plan = self.plan
        return {
            "world": self.world.digest(), "seed": self.seed, "who": list(self._who), "evaluated": plan.evaluated, "corpus": plan.corpus,
            "window_days": plan.window_days, "history_days": plan.history_days,
            "rules": {name: list(rules) for name, rules in self._rules.items()},
        }  # fmt: skip

    def config_of(self, arm: Mapping[str, Any]) -> EmbeddingConfig:
        """An arm's configuration on this seed."""
        return replace(self.plan.embedding, **arm, seed=self.seed)

    def measured(self, arm: Mapping[str, Any], refreshes: Sequence[Refresh], told: Told) -> dict[Refresh, Measured]:
        """An arm under each refresh; found where it was kept.

        Raises
        ------
        NoPositivesError, VectorsError
            There is nothing to learn from.
        TrainingStoppedError
            The process was asked to stop.
        """
        config = self.config_of(arm)
        vectors = self.vectors(config.vector_dim)
        said = {
            **self._said,
            "vectors": vectors.digest(),
            "config": config.to_dict() | {"checkpoint_every": None},
            "build": asdict(build_of(self.seed)),
        }
        out = {one: kept for one in refreshes if (kept := self._find(one, said)) is not None}
        missing = [one for one in refreshes if one not in out]
        if missing:
            place = self._checkpoints / digest_of(said)
            model, _ = train(self.split.train, vectors, config, place, lambda done, of: told("training", done, of))
            pins = model.pins(trained_vectors(model))
            for one in missing:
                told(f"inferring, {one}", 0, 0)
                out[one] = self._measure(model, pins, config.length, one)
                self._keep(one, said, out[one])
            shutil.rmtree(place, ignore_errors=True)
        return out

    def _measure(self, model: EmbeddingModel, pins: np.ndarray, length: int, refresh: Refresh) -> Measured:
        before, s = self.split.begin_ms, self.split.evaluated
        rows = model.vectors.rows_of(self.world.sequences.pin_ids)
        recall = {}
        for name, targets in self.targets.items():
            known, which = prefixes(s, targets.user, known_before(refresh, targets.time_ms, before), length)
            hit = found(model.users(known), pins, rows[self.corpus], which, rows[targets.pin])
            recall[name] = recall_of_users(hit, targets.user, len(s))[self.users]
        known, which = prefixes(s, self.users, np.full(len(self.users), before), length)
        return self._nearest(recall, model.users(known)[which], pins[rows[self.corpus]])

    def _nearest(self, recall: dict[str, np.ndarray], users: np.ndarray, corpus: np.ndarray) -> Measured:
        near = nearest(users, corpus, np.arange(len(corpus)), ENTROPY_K)
        topics = self.world.topics
        return Measured(recall, None if topics is None else entropy_of_topics(near, topics[self.corpus]), near[:, :K])

    def popular(self) -> Measured:
        """Pins by how often training users act on them in a positive way before the window, for everybody the same."""
        train = self.split.train
        times = np.bincount(train.pin[is_positive(train, self._rules[ALL])], minlength=len(train.pin_ids))
        # A user vector of one number, 1, and of each pin its count: the same ranking, by the same code.
        users, pins = np.ones((len(self.split.evaluated), 1), np.float32), times[:, None].astype(np.float32)
        recall = {
            name: recall_of_users(found(users, pins, self.corpus, targets.user, targets.pin), targets.user, len(users))[self.users]
            for name, targets in self.targets.items()
        }
        return self._nearest(recall, users[self.users], pins[self.corpus])

    def _find(self, refresh: Refresh, said: Mapping[str, Any]) -> Measured | None:
        kept = self._kept.get(refresh, said)
        if kept is None:
            return None
        recall = {name: kept[f"recall {name}"] for name in self._rules}
        return Measured(recall, kept.get("entropy"), kept["near"])

    def _keep(self, refresh: Refresh, said: Mapping[str, Any], measured: Measured) -> None:
        arrays = {f"recall {name}": values for name, values in measured.recall.items()} | {"near": measured.near}
        self._kept.put(refresh, said, arrays | ({} if measured.entropy is None else {"entropy": measured.entropy}))
