"""Rankings over HTTP: scores are the model's own of what is logged, to the bit; one model a request; and what happens where there is none."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.open_log import open_log
from flows.outputs import EMBEDDINGS
from flows.served import Status
from flows.served_rows import ServedRows
from flows.settings import Settings
from flows.skew.check import check
from flows.skew.served import open_served
from online_model.registry.bases import Base
from online_model.registry.manifest import Described
from online_model.serving.options import OnStoreError, Options
from online_model.serving.rank_schema import MOST_CANDIDATES
from tests.processes import PATIENCE_S, ROOT, await_true
from tests.serving.conftest import Site
from tests.serving.http import Running, record_of, running, served
from tests.serving.models import Vectors, keep, learn, of_record, publish, registry_of, said_by, serve, vectors_of
from tests.training.test_train import trained

PATIENT = Options(timeout_s=PATIENCE_S, model_timeout_s=PATIENCE_S)


@pytest.fixture
def pins(site: Site) -> list[int]:
    """Of the site, each once."""
    return list(dict.fromkeys(site.pins))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rank(made: Running, status: int = 200, **said: Any) -> Any:
    reply = made.client.ask("POST", "/v1/rank", {"surface": "homefeed"} | said)
    assert reply.status == status, reply
    return reply.json()


def published(settings: Settings, site: Site, seed: int = 1, **changes: Any) -> Base:
    """A base that knows half of the site's users and pins, and is served."""
    base = publish(settings, seed, site.users[::2], site.pins[::2], **changes)
    serve(settings, base.number)
    return base


def ready(made: Running, base: int, delta: int = 0, arm: str = "served") -> None:
    def there() -> bool:
        told = made.client.ask("GET", "/readyz").json()["model"].get("arms", {}).get(arm, {})
        return (told.get("base"), told.get("delta")) == (base, delta)

    await_true(there, f"base {base} is served at delta {delta}")


def recomputed(settings: Settings, answer: Any, base: Base, vectors: Vectors) -> tuple[ServedRows, int]:
    """Check an answer against its row of SERVED, and both against the base; returns the row."""
    rows, [i] = record_of(served(settings), answer["request_id"])
    pins, span = answer["pins"], slice(rows.pin_offsets[i], rows.pin_offsets[i + 1])
    assert (rows.base[i], rows.delta[i]) == (answer["base"], answer["delta"])
    assert rows.pin_id[span].tolist() == pins["pin_id"]
    assert rows.slot[span].tolist() == pins["slot"] == list(range(len(pins["slot"])))
    for name in ("score", "propensity"):
        assert np.array(pins[name], np.float32).tobytes() == getattr(rows, name)[span].tobytes()
    assert rows.explored[span].tolist() == pins["explored"]
    probabilities, score = said_by(base, vectors, of_record(rows, i, dict(settings.load_vocabulary().surfaces)))
    assert score.tobytes() == rows.score[span].tobytes()
    for head, column in zip(pins["probabilities"], probabilities.T, strict=True):
        assert np.array(pins["probabilities"][head]).tobytes() == column.tobytes()
    return rows, i


@pytest.mark.parametrize("encoder", ["mean", "transact_v1_1"])
def test_scores_are_the_models_own_of_what_is_logged(encoder: str, settings: Settings, site: Site, pins: list[int]) -> None:
    base = published(settings, site, encoder=encoder)
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
    assert len({tuple(answer["pins"]["score"]) for answer in answers}) == len(answers)
    for answer in (text, skewed):
        recomputed(settings, answer, base, vectors_of(base))
    with open_served(settings) as log:
        checked = check(settings, log)
    shown = sum(len(answer["pins"]["pin_id"]) for answer in (*answers, text, skewed))
    assert (checked.compared, checked.differing, checked.findings) == (2 * (len(answers) + 2) + shown, 0, 0)


