"""What this package refuses to do, as errors of the project's one tree and of Feast's: `feast serve` answers with their status.

Feast's own commands print a traceback for whatever isn't click's; `plain_in_feast_commands` makes one line of what is meant for a user.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import click
from feast.errors import FeastError

from flows.errors import CorruptionError, TidemarkError


class FeatureRepositoryError(TidemarkError, FeastError):
    """Base of the errors of this package."""

    exit_code = 2
    status = HTTPStatus.BAD_REQUEST

    def http_status_code(self) -> int:
        """What `feast serve` answers."""
        return int(self.status)


class StateIsWrittenByItsLogError(FeatureRepositoryError):
    """Somebody asked Feast to write features that only the flows may write."""

    status = HTTPStatus.CONFLICT

    def __init__(self, view: str, action: str) -> None:
        if view == "user_embedding":
            super().__init__(
                f"feature view '{view}': {action} is refused. Its values follow from the log by a trained embedding, and `tidemark embed infer` "
                "writes them."
            )
            return
        super().__init__(
            f"feature view '{view}': {action} is refused. Its values are task state, which is written by its log alone, so that it stays a "
            "function of a log prefix. The flows keep it current by themselves (`tidemark run`); to change it, append events to the log."
        )


class FeastReadError(FeatureRepositoryError):
    """A read through Feast asks for what task state doesn't hold."""


class HistoricalReadError(FeatureRepositoryError):
    """A historical read through Feast asks for what can't be given, or its entity frame is not as it must be."""


class OtherFingerprintError(FeatureRepositoryError):
    """A registry was applied under definitions other than those of this code: its names may mean something else."""

    status = HTTPStatus.CONFLICT

    def __init__(self, view: str, applied: str | None, now: str) -> None:
        super().__init__(
            f"feature view '{view}' was applied to the registry under other definitions (fingerprint {applied or 'none'}, now {now}); "
            "run `feast -c feature_repo apply` with this version of Tidemark, or read with the one that applied it"
        )


class RegistryError(FeatureRepositoryError):
    """Feast's registry can't be read."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR


class NoEmbeddingError(FeatureRepositoryError):
    """No user embeddings are served, or none of the version that is asked for."""

    status = HTTPStatus.NOT_FOUND
    exit_code = 1


class DamagedEmbeddingError(FeatureRepositoryError, CorruptionError):
    """A table of user embeddings is not what was written, or only half of it is there."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    exit_code = 1


@contextmanager
def plain_in_feast_commands() -> Iterator[None]:
    """Within one of the `feast` commands an error of ours ends it with a line and its exit code; elsewhere it is as it was."""
    try:
        yield
    except TidemarkError as error:
        context = click.get_current_context(silent=True)
        module = sys.modules.get("feast.cli.cli")
        if context is None or module is None or context.find_root().command is not module.cli:
            raise
        told = click.ClickException(str(error))
        setattr(told, "exit_code", error.exit_code)  # noqa: B010 - to type checkers it is the class's alone
        raise told from error
