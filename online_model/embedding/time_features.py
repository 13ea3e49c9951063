"""Times as the model sees them (section 3.1, appendix A.1): sine and cosine of fixed periods, and a logarithm.

For a time t and P periods there are 2P + 1 features: sin(2πt/p) of each, cos(2πt/p) of each, ln(1 + t in seconds). Periods are whole ms, and what is
left of a time after whole periods is exact, so a day forty years away is told as well as one of today.
"""

from __future__ import annotations

import math

import torch

from flows.settings import DAY_MS, HOUR_MS

ABSOLUTE_PERIODS_MS = (
    HOUR_MS // 4, HOUR_MS // 2, HOUR_MS, 2 * HOUR_MS, 4 * HOUR_MS, 8 * HOUR_MS, 12 * HOUR_MS, DAY_MS, 7 * DAY_MS, 28 * DAY_MS, 365 * DAY_MS,
)  # fmt: skip
"""Of the time of an action: parts of an hour and of a day, day, week, four weeks, year."""
RELATIVE_PERIODS = 32


def log_spaced(count: int = RELATIVE_PERIODS, least_ms: int = 1_000, most_ms: int = 28 * DAY_MS) -> tuple[int, ...]:
    """Periods whose logarithms are evenly spaced, from 1 s to 4 weeks: whole ms."""
    step = (math.log(most_ms) - math.log(least_ms)) / max(count - 1, 1)
    return tuple(round(least_ms * math.exp(step * i)) for i in range(count))


def angles(time_ms: torch.Tensor, periods_ms: torch.Tensor) -> torch.Tensor:
    """2πt/p, less whole turns: float32[..., P].

    Parameters
    ----------
    time_ms : int64[...]
    periods_ms : int64[P]
    """
    left = torch.remainder(time_ms.unsqueeze(-1), periods_ms)
    return (left.double() / periods_ms * (2 * math.pi)).float()


def time_features(time_ms: torch.Tensor, periods_ms: torch.Tensor) -> torch.Tensor:
    """Features of times that are not negative: float32[..., 2P + 1]."""
    turned = angles(time_ms, periods_ms)
    return torch.cat([turned.sin(), turned.cos(), log_seconds(time_ms)], -1)


def log_seconds(time_ms: torch.Tensor) -> torch.Tensor:
    """ln(1 + t in seconds): float32[..., 1]."""
    return torch.log1p(time_ms.double() / 1_000).float().unsqueeze(-1)


def gaps(time_ms: torch.Tensor) -> torch.Tensor:
    """Of each action, the gap between the one before it and it, 0 for the first: int64[B, L].

    The paper's gap is that to the next action, which the action itself can't know. With the same gap told one action later, an output knows as much
    and nothing of what comes.
    """
    gap = torch.zeros_like(time_ms)
    gap[:, 1:] = (time_ms[:, 1:] - time_ms[:, :-1]).clamp(min=0)
    return gap


class TimeRotation:
    """How long before an output an action was, as attention sees it.

    Queries and keys are turned by their own times, so that their product follows from the time between them (as Su et al. 2021, RoFormer, have it
    of positions).

    The paper gives each action the time since the user's latest one. Where many outputs of a sequence are trained at once, each has another latest
    action, and the time since the last of all would tell an output of its future. Here each output sees the time since its own latest action.

    Parameters
    ----------
    time_ms : int64[B, L]
    periods_ms : int64[H, R]
        Each head has its own; the first 2R numbers of a query and a key are turned.
    """

    def __init__(self, time_ms: torch.Tensor, periods_ms: torch.Tensor) -> None:
        turned = angles(time_ms, periods_ms.reshape(-1))
        shape = (*time_ms.shape, *periods_ms.shape)
        # float32[B, H, L, R]
        self._cos, self._sin = turned.cos().view(shape).transpose(1, 2), turned.sin().view(shape).transpose(1, 2)

    def __call__(self, heads: torch.Tensor) -> torch.Tensor:
        """Turn float32[B, H, L, d]."""
        pairs = self._cos.shape[-1]
        one, other, rest = heads.split([pairs, pairs, heads.shape[-1] - 2 * pairs], -1)
        return torch.cat([one * self._cos - other * self._sin, one * self._sin + other * self._cos, rest], -1)