def test_it_follows_deltas(settings: Settings, site: Site) -> None:
    base = published(settings, site)
    mine, vectors = site.pins[::2][:4], vectors_of(base)
    asked = {"user": site.users[0], "candidates": site.pins, "k": len(site.pins)}
    with running(settings, PATIENT) as made:
        ready(made, base.number)
        before = rank(made, **asked)
        first = learn(settings, base, 1, base.digest, {mine[0]: 0.5, site.pins[1]: -0.25})
        learn(settings, base, 2, first.digest, {mine[1]: 1.5}, gone=(mine[2],))
        ready(made, base.number, 2)
        after = rank(made, **asked)
        assert made.client.metric('tidemark_serving_model_delta{arm="served"}') == 2
        assert made.client.metric('tidemark_serving_model_newest_event_timestamp_seconds{arm="served"}') > 0
    recomputed(settings, before, base, vectors)
    for pin, value in ((mine[0], 0.5), (site.pins[1], -0.25), (mine[1], 1.5)):
        vectors["pin"][pin] = np.full(6, value, np.float32)
    del vectors["pin"][mine[2]]
    recomputed(settings, after, base, vectors)
    assert before["pins"]["score"] != after["pins"]["score"]


def test_a_delta_that_is_missing_leaves_the_rows_until_a_snapshot_heals_them(settings: Settings, site: Site) -> None:
    base = published(settings, site)
    mine, vectors = site.pins[::2][:2], vectors_of(base)
    asked = {"user": site.users[0], "candidates": site.pins}
    with running(settings, PATIENT) as made:
        ready(made, base.number)
        learn(settings, base, 1, base.digest, {mine[0]: 0.5})
        ready(made, base.number, 1)
        third = learn(settings, base, 3, "0" * 32, {mine[1]: 1.5})
        await_true(lambda: not made.client.get("/readyz")["model"]["ok"], "it is refused")
        amid = rank(made, **asked)
        assert made.client.metric('tidemark_serving_rank_fallbacks_total{reason="old_model"}') == 1
        keep(settings, base, third, {mine[0]: 0.75, mine[1]: 1.5})
        ready(made, base.number, 3)
        await_true(lambda: made.client.get("/readyz")["model"]["ok"], "all is well")
        after = rank(made, **asked)
        assert made.client.metric('tidemark_serving_model_healed{arm="served"}') == 1
    vectors["pin"][mine[0]] = np.full(6, 0.5, np.float32)
    recomputed(settings, amid, base, vectors)
    vectors["pin"] |= {mine[0]: np.full(6, 0.75, np.float32), mine[1]: np.full(6, 1.5, np.float32)}
    recomputed(settings, after, base, vectors)


def test_a_log_that_is_lost_takes_no_row_back(settings: Settings, site: Site) -> None:
    base = published(settings, site)
    pin, vectors = site.pins[0], vectors_of(base)
    closing = learn(settings, base, 1, base.digest, {pin: 0.5})
    serve(settings, base.number)
    with running(settings, PATIENT) as made:
        ready(made, base.number, 1)
        log = settings.logs / "embeddings.db"
        for path in settings.logs.glob(f"{log.name}*"):
            path.rename(path.with_name(f"lost-{path.name}"))
        open_log(settings, EMBEDDINGS, create=True).close()
        await_true(lambda: not made.client.get("/readyz")["model"]["ok"], "it has been noticed")
        answer = rank(made, user=1, candidates=[pin, 1])
        assert answer["delta"] == 1
        # With a switch, what the log has is what is meant.
        serve(settings, base.number)
        ready(made, base.number)
        # The learner puts out again what is lost, and goes on.
        assert learn(settings, base, 1, base.digest, {pin: 0.5}).digest == closing.digest
        learn(settings, base, 2, closing.digest, {pin: 0.75})
        ready(made, base.number, 2)
    vectors["pin"][pin] = np.full(6, 0.5, np.float32)
    recomputed(settings, answer, base, vectors)


def test_what_a_training_made_is_served(settings: Settings, site: Site) -> None:
    registry = registry_of(settings)
    with registry.draft() as draft:
        done = trained(draft)
        expected = registry.bases.expected
        base = registry.publish(
            draft, Described(done.config, expected.features, expected.vocabulary, {}, None, done.build, done.metrics, 1)
        )
    serve(settings, base.number)
    with running(settings, PATIENT) as made:
        ready(made, base.number)
        answer = rank(made, user=site.users[0], k=100)
        assert answer["candidates"] == len(base.table("pin")["ids"]) > 10
        other = rank(made, user=3, candidates=site.pins)
    for one in (answer, other):
        recomputed(settings, one, base, vectors_of(base))


