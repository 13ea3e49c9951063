"""Every error that a user can meet, in one tree.

A message says what is wrong, where (file, field, position) and what to do next. The front door prints the message alone and exits with
the class's `exit_code`; a traceback at a user is a defect.
"""

from __future__ import annotations

MAKE_ANEW = (
    "delete state/, checkpoints/, every log (or topic) but 'actions', 'corrections' and 'served' and what archive/ has of the others, "
    "and run again to make them anew"
)
"""The way out that always works: everything else follows from ACTIONS and CORRECTIONS. SERVED follows from nothing, and nothing rests on it.
The learner puts EMBEDDINGS out anew, from EXAMPLES and a base."""


def one_line(text: str) -> str:
    """A message as one line of a terminal: names that it quotes may hold line breaks and other control characters, which are escaped."""
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


class TidemarkError(Exception):
    """Base of all errors with a message meant for the user.

    Attributes
    ----------
    below : tuple of str
        Lines that show below the message where in what the user typed something is wrong.
    """

    exit_code = 1
    below: tuple[str, ...] = ()


class SettingsError(TidemarkError):
    """The config file, an environment variable or an option is wrong."""

    exit_code = 2


class InputError(TidemarkError):
    """A file that the user gave can't be read as asked."""


class DataDirectoryError(TidemarkError):
    """The data directory lacks something, or is of another format."""


class LockedError(DataDirectoryError):
    """Another process holds the data directory or a task."""


class LogError(TidemarkError):
    """A log can't be read or appended to."""


class RetentionError(LogError):
    """Records that are needed are no longer in the log."""


class CorruptionError(TidemarkError):
    """Stored bytes are not what was written (checksum, gap, mismatch)."""


class StateError(CorruptionError, DataDirectoryError):
    """A task's state is damaged or can't be read: that of this task alone. Others go on without it."""


class OnlineStoreError(TidemarkError):
    """Redis can't be reached, refuses what was asked, or doesn't hold what is needed. Task state is as it was."""


class MovedOnError(OnlineStoreError):
    """A task was written between two reads that were to reflect one position; whoever reads again reads both as they are now."""


class OtherFingerprintError(DataDirectoryError, OnlineStoreError):
    """What is to be read, of task state or of Redis, was made under other features or settings."""


class StorageFullError(TidemarkError):
    """The disk is full; nothing that was committed is lost."""


class FingerprintError(TidemarkError):
    """Values follow from other definitions or settings than those that they are to be read with."""
