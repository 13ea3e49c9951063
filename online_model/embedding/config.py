"""What an embedding is made of and how it is trained, as one value: the same configuration, seed and actions make the same embedding.

It goes into every version's manifest, so a field never changes its meaning, and nothing here depends on the machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from flows.configured import configured
from flows.errors import SettingsError
from flows.settings import DAY_MS
from flows.toml_file import read_toml
from flows.vocabulary import suggestion


class Objective(StrEnum):
    """What an output must tell (section 3.4)."""

    NEXT_ACTION = "next_action"
    """The action after the last one, if it is positive."""
    SASREC = "sasrec"
    """At each action the one after it, if it is positive (Kang and McAuley 2018)."""
    ALL_ACTION = "all_action"
    """At the last action, positive ones of the window after it."""
    DENSE_ALL_ACTION = "dense_all_action"
    """At some actions, a positive one of the window after each."""


class Negatives(StrEnum):
    """What a positive pin is told from (section 3.3.1)."""

    RANDOM = "random"
    IN_BATCH = "in_batch"
    MIXED = "mixed"


FEATURES = ("pin", "action", "surface", "duration", "absolute_time", "since_latest", "gap")
"""What the model may know of an action."""
_SELF = "embedding: "
_RULE = re.compile(r"\s*(?P<action>[^\s@>]+)\s*(?:@\s*(?P<surface>[^\s@>]+)\s*)?(?:>\s*(?P<seconds>\d+(?:\.\d+)?)\s*s\s*)?")
MOST_SEED, MOST_EPOCHS, MOST_LENGTH = 2**63 - 1, 100_000, 65_536
_COUNTS = {  # field: the least that makes sense, and the most: beyond, memory or numbers of 64 bits are the limit, far behind any use
    "length": (1, MOST_LENGTH), "vector_dim": (1, 65_536), "dim": (1, 65_536), "layers": (1, 1_000), "heads": (1, 65_536), "hidden": (1, 1 << 20),
    "output_dim": (1, 65_536), "head_hidden": (1, 1 << 20), "samples": (1, 1 << 20), "random_negatives": (1, 1 << 24), "sketch_width": (2, 1 << 24),
    "sketch_depth": (1, 64), "batch_users": (2, 1 << 20), "epochs": (1, MOST_EPOCHS), "checkpoint_every": (1, 2**62), "seed": (0, MOST_SEED),
}  # fmt: skip


@dataclass(frozen=True)
class Positive:
    """Which actions are positive: those of a name, on a surface or on any, that took longer than so many ms.

    As a text: `save`, `closeup > 10s`, `click@homefeed > 10s`.
    """

    action: str
    surface: str | None = None
    longer_than_ms: int | None = None

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a text.

        Raises
        ------
        SettingsError
        """
        found = _RULE.fullmatch(text)
        if found is None:
            raise SettingsError(f"embedding: '{text}' says no positive action; write save, closeup > 10s or click@homefeed > 10s")
        seconds = found["seconds"]
        return cls(found["action"], found["surface"], round(float(seconds) * 1000) if seconds else None)


