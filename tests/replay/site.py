"""Data directories that tests damage and put right, and kills in the middle of a function."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import Outcome, assert_same, outcome, settings_of

# So that a few thousand events make many commits, and several runs of rows.
SMALL: dict[str, Any] = {"batch_records": 100, "anchor_records": 150}


@dataclass(frozen=True)
class Site:
    """A data directory at its end, and what it says."""

    data: Path
    clean: Outcome

    def copy(self, to: Path) -> Path:
        """A test's own, to do with as it likes."""
        return Path(shutil.copytree(self.data, to))

    def check(self, data: Path, scratch: Path) -> None:
        """A data directory says what this one does, to the byte."""
        assert_same(outcome(settings_of(data), scratch), self.clean)


def killing(left: Iterator[object], original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is interrupted instead, once all is taken of what is left; shared by the steps of a command, it ends any of them."""

    def call(*arguments: Any, **named: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    return call
