"""What a learner makes of labels that come late: which records it learns from, as what, and with what weight.

A pin is seen long before it is known what comes of it. No way of dealing with that may look at what wasn't known yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from flows.examples.record import HEADS, MASKED, Kind

if TYPE_CHECKING:
    # Whoever makes batches ready imports this module, and does without torch.
    import torch


class DelayedLabels(StrEnum):
    """Ways of dealing with them.

    FAKE_NEGATIVE takes each pin that was seen as negative on every head at once, and each outcome as a positive beside that when it comes. With
    weights of (1 − p)(1 + p) and 1 + p, p being what the model says itself, expected gradients are those of the true labels (Ktena et al.,
    "Addressing delayed feedback for continuous training with neural networks in CTR prediction", 2019, section 4.4).
    WAIT learns from final labels alone. POSITIVES_FIRST takes outcomes when they come and negatives when they are final, uncorrected: young pins
    seem to be liked by all who see them.
    """

    FAKE_NEGATIVE = "fake-negative"
    WAIT = "wait"
    POSITIVES_FIRST = "positives-first"


KINDS: Mapping[DelayedLabels, tuple[Kind, ...]] = {
    DelayedLabels.FAKE_NEGATIVE: (Kind.NEGATIVE, Kind.POSITIVE),
    DelayedLabels.WAIT: (Kind.FINAL,),
    DelayedLabels.POSITIVES_FIRST: (Kind.POSITIVE, Kind.FINAL),
}
"""What is learned from; other records are passed over."""


def learned_from(kind: np.ndarray, way: DelayedLabels) -> np.ndarray:
    """Which records are learned from: bool[n], of records of these kinds, int8[n]."""
    kept = np.zeros(len(kind), np.bool_)
    for one in KINDS[way]:
        kept |= kind == int(one)
    return kept


def labels_of(kind: np.ndarray, labels: np.ndarray, way: DelayedLabels) -> tuple[np.ndarray, np.ndarray]:
    """What records that are learned from say.

    Parameters
    ----------
    kind : int8[n]
    labels : int8[n, 5]
        As they lie in EXAMPLES.
    way : DelayedLabels

    Returns
    -------
    labels : int8[n, 5]
        In the order of HEADS: 0, 1, or MASKED for what isn't learned.
    sighted : bool[n]
        Whether a record counts as a sighting of its user and pin: one record for each time that a pin was seen.
    """
    if way == DelayedLabels.FAKE_NEGATIVE:
        return labels, kind == Kind.NEGATIVE
    final = kind == Kind.FINAL
    # Of a save there are two final records: the first says nothing of revisits, the second of nothing else.
    sighted = final & (labels[:, : len(HEADS) - 1] != MASKED).any(1)
    if way == DelayedLabels.POSITIVES_FIRST:
        labels = np.where(final[:, None] & (labels == 1), np.int8(MASKED), labels)
    return labels, sighted


def weights_for(logits: torch.Tensor, labels: torch.Tensor, way: DelayedLabels) -> torch.Tensor:
    """What each record and head counts for.

    Parameters
    ----------
    logits : float32[n, heads]
        Before the record is learned from. No gradient goes through.
    labels : int8[n, heads]
    way : DelayedLabels

    Returns
    -------
    float32[n, heads]
    """
    if way != DelayedLabels.FAKE_NEGATIVE:
        return logits.new_ones(logits.shape)
    p = logits.detach().sigmoid()
    return (1 + p).where(labels == 1, (1 - p) * (1 + p))