@dataclass(frozen=True)
class EmbeddingConfig:
    """An embedding. The defaults are sized for two CPU cores.

    Parameters
    ----------
    length : int
        So many of a user's newest actions are looked at (the paper's M, 256).
    vector_dim : int
        Width of pins' vectors.
    dim, layers, heads, hidden : int
        Of the transformer: width, blocks, attention heads, width of the feed-forward.
    head_hidden, output_dim : int
        Of both towers' MLPs, and of what users and pins become.
    features : sequence of str
        What the model knows of an action, of FEATURES.
    positives : sequence of str
        Which actions are positive, as `Positive` has them.
    objective : Objective
    window_days : float
        Positive actions count so long after an output (28 days).
    samples : int
        All action: positives of a user in a batch. Dense all action: outputs of a user that are trained in a batch (32 both).
    negatives : Negatives
    random_negatives : int
        Drawn for a batch from all pins with a vector, each as likely as the other.
    log_q : bool
        Whether logits are corrected by how likely a pin is among the candidates (section 3.3.2).
    sketch_width, sketch_depth : int
        Of the count-min sketch that estimates it.
    temperature, least_temperature : float
        Where the learned temperature begins, and what it is never below.
    trained_vectors : bool
        Pins' vectors are learned too, beginning with those given: for data of few pins without content.
    batch_users, epochs, learning_rate, warmup, weight_decay, dropout, clip : training
        AdamW; `warmup` is the share of the steps in which the rate rises, `clip` the greatest norm of a gradient.
    checkpoint_every : int
        Batches. Decides no weight.
    seed : int

    Raises
    ------
    SettingsError
        A value makes no embedding.
    """

    length: int = 256
    vector_dim: int = 256
    dim: int = 64
    layers: int = 2
    heads: int = 2
    hidden: int = 256
    head_hidden: int = 256
    output_dim: int = 256
    features: Sequence[str] = FEATURES
    positives: Sequence[str] = ("save@homefeed", "closeup@homefeed > 10s", "click@homefeed > 10s", "long_click@homefeed > 10s")
    objective: Objective = Objective.DENSE_ALL_ACTION
    window_days: float = 28.0
    samples: int = 32
    negatives: Negatives = Negatives.MIXED
    random_negatives: int = 1_024
    log_q: bool = True
    sketch_width: int = 65_536
    sketch_depth: int = 4
    temperature: float = 0.1
    least_temperature: float = 0.01
    trained_vectors: bool = False
    batch_users: int = 32
    epochs: int = 10
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    dropout: float = 0.1
    clip: float = 1.0
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _COUNTS.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise SettingsError(f"embedding: {name} must be a whole number of at least {least}, not {value!r}")
            if value > most:
                raise SettingsError(f"embedding: {name} must be at most {most}, not {value}")
        for name, low, high in (
            ("window_days", 0.0, 36_500.0), ("temperature", 0.0, 100.0), ("least_temperature", 0.0, 100.0), ("learning_rate", 0.0, 1e3),
            ("clip", 0.0, 1e9),
        ):  # fmt: skip
            value = getattr(self, name)
            if type(value) not in (int, float) or not (math.isfinite(value) and low < value <= high):
                raise SettingsError(f"embedding: {name} must be above {low:g} and at most {high:g}, not {value!r}")
        for name in ("dropout", "warmup", "weight_decay"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value < 1:
                raise SettingsError(f"embedding: {name} must be at least 0 and below 1, not {value!r}")
        if self.dim % self.heads:
            raise SettingsError(f"embedding: dim {self.dim} can't be shared by {self.heads} heads; give a multiple")
        if self.temperature < self.least_temperature:
            raise SettingsError(f"embedding: temperature {self.temperature} is below least_temperature {self.least_temperature}")
        for name, kind in (("objective", Objective), ("negatives", Negatives)):
            value, known = getattr(self, name), [one.value for one in kind]
            if value not in known:
                raise SettingsError(f"embedding: there is no {name} '{value}'{suggestion(str(value), known)}; there are {', '.join(known)}")
            object.__setattr__(self, name, kind(value))
        for name in ("features", "positives"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        for one in self.features:
            if one not in FEATURES:
                raise SettingsError(
                    f"embedding: there is no feature '{one}'{suggestion(one, list(FEATURES))}; there are {', '.join(FEATURES)}"
                )
        for one in self.positives:
            Positive.of(one)

    @property
    def window_ms(self) -> int:
        """`window_days` in ms."""
        return round(self.window_days * DAY_MS)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a manifest keeps them."""
        return asdict(self) | {
            "objective": self.objective.value,
            "negatives": self.negatives.value,
            "features": list(self.features),
            "positives": list(self.positives),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "embedding") -> Self:
        """What `to_dict` gave.

        Raises
        ------
        SettingsError
            A field isn't known, or makes no embedding.
        """
        try:
            return configured(cls, values, where)
        except SettingsError as error:
            # What a value says of itself doesn't know where it stood.
            said = str(error)
            raise SettingsError(f"{where}: {said.removeprefix(_SELF)}" if said.startswith(_SELF) else said) from None


def read_config(path: Path) -> EmbeddingConfig:
    """A TOML file with a table [embedding].

    Raises
    ------
    SettingsError
        A name isn't known, or a value makes no embedding.
    """
    content = read_toml("model file", path)
    for table in content:
        if table != "embedding" or not isinstance(content[table], dict):
            raise SettingsError(f"model file {path}: there is no table [{table}]; there is [embedding]")
    return EmbeddingConfig.from_dict(content.get("embedding", {}), f"model file {path}: [embedding]")


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(one, str) for one in value) or not value:
        raise SettingsError(f"embedding: {name} must be a list of texts, not {value!r}")
    return tuple(value)
