"""Pins ranked by a model whose deltas come from a topic, and what was ranked kept in another."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

import pytest

from tests.kafka.broker import Broker
from tests.kafka.conftest import options
from tests.processes import tidemark
from tests.serving.conftest import Site
from tests.serving.conftest import site as site
from tests.serving.models import follows_deltas
from tests.serving.models import one_thread as one_thread


@pytest.mark.kafka
def test_rankings_follow_the_deltas_of_a_topic(shared_broker: Broker, site: Site, tmp_path: Path) -> None:
    settings = dataclasses.replace(
        site.settings, data=tmp_path / "data", kafka=shared_broker.servers, kafka_prefix=f"{uuid.uuid4().hex[:8]}."
    )
    tidemark("topics", "create", data=settings.data, **options(settings))
    settings.data.mkdir(exist_ok=True)
    (settings.data / "state").symlink_to(site.settings.state, target_is_directory=True)
    follows_deltas(settings, site)
