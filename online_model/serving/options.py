"""What an operator may choose of serving."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from online_model.serving.token import Token


class OnStoreError(StrEnum):
    """What a request gets that the store does not answer."""

    ERROR = "error"
    DEFAULTS = "defaults"


@dataclass(frozen=True)
class Options:
    """Limits and policies.

    Attributes
    ----------
    on_store_error : OnStoreError
    timeout_s : float
        How long a request waits for the store.
    past_timeout_s : float
        The same for one that names a time, which may have to go through the log.
    most_entities : int
        Of one request.
    most_waiting : int
        Requests that may wait for the store at once.
    require_log : bool
        Serve nothing that SERVED has no room for.
    log_queue_bytes : int
        Memory for rows that are not durable yet.
    head_timeout_s, body_timeout_s : float
        How long a request's head, and its body, may take to come.
    drain_s : float
        How long, at the end, rows are still made durable.
    explore : float
        The chance that a slot of a ranking gets a candidate by chance, 0 to 1.
    model_threads : int
        That a model computes with.
    model_timeout_s : float
        How long a request waits for its scores.
    token : Token or None
        What requests must bear; None: nothing.
    """

    on_store_error: OnStoreError = OnStoreError.ERROR
    timeout_s: float = 1.0
    past_timeout_s: float = 30.0
    most_entities: int = 2_000
    most_waiting: int = 256
    require_log: bool = False
    log_queue_bytes: int = 64 << 20
    head_timeout_s: float = 10.0
    body_timeout_s: float = 10.0
    drain_s: float = 10.0
    explore: float = 0.0
    model_threads: int = 1
    model_timeout_s: float = 5.0
    token: Token | None = None
