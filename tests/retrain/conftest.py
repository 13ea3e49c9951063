"""One thread: what other tests of a process leave set decides bits otherwise. And a store with a first base, made once and copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from flows.settings import Settings
from tests.retrain.store import SCRATCH, data, run, settings_of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def _with_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("retrain") / "data"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run(data(directory), SCRATCH, 8)
    torch.set_num_threads(threads)
    return directory


@pytest.fixture
def with_base(_with_base: Path, tmp_path: Path) -> Callable[[str], Settings]:
    """Gives copies, by name, of a store on which base 1 was trained as of day 8."""

    def copy(name: str = "data") -> Settings:
        shutil.copytree(_with_base, tmp_path / name)
        return settings_of(tmp_path / name)

    return copy
