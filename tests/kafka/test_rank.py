"""Pins ranked by a model whose deltas come from a topic, and what was ranked kept in another."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.settings import Settings
from online_model.registry.bases import Base
from tests.kafka.broker import Broker
from tests.kafka.conftest import options
from tests.processes import tidemark
from tests.serving.conftest import Site
from tests.serving.conftest import site as site
from tests.serving.http import record_of, running, served
from tests.serving.models import PATIENT, D, Vectors, learn, of_record, publish, rank, ready, said_by, serve, vectors_of
from tests.serving.models import one_thread as one_thread


def check(settings: Settings, answer: Any, base: Base, vectors: Vectors) -> None:
    """What came back from the topic is what was answered, by the rows of a base with its deltas."""
    rows, [i] = record_of(served(settings), answer["request_id"])
    pins, span = answer["pins"], slice(rows.pin_offsets[i], rows.pin_offsets[i + 1])
    assert (rows.base[i], rows.delta[i]) == (answer["base"], answer["delta"])
    assert rows.pin_id[span].tolist() == pins["pin_id"]
    assert np.array(pins["score"], np.float32).tobytes() == rows.score[span].tobytes()
    _, score = said_by(base, vectors, of_record(rows, i, dict(settings.load_vocabulary().surfaces)))
    assert score.tobytes() == rows.score[span].tobytes()


@pytest.mark.kafka
def test_rankings_follow_the_deltas_of_a_topic(shared_broker: Broker, site: Site, tmp_path: Path) -> None:
    settings = dataclasses.replace(
        site.settings, data=tmp_path / "data", kafka=shared_broker.servers, kafka_prefix=f"{uuid.uuid4().hex[:8]}."
    )
    tidemark("topics", "create", data=settings.data, **options(settings))
    settings.data.mkdir(exist_ok=True)
    (settings.data / "state").symlink_to(site.settings.state, target_is_directory=True)
    base = publish(settings, 1, site.users[::2], site.pins[::2])
    serve(settings, base.number)
    mine, vectors = site.pins[::2][:3], vectors_of(base)
    asked = {"user": site.users[0], "candidates": site.pins, "k": len(site.pins)}
    with running(settings, PATIENT) as made:
        ready(made, base.number)
        before = rank(made, **asked)
        first = learn(settings, base, 1, base.digest, {mine[0]: 0.5, site.pins[1]: -0.25})
        learn(settings, base, 2, first.digest, {mine[1]: 1.5}, gone=(mine[2],))
        ready(made, base.number, 2)
        after = rank(made, **asked)
        nobody = rank(made, user=2**40 + 7, candidates=[2**40 + 9, mine[0]])
    check(settings, before, base, vectors)
    for pin, value in ((mine[0], 0.5), (site.pins[1], -0.25), (mine[1], 1.5)):
        vectors["pin"][pin] = np.full(D, value, np.float32)
    del vectors["pin"][mine[2]]
    check(settings, after, base, vectors)
    check(settings, nobody, base, vectors)
    assert before["pins"]["score"] != after["pins"]["score"]
