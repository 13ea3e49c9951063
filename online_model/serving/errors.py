"""What serving refuses, as errors of the project's one tree; each has the status that HTTP knows it by."""

from __future__ import annotations

from flows.errors import TidemarkError


class ServingError(TidemarkError):
    """A request that gets no features.

    Parameters
    ----------
    error : str
        What is wrong, and where.
    advice : str
        What to do next.
    """

    status = 500
    retry_after_s: int | None = None

    def __init__(self, error: str, advice: str) -> None:
        super().__init__(f"{error}; {advice}")
        self.error, self.advice = error, advice


class BadRequestError(ServingError):
    """Something that is asked for can't be meant."""

    status = 422


class NotJsonError(ServingError):
    """The body can't be read at all."""

    status = 400


class NotUtf8Error(ServingError):
    """The path, or what stands behind its question mark, is no text."""

    status = 400


class SlowBodyError(ServingError):
    """A body that does not come to its end."""

    status = 408


class TooLargeError(ServingError):
    """A body larger than any request needs."""

    status = 413


class OtherFingerprintAskedError(ServingError):
    """The client works with other features than are served."""

    status = 409


class OtherModelError(ServingError):
    """The model that is published was trained under other features, or with another vocabulary, than are served."""

    status = 409


class NoModelServedError(ServingError):
    """There is no model to rank with."""

    status = 503
    retry_after_s = 5


class NoEmbeddingServedError(ServingError):
    """There are no user embeddings to retrieve with."""

    status = 503
    retry_after_s = 5


class UnavailableError(ServingError):
    """The store doesn't answer, or too much waits for it, or what is served can't be kept as it must be."""

    status = 503
    retry_after_s = 1
