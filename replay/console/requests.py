"""How this server does: requests a second, how long they take, rows that wait to be kept, and which model it ranks by."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import Metric

from online_model.serving.metrics import ENDPOINTS
from online_model.serving.service import Service
from replay.console.rates import Rates

_REQUESTS, _SECONDS = "tidemark_serving_requests", "tidemark_serving_request_seconds"
_SPAN_S = 60.0
_SHOWN = tuple(name for name in ENDPOINTS if name not in ("healthz", "readyz", "metrics", "console"))


@dataclass(frozen=True)
class Endpoint:
    """Requests of an endpoint.

    Attributes
    ----------
    requests : int
        Since the server's start.
    failed : int
        Of them, those with status 5xx.
    rate : float or None
        A second, of the last minute or so.
    p50_ms, p99_ms : float or None
        Of the same time, at most: the bound of the histogram's bucket. None: there were none; infinity is left out as null.
    """

    endpoint: str
    requests: int
    failed: int
    rate: float | None
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class Requests:
    """How this server does.

    Attributes
    ----------
    up_s : float
        Since its start.
    store : str
        "task state", or the Redis.
    trouble : str or None
        Why the store did not answer the last read.
    waiting : int
        Requests that wait for the store.
    kept, lost : int
        Rows of SERVED that are durable, and that never will be.
    log_trouble : str or None
        Why rows don't become durable.
    model, embedding : dict
        As in /readyz.
    """

    up_s: float
    store: str
    fingerprint: str
    trouble: str | None
    waiting: int
    endpoints: list[Endpoint]
    kept: int
    lost: int
    log_trouble: str | None
    model: dict[str, Any]
    embedding: dict[str, Any]


class RequestsSection:
    """See the module.

    Parameters
    ----------
    service : Service
    """

    every_s = 1.0

    def __init__(self, service: Service) -> None:
        self._service = service
        self._began = time.monotonic()
        self._rates: Rates[tuple[str, ...]] = Rates(_SPAN_S)

    def look(self) -> Requests:
        """Look again; nothing is asked of the store."""
        service, counts = self._service, counted(self._service.metrics.registry.collect())
        self._rates.add(counts)
        waiting = counts.get(("tidemark_serving_waiting_requests",), 0.0)
        return Requests(
            up_s=time.monotonic() - self._began,
            store=service.settings.online or "task state",
            fingerprint=service.fingerprint,
            trouble=service.trouble,
            waiting=int(waiting),
            endpoints=[found for name in _SHOWN if (found := self._endpoint(name, counts)) is not None],
            kept=service.log.kept,
            lost=service.log.lost,
            log_trouble=service.log.trouble,
            model=service.rankings.told(),
            embedding=service.rankings.embeddings_told(),
        )

    def close(self) -> None:
        """Nothing is open."""

    def _endpoint(self, name: str, counts: dict[tuple[str, ...], float]) -> Endpoint | None:
        total = counts.get((_REQUESTS, name), 0.0)
        if not total:
            return None
        buckets = [(float(key[2]), key) for key in counts if key[:2] == (_SECONDS, name)]
        grown = [(bound, found[0]) for bound, key in sorted(buckets) if (found := self._rates.grown(key)) is not None]
        return Endpoint(
            endpoint=name,
            requests=int(total),
            failed=int(counts.get((_REQUESTS, name, "failed"), 0.0)),
            rate=self._rates.of((_REQUESTS, name)),
            p50_ms=_milliseconds(quantile(grown, 0.5)),
            p99_ms=_milliseconds(quantile(grown, 0.99)),
        )


def counted(families: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """Requests by endpoint, those that failed, buckets of their times, and gauges without labels."""
    out: dict[tuple[str, ...], float] = {}
    for family in families:
        for sample in family.samples:
            labels = sample.labels
            if sample.name == f"{_REQUESTS}_total":
                for key in ((_REQUESTS, labels["endpoint"]), (_REQUESTS, labels["endpoint"], "failed")):
                    if len(key) == 2 or labels["status"].startswith("5"):
                        out[key] = out.get(key, 0.0) + sample.value
            elif sample.name == f"{_SECONDS}_bucket":
                out[_SECONDS, labels["endpoint"], labels["le"]] = sample.value
            elif not labels:
                out[(sample.name,)] = sample.value
    return out


def quantile(buckets: list[tuple[float, float]], share: float) -> float | None:
    """The least bound that a share of all lies at or below; None of nothing.

    Parameters
    ----------
    buckets : list of (float, float)
        Upper bounds, ascending, and how many lie at or below each.
    """
    if not buckets or not buckets[-1][1]:
        return None
    return next(bound for bound, below in buckets if below >= share * buckets[-1][1])


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else seconds * 1000
