"""What ends a retrain without a new base being served. What was served before goes on being served."""

from __future__ import annotations

from flows.errors import InputError, TidemarkError


class EmptyWindowError(InputError):
    """No example has matured in the window: there is nothing to learn from."""

    exit_code = 3


class NoParentError(TidemarkError):
    """There is no base to start from, or it doesn't say up to where it has learned."""


class ExamplesTooLargeError(TidemarkError):
    """The window's examples take more memory than is allowed."""
