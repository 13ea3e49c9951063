"""A ranker that takes users' embeddings: whoever learns from what was served finds the very vector that was served, whatever table came after it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from feature_repo.embedding_table import open_table
from flows.positions import Positions
from flows.settings import Settings
from online_model.embedding.daily import keep_current
from online_model.model.config import ModelConfig
from online_model.model.embedding_input import TakenEmbedding, taken_of
from online_model.model.served_vectors import ServedVectors
from online_model.registry.bases import Base
from online_model.serving.options import OnStoreError
from tests.embedding.served_made import D, version
from tests.processes import await_true
from tests.serving.conftest import Site
from tests.serving.http import Running, record_of, running, served
from tests.serving.models import PATIENT, SMALL, of_record, publish, rank, ready, said_by, serve, vectors_of
from tests.serving.models import one_thread as one_thread


def taking(settings: Settings, site: Site, embedding: TakenEmbedding | None, width: int = D) -> Base:
    """A base whose model takes users' embeddings, and whose manifest says which."""
    model = ModelConfig(**SMALL | {"seed": 1, "user_embedding": width}).to_dict()
    config = {"model": model} | ({} if embedding is None else embedding.to_config())
    base = publish(settings, 1, site.users[::2], site.pins[::2], config=config, user_embedding=width)
    serve(settings, base.number)
    return base


def at_table(made: Running, table: int) -> None:
    await_true(lambda: made.client.ask("GET", "/readyz").json()["embedding"].get("table") == table, f"table {table} is served")


def test_what_is_learned_from_is_what_was_served_to_the_bit(settings: Settings, site: Site) -> None:
    path = version(settings, site.events["pin_id"].unique()[::2], 1)
    keep_current(settings, path, as_of=int(site.events["event_time"].quantile(0.5)))
    base = taking(settings, site, taken_of(settings.data, 1))
    first = open_table(settings.data, 1, 1)
    user = next(user for user in site.users if user in set(first.user_ids.tolist()))
    answers: list[tuple[int, Any]] = []
    with running(settings, dataclasses.replace(PATIENT, on_store_error=OnStoreError.DEFAULTS)) as made:
        ready(made, base.number)
        for table in (1, 2):
            at_table(made, table)
            answers += [(table, rank(made, user=one, candidates=site.pins[:20], k=20)) for one in (user, 2**40 + 7)]
            if table == 1:
                keep_current(settings, path)
        made.service._now.close()
        object.__setattr__(made.service.options, "timeout_s", 0.05)
        # Nothing can be read, so nothing says which table it was.
        answers.append((0, rank(made, user=user, candidates=site.pins[:20], k=20)))
    # Two tables stay; of the first, only the history is left by now.
    keep_current(settings, path, full=True)
    embedded = ServedVectors.of(base.manifest.about.config, settings.data)
    assert embedded is not None
    surfaces = dict(settings.load_vocabulary().surfaces)
    scores: dict[tuple[int, int], bytes] = {}
    for table, answer in answers:
        assert answer["embedding"]["table"] == (table or 2)
        rows, [i] = record_of(served(settings), answer["request_id"])
        record = of_record(rows, i, surfaces)
        assert [Positions.from_bytes(one).embedding for one in record.positions] == ([(1, table)] if table else [])  # type: ignore[union-attr]
        _, score = said_by(base, vectors_of(base), record, embedded)
        scores[table, answer["user_id"]] = score.tobytes()
        assert score.tobytes() == rows.score[rows.pin_offsets[i] : rows.pin_offsets[i + 1]].tobytes()
    assert len({scores[table, user] for table in (0, 1, 2)}) == 3, "each table says something else of them"
    nobody = int(answers[1][1]["user_id"])
    assert scores[1, nobody] == scores[2, nobody], "who has no vector is ranked all the same"


@pytest.mark.parametrize("named", [None, D])
def test_a_model_of_another_width_than_its_manifest_names_is_refused(named: int | None, settings: Settings, site: Site) -> None:
    keep_current(settings, version(settings, site.events["pin_id"].unique()[::2], 1))
    embedding = None if named is None else taken_of(settings.data, 1)
    base = taking(settings, site, embedding, D + 1)
    with running(settings, PATIENT) as made:
        wanted = "no version of them" if named is None else f"one of {D}"
        told = f"base {base.number}: its model takes user embeddings of {D + 1} numbers, and its manifest names {wanted}"
        await_true(lambda: told in made.client.get("/readyz")["model"].get("trouble", ""), "it has looked")
        assert told in rank(made, 503, user=1, candidates=[1])["error"]
