"""Who has no token gets nothing but health and counts; and nothing that the server says or writes holds the token."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.errors import SettingsError
from flows.settings import Settings, load_settings
from online_model.serving.options import Options
from online_model.serving.token import LEAST, Token
from replay.console.console import FILES, Console
from tests.console.conftest import Site
from tests.processes import PATIENCE_S, refused
from tests.serving.http import Running, running

TOKEN = "canary-3f1c9a77b2e04d56"
OPEN = ["/healthz", "/readyz", "/metrics", "/console", *(f"/console/{name}" for name in FILES)]
GUARDED = ["/v1/console", "/v1/console/user/3", "/v1/features/user/3", "/openapi.json", "/docs", "/nothing", "/console/other"]


@pytest.fixture(scope="module")
def guarded(shared: Site) -> Iterator[Running]:
    with running(shared.settings, Options(timeout_s=PATIENCE_S, token=Token(TOKEN, "test")), Console) as made:
        yield made


def test_with_the_token_everything_is_as_without_one(guarded: Running) -> None:
    for path in [*OPEN, *GUARDED]:
        reply = guarded.client.ask("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert reply.status == (404 if path in ("/nothing", "/console/other") else 200), path
    reply = guarded.client.ask("POST", "/v1/features", {"users": [3]}, {"authorization": f"bearer  {TOKEN} "})
    assert reply.status == 200


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        "Bearer é",
    ],
)
def test_without_it_nothing_is_told(guarded: Running, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for path in GUARDED:
        reply = guarded.client.ask("GET", path, headers=headers)
        assert reply.status == 401, path
        assert reply.headers["www-authenticate"].startswith("Bearer")
        assert set(reply.json()) == {"error", "what_to_do"}
        assert ("has none" if header is None else "is not the one") in reply.json()["error"]
        assert TOKEN not in reply.body.decode()
    assert guarded.client.ask("POST", "/v1/features", {"users": [3]}, headers).status == 401
    for path in OPEN:
        assert guarded.client.ask("GET", path, headers=headers).status == 200, path


def test_of_readiness_it_is_told_whether_and_no_more(guarded: Running, tmp_path: Path) -> None:
    whole = guarded.client.ask("GET", "/readyz", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    assert {"ready", "store", "positions", "model", "served_log"} <= set(whole)
    for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": f"Basic {TOKEN}"}):
        assert guarded.client.ask("GET", "/readyz", headers=headers).json() == {"ready": True}
    nothing = Settings(data=tmp_path / "a-place-of-ours")
    with running(nothing, Options(timeout_s=PATIENCE_S, token=Token(TOKEN, "test"))) as made:
        reply = made.client.ask("GET", "/readyz")
        assert (reply.status, reply.json()) == (503, {"ready": False})
        whole = made.client.ask("GET", "/readyz", headers={"Authorization": f"Bearer {TOKEN}"}).json()
        assert "a-place-of-ours" in whole["reasons"][0]


def test_what_is_refused_is_counted_and_not_kept(guarded: Running) -> None:
    name = 'tidemark_serving_requests_total{endpoint="user",status="401"}'
    before, kept = guarded.client.metric(name), guarded.service.log.kept
    guarded.client.ask("GET", "/v1/features/user/3", headers={"Authorization": "Bearer no"})
    assert guarded.client.metric(name) == before + 1
    assert guarded.service.log.kept == kept


def test_the_token_is_nowhere(guarded: Running, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.DEBUG):
        for header in (f"Bearer {TOKEN}", f"Basic {TOKEN}"):
            for path in ("/v1/console", "/nothing", "/metrics", "/readyz", "/openapi.json"):
                assert TOKEN not in guarded.client.ask("GET", path, headers={"Authorization": header}).body.decode()
    out = capfd.readouterr()
    said = [caplog.text, out.out, out.err, repr(guarded.service.options), repr(vars(guarded.service.options.token))]
    assert not [text for text in said if TOKEN in text]


def test_a_file_goes_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    other = "another-0123456789abcdef"
    for token, fitting in (
        (Token.given(file, {}), TOKEN),
        (Token.given(file, {"TIDEMARK_TOKEN": other}), TOKEN),
        (Token.given(None, {"TIDEMARK_TOKEN": other}), other),
    ):
        assert token is not None
        assert token.fits(f"Bearer {fitting}".encode())
        assert not token.fits(f"Bearer {TOKEN if fitting == other else other}".encode())
    assert Token.given(None, {}) is None
    # As a secret that is missing arrives: nobody meant to serve without one.
    with pytest.raises(SettingsError, match="environment variable TIDEMARK_TOKEN holds no token"):
        Token.given(None, {"TIDEMARK_TOKEN": ""})
    # No other command takes it for a setting.
    load_settings(environment={"TIDEMARK_TOKEN": TOKEN})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no token"),
        ("\n\n", "holds no token"),
        ("x" * (LEAST - 1), f"must have {LEAST} to 4096 characters, and this one has {LEAST - 1}"),
        ("two words " * 3, "one line of ASCII"),
        ("first-line-0123456789\nsecond-line-0123456789", "one line of ASCII"),
        ("é" * 20, "one line of ASCII"),
        ("x" * 5_000, "must have 16 to 4096 characters"),
    ],
)
def test_what_can_be_no_token_is_refused_and_not_repeated(content: str, said: str, tmp_path: Path) -> None:
    (file := tmp_path / "token").write_text(content, "utf-8")
    with pytest.raises(SettingsError, match=said) as error:
        Token.given(file, {})
    assert len(content) < 2 or content not in str(error.value)
    assert "openssl rand" in str(error.value)


def test_the_command_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    assert "No such file" in refused("serve", "--port", 0, "--token-file", tmp_path / "none", data=tmp_path)
    assert "environment variable TIDEMARK_TOKEN: a token must have" in refused("serve", "--port", 0, data=tmp_path, token="short")
