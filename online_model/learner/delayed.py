"""What a learner makes of labels that come late: which records it learns from, as what, and with what weight.

A pin is seen long before it is known what comes of it. No way of dealing with that may look at what wasn't known yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
import torch

from flows.examples.record import HEADS, MASKED, Kind
from flows.examples.rows import ExampleRows


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


def learned_from(rows: ExampleRows, way: DelayedLabels) -> tuple[ExampleRows, np.ndarray, np.ndarray]:
    """The records that are learned from.

    Parameters
    ----------
    rows : ExampleRows
    way : DelayedLabels

    Returns
    -------
    rows : ExampleRows
        k of them, in their order.
    labels : int8[k, 5]
        In the order of HEADS: 0, 1, or MASKED for what isn't learned.
    sighted : bool[k]
        Whether a record counts as a sighting of its user and pin: one record for each time that a pin was seen.
    """
    kept = np.zeros(len(rows), np.bool_)
    for kind in KINDS[way]:
        kept |= rows.kind == kind
    if not kept.all():
        rows = rows.at(np.flatnonzero(kept))
    labels = rows.labels
    if way == DelayedLabels.FAKE_NEGATIVE:
        return rows, labels, rows.kind == Kind.NEGATIVE
    final = rows.kind == Kind.FINAL
    if way == DelayedLabels.POSITIVES_FIRST:
        labels = np.where(final[:, None] & (labels == 1), np.int8(MASKED), labels)
    # Of a save there are two final records: the first says nothing of revisits, the second of nothing else.
    return rows, labels, final & (rows.labels[:, : len(HEADS) - 1] != MASKED).any(1)


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
        return torch.ones_like(logits)
    p = torch.sigmoid(logits.detach())
    return torch.where(labels == 1, 1 + p, (1 - p) * (1 + p))
