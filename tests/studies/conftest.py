"""A history of a few hundred requests, made once, and one thread: what other tests of a process leave set decides bits otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from online_model.model.config import ModelConfig
from online_model.studies.bases import Base, Window, base_of
from online_model.studies.plan import Days, Plan
from online_model.studies.stream import Stream, open_stream
from online_model.training.config import TrainingConfig

SIZES = {"users": 120, "pins": 60, "days": 12, "events": 14_000}
MODEL = ModelConfig(dim=4, sequence_length=4, action_dim=4, surface_dim=2, encoder_hidden=4, cross_rank=4, experts=2, expert_hidden=4)
TINY = Plan(
    Days(train=0, calibrate=3, evaluate=4, until=4.25),
    seeds=(1, 2),
    sizes=SIZES,
    model=MODEL,
    training=TrainingConfig(batch_size=256),
    resamples=100,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of this process keep histories."""
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="session")
def stream(work: Path) -> Stream:
    return open_stream(TINY.world("drifting", 1), work / "histories")


@pytest.fixture(scope="session")
def base(stream: Stream, work: Path) -> Base:
    days = TINY.days
    model, training = TINY.of_seed(1)
    torch.set_num_threads(1)
    return base_of(stream, Window(days.moment("train"), days.moment("calibrate"), days.moment("evaluate")), model, training, work / "bases")
