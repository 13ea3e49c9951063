"""PinnerFormer: a causal transformer over a user's actions, and a tower for pins; both end in unit vectors of one space (sections 3.1 and 3.2).

An output knows the actions up to its own and nothing later. Rows are padded on the right, so no output of an action ever sees padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from online_model.embedding.config import EmbeddingConfig
from online_model.embedding.time_features import (
    ABSOLUTE_PERIODS_MS,
    RELATIVE_PERIODS,
    TimeRotation,
    gaps,
    log_seconds,
    log_spaced,
    time_features,
)

CODES = 128
"""Codes of actions and surfaces are below it."""
_CODE_DIM = 16
_LOG_SCALE = 0.1
"""Of logarithms of times, as the first layer takes them: that of today is 21, and would drown what lies between −1 and 1."""


@dataclass(frozen=True, eq=False)
class ActionBatch:
    """Actions of B users, padded on the right to L.

    Attributes
    ----------
    pin : int64[B, L]
        Rows of the vectors; the number of vectors: a pin without one.
    action, surface : int64[B, L]
    duration_ms, time_ms : int64[B, L]
    length : int64[B]
    """

    pin: torch.Tensor
    action: torch.Tensor
    surface: torch.Tensor
    duration_ms: torch.Tensor
    time_ms: torch.Tensor
    length: torch.Tensor

    def to(self, device: torch.device) -> ActionBatch:
        """The same elsewhere."""
        return ActionBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class Vectors(nn.Module):
    """Pins' vectors as the towers take them (`scaled`); one more row stands for pins without a vector.

    Parameters
    ----------
    vectors : float32[m, d]
    trained : bool
        Whether they are learned too.
    """

    def __init__(self, vectors: torch.Tensor, trained: bool) -> None:
        super().__init__()
        self.unknown = nn.Parameter(torch.zeros(vectors.shape[1]))
        if trained:
            self.table = nn.Parameter(vectors.clone())
        else:
            self.register_buffer("table", vectors, persistent=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Vectors of rows: float32[..., d]."""
        if not len(self.table):
            return self.unknown.expand(*rows.shape, -1)
        known = (rows < len(self.table)).unsqueeze(-1)
        return torch.where(known, scaled(functional.embedding(rows.clamp(max=len(self.table) - 1), self.table)), self.unknown)


