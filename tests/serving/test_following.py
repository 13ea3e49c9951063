"""The models that are ranked with: switches, deltas, arms, and what is damaged, missing or of something else; the last good one goes on."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np
import pytest

from flows.open_log import open_log
from flows.outputs import EMBEDDINGS
from flows.settings import Settings
from online_model.registry.manifest import Described
from tests.processes import await_true
from tests.serving.conftest import Site
from tests.serving.http import running
from tests.serving.models import (
    PATIENT,
    follows_deltas,
    keep,
    learn,
    publish,
    published,
    rank,
    ready,
    recomputed,
    registry_of,
    serve,
    vectors_of,
)
from tests.serving.models import one_thread as one_thread
from tests.training.test_train import trained


def test_it_follows_deltas(settings: Settings, site: Site) -> None:
    follows_deltas(settings, site)


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
        ({"model": {"expert_dropout": "x"}}, "describes no model"),
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