def test_a_switch_never_mixes_bases(settings: Settings, site: Site) -> None:
    bases = [publish(settings, seed, site.users, site.pins) for seed in (1, 2)]
    serve(settings, 1)
    answers: list[Any] = []
    ended = threading.Event()
    with running(settings, PATIENT) as made:
        ready(made, 1)

        def work(which: int) -> None:
            while not ended.is_set():
                answers.append(rank(made, user=site.users[which], candidates=site.pins[:20]))

        threads = [threading.Thread(target=work, args=(which,)) for which in range(3)]
        for thread in threads:
            thread.start()
        try:
            for turn in range(6):
                number = 2 - turn % 2
                serve(settings, number)
                ready(made, number, 1 if turn == 5 else 0)
                if turn == 3:
                    learn(settings, bases[0], 1, bases[0].digest, dict.fromkeys(site.pins, 0.125))
                    ready(made, 1, 1)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert {(answer["base"], answer["delta"]) for answer in answers} == {(1, 0), (1, 1), (2, 0)}
    changed = vectors_of(bases[0])
    changed["pin"] |= {pin: np.full(6, 0.125, np.float32) for pin in site.pins}
    rng = np.random.default_rng(1)
    by_model: dict[tuple[int, int], list[Any]] = {}
    for answer in answers:
        by_model.setdefault((answer["base"], answer["delta"]), []).append(answer)
    for (number, delta), of in by_model.items():
        vectors = changed if (number, delta) == (1, 1) else vectors_of(bases[number - 1])
        for answer in [of[0], of[-1], *rng.choice(np.array(of, object), 3)]:
            recomputed(settings, answer, bases[number - 1], vectors)


def test_without_a_model_features_are_served(settings: Settings, site: Site) -> None:
    with running(settings, PATIENT) as made:
        told = rank(made, 503, user=1, candidates=[1])
        assert told["error"] == "no model is served yet"
        assert "tidemark models publish" in told["what_to_do"]
        assert made.client.get("/readyz")["model"]["ok"] is False
        assert made.client.post({"users": site.users[:1]})["users"]["found"] == [True]
        assert made.client.metric('tidemark_serving_rank_fallbacks_total{reason="no_model"}') == 1
        base = published(settings, site)
        ready(made, base.number)
        assert made.client.get("/readyz")["model"]["ok"] is True
        rank(made, user=1, candidates=[1])


@pytest.mark.parametrize("what", ["features", "vocabulary"])
def test_a_model_of_something_else_is_refused(what: str, settings: Settings, site: Site) -> None:
    own = registry_of(settings).bases.expected
    other = dataclasses.replace(own, **{what: "0" * 16})
    base = publish(settings, 1, site.users, site.pins, other)
    serve(settings, base.number, other)
    with running(settings, PATIENT) as made:
        await_true(lambda: "trouble" in made.client.get("/readyz")["model"], "it has looked")
        told = rank(made, 409, user=1, candidates=[1])
        assert f"base {base.number} was trained" in told["error"]
        assert "tidemark retrain" in told["what_to_do"]
        assert made.client.metric('tidemark_serving_rank_fallbacks_total{reason="other_model"}') == 1
        good = published(settings, site, 2)
        ready(made, good.number)
        # It goes on with the last good one.
        registry = registry_of(settings, other)
        registry.switch(registry.start_for(registry.base(base.number), 0), 1, "by mistake")
        await_true(lambda: "trouble" in made.client.get("/readyz")["model"], "it has looked")
        assert rank(made, user=1, candidates=[1])["base"] == good.number
        assert made.client.metric('tidemark_serving_rank_fallbacks_total{reason="old_model"}') == 1