def scaled(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors of length √d, whatever length they were given with; 0 stays 0."""
    with torch.no_grad():
        # Squares of what float32 holds don't fit into it. A power of two, applied in float64, changes no bit of any other vector's result.
        exponent = torch.frexp(vectors.abs().amax(dim=-1, keepdim=True)).exponent
        power = torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), -exponent)
    return functional.normalize((vectors.double() * power).to(vectors.dtype), dim=-1) * math.sqrt(vectors.shape[-1])


class Block(nn.Module):
    """A pre-norm block: x + attention(norm(x)), then x + feed-forward(norm(x)).

    Parameters
    ----------
    config : EmbeddingConfig
    """

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__()
        self._heads = config.heads
        self.norm_attention, self.norm_forward = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.asked, self.attended = nn.Linear(config.dim, 3 * config.dim), nn.Linear(config.dim, config.dim)
        self.forward_net = nn.Sequential(nn.Linear(config.dim, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.dim))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, steps: torch.Tensor, rotation: TimeRotation | None) -> torch.Tensor:
        """float32[B, L, dim] → the same."""
        users, length, dim = steps.shape
        asked = self.asked(self.norm_attention(steps)).view(users, length, 3, self._heads, dim // self._heads)
        query, key, value = (asked[:, :, i].transpose(1, 2) for i in range(3))
        if rotation is not None:
            query, key = rotation(query), rotation(key)
        looked = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        steps = steps + self.dropout(self.attended(looked.transpose(1, 2).reshape(users, length, dim)))
        return steps + self.dropout(self.forward_net(self.norm_forward(steps)))


class PinnerFormer(nn.Module):
    """Both towers.

    Parameters
    ----------
    config : EmbeddingConfig
    vectors : float32[m, d]
        Of pins, d = `config.vector_dim`. Learned too where the configuration says so.
    """

    absolute_periods: torch.Tensor
    gap_periods: torch.Tensor
    head_periods: torch.Tensor

    def __init__(self, config: EmbeddingConfig, vectors: torch.Tensor) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._make(config, vectors)

    def _make(self, config: EmbeddingConfig, vectors: torch.Tensor) -> None:
        self.vectors = Vectors(vectors, config.trained_vectors)
        self.action, self.surface = nn.Embedding(CODES, _CODE_DIM), nn.Embedding(CODES, _CODE_DIM)
        widths = {
            "pin": config.vector_dim, "action": _CODE_DIM, "surface": _CODE_DIM, "duration": 1,
            "absolute_time": 2 * len(ABSOLUTE_PERIODS_MS) + 1, "gap": 2 * RELATIVE_PERIODS + 1,
        }  # fmt: skip
        self.into = nn.Linear(max(1, sum(width for name, width in widths.items() if name in config.features)), config.dim)
        self.position = nn.Parameter(torch.randn(config.length, config.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self.user_head = _head(config.dim, config.head_hidden, config.output_dim)
        self.pin_head = _head(config.vector_dim, config.head_hidden, config.output_dim)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        # Pairs of each head that are turned, in all as many as there are periods, if the heads have room for them.
        pairs = min(RELATIVE_PERIODS // config.heads, config.dim // config.heads // 2)
        spread = log_spaced(max(pairs, 1) * config.heads)
        self.register_buffer("absolute_periods", torch.tensor(ABSOLUTE_PERIODS_MS), persistent=False)
        self.register_buffer("gap_periods", torch.tensor(log_spaced()), persistent=False)
        self.register_buffer("head_periods", torch.tensor(spread).view(-1, config.heads).T[:, :pairs].contiguous(), persistent=False)

    @property
    def temperature(self) -> torch.Tensor:
        """Learned, and never below the least."""
        return self.log_temperature.exp().clamp(min=self.config.least_temperature)

    def states(self, batch: ActionBatch) -> torch.Tensor:
        """What the transformer makes of each action and those before it: float32[B, L, dim]."""
        steps = self.into(self._inputs(batch)) + self.position[: batch.pin.shape[1]]
        turned = "since_latest" in self.config.features and self.head_periods.numel() > 0
        rotation = TimeRotation(batch.time_ms, self.head_periods) if turned else None
        for block in self.blocks:
            steps = block(steps, rotation)
        return self.norm(steps)

    def _inputs(self, batch: ActionBatch) -> torch.Tensor:
        of = {
            "pin": lambda: self.vectors(batch.pin),
            "action": lambda: self.action(batch.action),
            "surface": lambda: self.surface(batch.surface),
            "duration": lambda: log_seconds(batch.duration_ms) * _LOG_SCALE,
            "absolute_time": lambda: _less_log(time_features(batch.time_ms, self.absolute_periods)),
            "gap": lambda: _less_log(time_features(gaps(batch.time_ms), self.gap_periods)),
        }
        parts = [make() for name, make in of.items() if name in self.config.features]
        # Without any feature an action is its position alone.
        return torch.cat(parts, -1) if parts else torch.zeros(*batch.pin.shape, 1)

    def outputs(self, states: torch.Tensor) -> torch.Tensor:
        """The user as each state tells: float32[..., D], of length 1."""
        return functional.normalize(self.user_head(states), dim=-1)

    def pins(self, vectors: torch.Tensor) -> torch.Tensor:
        """Pins by their vectors, as `vectors` gives them: float32[..., D], of length 1."""
        return functional.normalize(self.pin_head(vectors), dim=-1)


def _less_log(features: torch.Tensor) -> torch.Tensor:
    """Features of times with the last one, the logarithm, scaled."""
    return torch.cat([features[..., :-1], features[..., -1:] * _LOG_SCALE], -1)


def _head(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))
