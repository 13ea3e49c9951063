"""What else a server may have besides features and rankings: pages of whoever knows more than serving does, as the console."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol, TypeAlias

from fastapi import FastAPI

from online_model.serving.service import Service


class Beside(Protocol):
    """Further paths, with whatever they hold open."""

    open_paths: Collection[str]
    """Those that hold nothing of anybody, and so need no token."""

    def mount(self, app: FastAPI) -> None:
        """Add the paths to an application."""

    def close(self) -> None:
        """Release everything; whoever still waits is refused."""


MakeBeside: TypeAlias = Callable[[Service], Beside]
