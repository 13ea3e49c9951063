"""Pins retrieved over HTTP, and as candidates of a ranking: one version's users, pins and index in an answer, whatever is put in place meanwhile."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo.embedding_table import served_version
from flows.settings import Settings
from online_model.embedding.daily import keep_current
from online_model.embedding.errors import SwitchError
from online_model.embedding.retrieval import Retriever, open_retriever
from online_model.embedding.switch import switch
from online_model.model.config import ModelConfig
from online_model.model.embedding_input import TakenEmbedding
from tests.embedding.served_made import D, version
from tests.processes import await_true
from tests.serving.conftest import Site
from tests.serving.http import Running, running, served
from tests.serving.models import PATIENT, SMALL, publish, published, rank, ready, serve
from tests.serving.models import one_thread as one_thread


def embedded(settings: Settings, site: Site, seed: int, serve: bool = True, **changes: Any) -> int:
    """A version of the site's users, inferred, and served."""
    path = version(settings, site.events["pin_id"].unique()[::2], seed, **changes)
    keep_current(settings, path)
    if serve:
        switch(settings, int(path.name))
    return int(path.name)


def retrieve(made: Running, status: int = 200, **said: Any) -> Any:
    reply = made.client.ask("POST", "/v1/retrieve", said)
    assert reply.status == status, reply
    return reply.json()


def at_work(made: Running, **wanted: int) -> None:
    def there() -> bool:
        told = made.client.ask("GET", "/readyz").json()["embedding"]
        return bool(wanted.items() <= told.items())

    await_true(there, f"embedding {wanted} is served")


def wanted_of(retriever: Retriever, user: int, known: list[int], k: int) -> list[int]:
    """By a sort of all products."""
    pins = retriever.pins
    vectors = np.array([pins.graph.reconstruct(i) for i in range(len(pins.pin_ids))])
    [row] = retriever.table.rows_of(np.array([user]))
    order = np.argsort(-(vectors @ retriever.table.vectors[row]), kind="stable")
    return [pin for pin in pins.pin_ids[order].tolist() if pin not in known][:k]


def test_the_nearest_pins_that_a_user_does_not_know(settings: Settings, site: Site) -> None:
    embedded(settings, site, 1)
    retriever = open_retriever(settings, 1)
    with running(settings, PATIENT) as made:
        at_work(made, version=1, table=1, index=1)
        for user in site.users[:6]:
            known = {entry["pin_id"] for entry in made.client.get(f"/v1/features/user/{user}")["sequence"]}
            answer = retrieve(made, user=user, k=20)
            assert answer["source"] == "embedding"
            assert answer["pins"]["pin_id"] == wanted_of(retriever, user, sorted(known), 20)
            assert answer["left_out"] == len(known) > 0
            assert answer["pins"]["score"] == sorted(answer["pins"]["score"], reverse=True)
            everything = retrieve(made, user=user, k=20, with_known=True)
            assert everything["pins"]["pin_id"] == wanted_of(retriever, user, [], 20)
            assert (everything["left_out"], everything["found"]) == (0, True)
        table = retriever.table.manifest
        assert answer["embedding"] == {
            "version": 1, "table": 1, "index": 1, "as_of": table.as_of, "positions": list(table.actions),
        }  # fmt: skip
        new = retrieve(made, user="somebody new", k=5)
        assert (new["source"], new["found"]) == ("popular", False)
        assert new["pins"]["pin_id"] == list(table.popular[:5])
        assert made.client.metric('tidemark_serving_requests_total{endpoint="retrieve",status="200"}') == 13
        # Nothing was shown, and nothing is kept.
    assert sum(len(part.request_id) for part in served(settings)) == 6


@pytest.mark.parametrize(
    ("said", "status", "told"),
    [
        ({}, 422, "user"),
        ({"user": 1, "k": 0}, 422, "k"),
        ({"user": 1, "k": 1001}, 422, "k"),
        ({"user": 1.5}, 422, "user"),
        ({"user": 2**64}, 422, "user"),
        ({"user": 1, "candidates": [1]}, 422, "there is no field 'candidates'"),
        ({"user": 1, "with_known": "yes"}, 422, "with_known"),
        ({"user": 1, "surface": "homefed"}, 422, "did you mean 'homefeed'?"),
        ({"user": 1, "fingerprint": "other"}, 409, "other"),
        (b"{", 400, ""),
    ],
)
def test_what_cant_be_meant_is_refused(said: Any, status: int, told: str, settings: Settings) -> None:
    with running(settings, PATIENT) as made:
        reply = made.client.ask("POST", "/v1/retrieve", said)
        assert reply.status == status
        assert told in reply.json()["error"]
        assert reply.json()["what_to_do"]


def test_without_embeddings_it_says_how_to_get_some(settings: Settings, site: Site) -> None:
    with running(settings, PATIENT) as made:
        refused = retrieve(made, 503, user=1)
        assert refused["error"] == "no user embeddings are served yet"
        assert "tidemark embed train" in refused["what_to_do"]
        embedded(settings, site, 1)
        at_work(made, version=1)
        assert retrieve(made, user=site.users[0])["source"] == "embedding"


def test_what_is_damaged_leaves_the_last_good_one(settings: Settings, site: Site) -> None:
    embedded(settings, site, 1)
    with running(settings, PATIENT) as made:
        at_work(made, version=1, table=1)
        before = retrieve(made, user=site.users[0])["pins"]
        place = settings.data / "embeddings" / "1" / "users"
        shutil.copytree(place / "1", place / "2")
        (place / "2" / "users.arrow").write_bytes(b"no table")
        await_true(lambda: "trouble" in made.client.ask("GET", "/readyz").json()["embedding"], "the trouble is told")
        told = made.client.ask("GET", "/readyz").json()["embedding"]
        assert (told["ok"], told["table"]) == (False, 1)
        assert "users.arrow has another size than was written" in told["trouble"]
        assert retrieve(made, user=site.users[0])["pins"] == before
        shutil.rmtree(place / "2")
        at_work(made, ok=True)


