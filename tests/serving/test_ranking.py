"""Rankings over HTTP: scores are the model's own of what is logged, to the bit; what is shown and kept; what is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.served import Status
from flows.settings import Settings
from flows.skew.check import check
from flows.skew.served import open_served
from online_model.serving.model import Model
from online_model.serving.options import OnStoreError, Options
from online_model.serving.rank_schema import MOST_CANDIDATES
from tests.online.redis_server import RedisServer
from tests.processes import PATIENCE_S, ROOT, await_true
from tests.serving.conftest import Site, synced
from tests.serving.http import running, served
from tests.serving.models import (
    PATIENT,
    learn,
    published,
    rank,
    ready,
    recomputed,
    vectors_of,
)
from tests.serving.models import one_thread as one_thread


@pytest.fixture
def pins(site: Site) -> list[int]:
    """Of the site, each once."""
    return list(dict.fromkeys(site.pins))


@pytest.mark.parametrize("of", [{}, {"encoder": "transact_v1_1"}, {"encoder": "none", "revisit_head": False}])
def test_scores_are_the_models_own_of_what_is_logged(of: dict[str, Any], settings: Settings, site: Site, pins: list[int]) -> None:
    base = published(settings, site, **of)
    answers = []
    with running(settings, PATIENT) as made:
        ready(made, base.number)
        for i, user in enumerate([*site.users[:4], 1, 2**63 - 1]):
            answers.append(rank(made, user=user, candidates=pins[i:], k=len(pins), request_id=str(i)))
        text = rank(made, user="somebody new", candidates=["a pin", "another"], surface="search")
        skewed = rank(made, user=site.users[0], candidates=site.pins[:5], as_of=0)
    for i, answer in enumerate(answers):
        rows, at = recomputed(settings, answer, base, vectors_of(base))
        assert (answer["base"], answer["delta"], answer["arm"], answer["candidates"]) == (base.number, 0, "served", len(pins) - i)
        assert sorted(answer["pins"]["pin_id"]) == sorted(pins[i:])
        assert answer["pins"]["score"] == sorted(answer["pins"]["score"], reverse=True)
        assert len(set(answer["pins"]["score"])) > 20
        assert rows.surfaces[rows.surface[at]] == "homefeed"
        assert np.array_equal(rows.not_shown, [])
        assert ("revisit" in answer["pins"]["probabilities"]) == of.get("revisit_head", True)
    assert len({tuple(answer["pins"]["score"]) for answer in answers}) == len(answers)
    for answer in (text, skewed):
        recomputed(settings, answer, base, vectors_of(base))
    with open_served(settings) as log:
        checked = check(settings, log)
    shown = sum(len(answer["pins"]["pin_id"]) for answer in (*answers, text, skewed))
    assert (checked.compared, checked.differing, checked.findings) == (2 * (len(answers) + 2) + shown, 0, 0)


@pytest.mark.redis
def test_over_redis_it_is_the_same(settings: Settings, site: Site, shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    base = published(settings, site)
    # Ages and hours are of the moment when a request comes.
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000 * 1_000_000)
    answers = []
    for stored in (settings, synced(settings, shared_redis)):
        with running(stored, PATIENT) as made:
            ready(made, base.number)
            answers.append(rank(made, user=site.users[0], candidates=site.pins, request_id=stored.online or "state"))
    assert {**answers[0], "request_id": ""} == {**answers[1], "request_id": ""}
    recomputed(settings, answers[1], base, vectors_of(base))


def test_its_own_candidates_are_the_pins_seen_most(settings: Settings, site: Site) -> None:
    base = published(settings, site)
    pins = base.table("pin")
    by_count = sorted(zip((-pins["counts"]).tolist(), pins["ids"].tolist(), strict=True))
    with running(settings, PATIENT) as made:
        ready(made, base.number)
        answer = rank(made, user=site.users[0], k=1_000)
        assert answer["candidates"] == len(by_count)
        assert sorted(answer["pins"]["pin_id"]) == sorted(pin for _, pin in by_count)
        learn(settings, base, 1, base.digest, {}, gone=(by_count[0][1],))
        ready(made, base.number, 1)
        assert by_count[0][1] not in rank(made, user=site.users[0], k=1_000)["pins"]["pin_id"]


def test_what_is_shown_and_kept(settings: Settings, site: Site, pins: list[int]) -> None:
    base = published(settings, site)
    with running(settings, dataclasses.replace(PATIENT, explore=0.3)) as made:
        ready(made, base.number)
        asked = {"user": site.users[0], "candidates": pins + pins[:5], "k": 7}
        answers = [rank(made, request_id=str(i), **asked) for i in range(12)]
        again = rank(made, request_id="0", **asked)
        assert made.client.metric('tidemark_serving_rank_explored_pins_total{arm="served"}') > 3
        assert made.client.metric("tidemark_serving_rank_candidates_sum") == 13 * len(pins)
        for part in ("features", "waiting", "packing", "model", "answer"):
            assert made.client.metric(f'tidemark_serving_rank_seconds_count{{part="{part}"}}') == 13
        assert made.client.metric('tidemark_serving_requests_total{endpoint="rank",status="200"}') == 13
    assert answers[0]["pins"]["pin_id"] == again["pins"]["pin_id"]
    for answer in answers[1:]:
        rows, i = recomputed(settings, answer, base, vectors_of(base))
        shown = set(answer["pins"]["pin_id"])
        assert len(shown) == 7
        span = slice(rows.not_shown_offsets[i], rows.not_shown_offsets[i + 1])
        kept = rows.not_shown[span].tolist()
        assert len(set(kept)) == len(kept) == 20
        assert set(kept) <= set(pins) - shown
    explored = [value for answer in answers for value in answer["pins"]["explored"]]
    chances = [value for answer in answers for value in answer["pins"]["propensity"]]
    assert {(e, round(p, 5)) for e, p in zip(explored, chances, strict=True)} == {
        (False, 0.7),
        (True, round(0.3 / (len(pins) - 7), 5)),
    }


@pytest.mark.parametrize("policy", list(OnStoreError))
def test_without_features_it_ranks_only_if_told_to(policy: OnStoreError, settings: Settings, site: Site) -> None:
    base = published(settings, site)
    with running(settings, dataclasses.replace(PATIENT, on_store_error=policy)) as made:
        ready(made, base.number)
        made.service._now.close()
        object.__setattr__(made.service.options, "timeout_s", 0.05)
        if policy is OnStoreError.ERROR:
            assert "has not answered" in rank(made, 503, user=site.users[0], candidates=site.pins[:3])["error"]
            return
        answer = rank(made, user=site.users[0], candidates=site.pins[:3])
        assert (answer["status"], answer["positions"], answer["pins"]["status"]) == ("DEFAULTED", None, ["DEFAULTED"] * 3)
        assert made.client.metric('tidemark_serving_rank_fallbacks_total{reason="defaulted"}') == 1
    rows, i = recomputed(settings, answer, base, vectors_of(base))
    assert rows.user_status[i] == Status.DEFAULTED


@pytest.mark.parametrize(
    ("said", "status", "error"),
    [
        ({"user": 1, "candidates": []}, 422, "candidates is empty"),
        ({"user": 1, "candidates": list(range(MOST_CANDIDATES + 1))}, 422, "1001 candidates are given, and a request may have 1000"),
        ({"candidates": [1]}, 422, "user: field required"),
        ({"user": 1.5, "candidates": [1]}, 422, "user is no ID"),
        ({"user": 1, "candidates": [1.5]}, 422, "candidates.0 is no ID"),
        ({"user": 2**63, "candidates": [1]}, 422, "user: 9223372036854775808 is no 64-bit ID"),
        ({"user": 1, "candidates": [1], "surface": "homefed"}, 422, "there is no surface 'homefed' (did you mean 'homefeed'?)"),
        ({"user": 1, "candidates": [1], "surface": None}, 422, "surface: input should be a valid string"),
        ({"user": 1, "candidates": [1], "k": 0}, 422, "k: input should be greater than or equal to 1"),
        ({"user": 1, "pins": [1]}, 422, "there is no field 'pins'"),
        ({"user": 1, "candidates": [1], "fingerprint": "x"}, 409, "the client was made for features with fingerprint 'x'"),
        (b"{", 400, "the body is no JSON"),
        (b'{"user": 1, "user": 2, "surface": "homefeed"}', 422, "'user' is said more than once"),
    ],
)
def test_bad_requests(said: Any, status: int, error: str, settings: Settings, site: Site) -> None:
    with running(settings, PATIENT) as made:
        sent = said if isinstance(said, bytes) else {"surface": "homefeed"} | said
        reply = made.client.ask("POST", "/v1/rank", sent)
        assert reply.status == status, reply
        assert error in reply.json()["error"]
        assert made.client.ask("GET", "/v1/rank").status == 405


def test_a_model_that_hangs_or_says_nonsense_holds_up_nobody(settings: Settings, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    base = published(settings, site)
    go_on = threading.Event()
    asked = {"user": site.users[0], "candidates": site.pins[:3]}
    options = Options(timeout_s=PATIENCE_S, model_timeout_s=0.05, most_waiting=1)
    with running(settings, options) as made:
        ready(made, base.number)
        score = Model.score
        with monkeypatch.context() as patch:
            patch.setattr(Model, "score", lambda model, requests: (go_on.wait(PATIENCE_S), score(model, requests))[1])
            assert "the model has not answered within 0.05 s" in rank(made, 503, **asked)["error"]
            assert "within" in rank(made, 503, **asked)["error"]
            assert "1 requests wait for the model already" in rank(made, 503, **asked)["error"]
            assert made.client.post({"users": site.users[:1]})["users"]["found"] == [True]
            go_on.set()
            await_true(lambda: made.service.rankings.waiting == 0, "it goes on")
        object.__setattr__(options, "model_timeout_s", PATIENCE_S)
        rank(made, **asked)
        table = made.service.rankings.models.now.models["served"].tables["user"]  # type: ignore[union-attr]
        table.weights.flags.writeable = True
        table.weights[:] = np.nan
        assert "the vector of a user is not a finite number" in rank(made, 503, **asked)["error"]
        assert made.client.metric('tidemark_serving_rank_fallbacks_total{reason="model_failed"}') == 4
    assert sum(len(part) for part in served(settings)) == 2


def test_what_is_said_of_it_is_so(settings: Settings, site: Site) -> None:
    base = published(settings, site)
    with running(settings, PATIENT) as made:
        ready(made, base.number)
        said = made.client.get("/openapi.json")["paths"]["/v1/rank"]["post"]
        for example in said["requestBody"]["content"]["application/json"]["examples"].values():
            answer = rank(made, **example["value"])
        shown = said["responses"]["200"]["content"]["application/json"]["example"]
        assert list(shown) == list(answer)
        assert list(shown["pins"]) == list(answer["pins"])
        assert list(shown["pins"]["probabilities"]) == list(answer["pins"]["probabilities"])


def test_torch_is_not_loaded_without_a_model(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom flows.settings import Settings\nfrom online_model.serving.options import Options\n"
        "from online_model.serving.service import Service\nfrom online_model.serving.app import make_app\n"
        f"service = Service(Settings(data=Path({str(tmp_path)!r})), Options())\nmake_app(service)\nservice.rankings.warm_up(60)\n"
        "assert service.rankings.told()['trouble'].startswith('no model is served yet')\nservice.close()\n"
        "assert not {'torch', 'safetensors'} & set(sys.modules), 'loaded'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr


def test_duplicates_count_once(settings: Settings, site: Site) -> None:
    base = published(settings, site)
    with running(settings, PATIENT) as made:
        ready(made, base.number)
        answer = rank(made, user=1, candidates=[site.pins[0], str(site.pins[0]), site.pins[1], site.pins[0]])
    assert (answer["candidates"], sorted(answer["pins"]["pin_id"])) == (2, sorted(site.pins[:2]))