@pytest.mark.parametrize("file", ["dense.safetensors", "pin_table.safetensors", "calibrators.json", "manifest.json"])
def test_a_damaged_model_is_refused_and_the_last_good_one_goes_on(file: str, settings: Settings, site: Site) -> None:
    good = published(settings, site)
    with running(settings, PATIENT) as made:
        ready(made, good.number)
        bad = publish(settings, 2, site.users, site.pins)
        registry = registry_of(settings)
        start = registry.start_for(bad, 0)
        registry.switch(start, 1, "published")
        path = bad.path / file
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)
        # A switch to it again, for the first may have been quicker than the damage.
        serve(settings, good.number)
        ready(made, good.number)
        from online_model.registry.current import write_current

        write_current(registry.directory, registry.switched(start, 2, "by mistake"))
        await_true(lambda: f"base {bad.number}" in made.client.get("/readyz")["model"].get("trouble", ""), "it is refused")
        assert rank(made, user=1, candidates=[1])["base"] == good.number
        serve(settings, good.number)
        await_true(lambda: made.client.get("/readyz")["model"]["ok"], "all is well")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "doesn't say what model it is"),
        ({"model": {"dim": 7}}, "is not as its configuration says"),
        ({"model": {"x": 1}}, "no setting 'x'"),
    ],
)
def test_a_base_that_is_no_model(config: Any, said: str, settings: Settings, site: Site) -> None:
    base = publish(settings, 1, site.users, site.pins, config=config)
    serve(settings, base.number)
    with running(settings, PATIENT) as made:
        await_true(lambda: said in made.client.get("/readyz")["model"].get("trouble", ""), "it has looked")
        assert said in rank(made, 503, user=1, candidates=[1])["error"]


def test_arms(settings: Settings, site: Site) -> None:
    bases = [publish(settings, seed, site.users, site.pins) for seed in (1, 2, 3)]
    serve(settings, 1)
    registry = registry_of(settings)
    for role, base, share in (("canary", bases[1], 0.3), ("holdout", bases[2], 0.3)):
        registry.give(role, registry.start_for(base, 0), share)
    with running(settings, PATIENT) as made:
        for arm, number in (("served", 1), ("canary", 2), ("holdout", 3)):
            ready(made, number, arm=arm)
        users = np.array(site.users)
        answers = [rank(made, user=user, candidates=site.pins[:3]) for user in site.users]
        expected = registry.current().bases_of(users).tolist()
        assert [answer["base"] for answer in answers] == expected
        assert set(expected) == {1, 2, 3}
        for arm, number in (("served", 1), ("canary", 2), ("holdout", 3)):
            assert {answer["arm"] for answer in answers if answer["base"] == number} == {arm}
            assert made.client.metric(f'tidemark_serving_ranked_total{{arm="{arm}"}}') == expected.count(number)
            assert made.client.metric(f'tidemark_serving_model_base{{arm="{arm}"}}') == number
        registry.give("canary", None)
        await_true(lambda: "canary" not in made.client.get("/readyz")["model"]["arms"], "the canary has ended")
        assert {rank(made, user=user, candidates=[1])["base"] for user in site.users[:20]} == {1, 3}
    for answer in answers[:10]:
        base = bases[answer["base"] - 1]
        recomputed(settings, answer, base, vectors_of(base))


def test_an_arm_whose_base_is_damaged_gets_what_is_served(settings: Settings, site: Site) -> None:
    published(settings, site)
    canary = publish(settings, 2, site.users, site.pins)
    registry = registry_of(settings)
    registry.give("canary", registry.start_for(canary, 0), 0.5)
    (canary.path / "dense.safetensors").chmod(0o644)
    (canary.path / "dense.safetensors").write_bytes(b"x")
    with running(settings, PATIENT) as made:
        ready(made, 1)
        answers = [rank(made, user=user, candidates=[1]) for user in site.users[:20]]
        assert {(answer["base"], answer["arm"]) for answer in answers} == {(1, "served")}
        theirs = int((registry.current().bases_of(np.array(site.users[:20])) == canary.number).sum())
        assert 0 < theirs < 20
        assert made.client.metric('tidemark_serving_rank_fallbacks_total{reason="arm"}') == theirs


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