def test_versions_are_switched_under_load_without_an_error_or_a_mixed_answer(settings: Settings, site: Site) -> None:
    """Each answer is whole of the version that it names; every user's vector meets pins of its own space."""
    embedded(settings, site, 1)
    embedded(settings, site, 2, serve=False)
    users = site.users[:8]
    right = {
        (number, user): wanted_of(open_retriever(settings, number), user, [], 10) for number in (1, 2) for user in users
    }  # fmt: skip
    assert all(right[1, user] != right[2, user] for user in users)
    ended, wrong, seen = threading.Event(), [], set[tuple[int, int]]()

    def load(which: int) -> None:
        at = 0
        while not ended.is_set():
            user = users[(which + at) % len(users)]
            at += 1
            try:
                answer = retrieve(made, user=user, k=10, with_known=True)
            except AssertionError as error:
                wrong.append(str(error))
                continue
            number = answer["embedding"]["version"]
            seen.add((number, answer["embedding"]["table"]))
            if answer["pins"]["pin_id"] != right[number, user]:
                wrong.append(f"{user} of version {number}: {answer['pins']['pin_id']}")

    with running(settings, PATIENT) as made:
        at_work(made, version=1)
        threads = [threading.Thread(target=load, args=(which,)) for which in range(3)]
        for thread in threads:
            thread.start()
        try:
            for number in (2, 1, 2):
                switch(settings, number)
                at_work(made, version=number)
                keep_current(settings, settings.data / "embeddings" / str(number), full=True)
                at_work(made, version=number, table=open_retriever(settings, number).table.manifest.number)
                time.sleep(0.05)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert wrong == []
    assert {number for number, _ in seen} == {1, 2}
    assert len(seen) >= 3
    assert served_version(settings.data) == 2


def test_candidates_of_a_ranking_are_the_users_nearest(settings: Settings, site: Site) -> None:
    base = published(settings, site)
    with running(settings, PATIENT) as made:
        ready(made, base.number)
        before = rank(made, user=site.users[0], k=1_000)
        assert (before["candidates_from"], before["embedding"]) == ("base", None)
        number = embedded(settings, site, 1)
        at_work(made, version=number)
        retriever = open_retriever(settings, number)
        for user in site.users[:3]:
            known = [entry["pin_id"] for entry in made.client.get(f"/v1/features/user/{user}")["sequence"]]
            answer = rank(made, user=user, k=1_000)
            assert answer["candidates_from"] == "embedding"
            assert answer["embedding"]["version"] == number
            assert sorted(answer["pins"]["pin_id"]) == sorted(wanted_of(retriever, user, known, 500))
            assert answer["candidates"] == len(answer["pins"]["pin_id"])
        new = rank(made, user="somebody new", k=1_000)
        assert new["candidates_from"] == "popular"
        assert sorted(new["pins"]["pin_id"]) == sorted(retriever.table.manifest.popular[:500])
        named = rank(made, user=site.users[0], candidates=site.pins[:3])
        assert (named["candidates_from"], named["candidates"]) == ("request", 3)


def test_a_ranker_that_takes_embeddings_switches_with_its_own(settings: Settings, site: Site) -> None:
    """One write of models/current.json: users, pins, index and ranker are of one version before it, and of one behind it."""
    for seed in (1, 2):
        embedded(settings, site, seed, serve=False)
    for seed in (1, 2):
        table = open_retriever(settings, seed).table.manifest
        config = {
            "model": ModelConfig(**SMALL | {"seed": seed}).to_dict(),
            **TakenEmbedding(seed, table.version_digest, table.dim).to_config(),
        }
        publish(settings, seed, site.users[::2], site.pins[::2], config=config)
    wrong = TakenEmbedding(2, "0" * 32, D).to_config()
    publish(settings, 3, site.users, site.pins, config={"model": ModelConfig(**SMALL | {"seed": 3}).to_dict(), **wrong})
    serve(settings, 1)
    with running(settings, PATIENT) as made:
        ready(made, 1)
        for number in (1, 2, 1):
            serve(settings, number)
            ready(made, number)
            for _ in range(3):
                answer = rank(made, user=site.users[0])
                assert answer["base"] == answer["embedding"]["version"] == number
            assert retrieve(made, user=site.users[0])["embedding"]["version"] == number
            with pytest.raises(SwitchError, match=f"takes user embeddings of version {number}"):
                switch(settings, 3 - number)
        # One of another embedding of that number is never served.
        serve(settings, 3)
        await_true(lambda: "trouble" in made.client.ask("GET", "/readyz").json()["model"], "the trouble is told")
        assert (
            "of another embedding than the one that the ranker was trained on"
            in made.client.ask("GET", "/readyz").json()["model"]["trouble"]
        )
        answer = rank(made, user=site.users[0])
        assert answer["base"] == answer["embedding"]["version"] == 1


def test_torch_is_not_needed_to_retrieve(settings: Settings, site: Site, tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.processes import ROOT

    embedded(settings, site, 1)
    code = (
        "import sys; from flows.settings import Settings; from pathlib import Path\n"
        "from online_model.embedding.retrieval import open_retriever; import numpy as np\n"
        f"found = open_retriever(Settings(data=Path({str(settings.data)!r}), partitions={settings.partitions}), 1)\n"
        "assert len(found.retrieve(int(found.table.user_ids[0]), 5, np.empty(0, np.int64)).pins) == 5\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
