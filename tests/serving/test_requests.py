"""Requests that can't be meant: one clear JSON error each, never a traceback, and no harm to the next."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flows.events import id_of
from flows.reading import FeatureReader
from online_model.serving.options import Options
from online_model.serving.server import MAX_HEAD_BYTES
from tests.processes import PATIENCE_S, await_true
from tests.serving.conftest import Site
from tests.serving.http import Reply, Running, running

FEATURES = "/v1/features"


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[Running]:
    with running(site.settings, Options(timeout_s=PATIENCE_S, most_entities=50)) as made:
        yield made


def refusal(reply: Reply) -> tuple[str, str]:
    """What is wrong, and what to do: nothing else is said."""
    said = reply.json()
    assert set(said) == {"error", "what_to_do"}
    assert all(isinstance(text, str) and text and "\n" not in text for text in said.values()), said
    assert reply.headers["content-type"] == "application/json"
    return said["error"], said["what_to_do"]


@pytest.mark.parametrize(
    ("said", "status", "error"),
    [
        (b"", 400, "the body is no JSON"),
        (b"{", 400, "the body is no JSON"),
        (b"\xff\xfe", 400, "the body is no JSON"),
        (b'{"topics": ["\\ud800"]}', 400, "the body is no JSON"),
        (b"[]", 422, "the body: "),
        (b"null", 422, "the body: "),
        ({}, 422, "no entity is asked for"),
        (b'{"users": [1], "users": [2]}', 422, "'users' is said more than once"),
        (b'{"users": [1], "\\u0075sers": [2]}', 422, "'users' is said more than once"),
        ({"users": []}, 422, "no entity is asked for"),
        ({"users": 7}, 422, "users: input should be a valid"),
        ({"users": [1.0]}, 422, "users.0 is no ID"),
        ({"users": [1, None]}, 422, "users.1 is no ID"),
        ({"pins": [True]}, 422, "pins.0 is no ID"),
        ({"pins": [[1]]}, 422, "pins.0 is no ID"),
        ({"pins": ["x" * 65_537]}, 422, "pins.0 is no ID"),
        ({"users": [2**63]}, 422, "users: 9223372036854775808 is no 64-bit ID"),
        ({"users": ["a", -(2**63) - 1]}, 422, "users: -9223372036854775809 is no 64-bit ID"),
        ({"users": [10**400]}, 422, "users"),
        ({"topics": [1]}, 422, "topics.0: input should be a valid string"),
        ({"pins": list(range(51))}, 422, "51 entities are asked for, and a request may ask for 50"),
        ({"user": [1]}, 422, "there is no field 'user' (did you mean 'users'?)"),
        ({"users": [1], "as_of": -1}, 422, "as_of: input should be greater than or equal to 0"),
        ({"users": [1], "as_of": 253_402_300_800_000}, 422, "as_of: input should be less than or equal to 253402300799999"),
        ({"users": [1], "as_of": 1.5}, 422, "as_of: input should be a valid integer"),
        ({"users": [1], "as_of": "5"}, 422, "as_of: input should be a valid integer"),
        ({"users": [1], "request_id": ""}, 422, "request_id: "),
        ({"users": [1], "request_id": "x" * 201}, 422, "request_id: "),
        ({"users": [1], "request_id": 5}, 422, "request_id: "),
        ({"users": [1], "surface": "homefed"}, 422, "there is no surface 'homefed' (did you mean 'homefeed'?)"),
        ({"users": [1], "allow_other_fingerprint": 1}, 422, "allow_other_fingerprint: "),
        (
            {"users": [1], "fingerprint": "0123456789abcdef"},
            409,
            "the client was made for features with fingerprint '0123456789abcdef', and '",
        ),
        (b" " * (4 << 20) + b"{}", 413, "the body is larger than 4 MiB"),
    ],
)
def test_a_batch_that_is_refused(server: Running, said: object, status: int, error: str) -> None:
    reply = server.client.ask("POST", FEATURES, said)
    assert reply.status == status, reply
    assert refusal(reply)[0].startswith(error)


def test_a_batch_with_a_query_is_refused(server: Running) -> None:
    reply = server.client.ask("POST", f"{FEATURES}?as_of=1", {"users": [1]})
    assert (reply.status, refusal(reply)[0]) == (422, "a POST says nothing behind its question mark")


def test_a_path_holds_a_text_as_ingest_takes_it(server: Running) -> None:
    """What is no number within int64 is a text ID; a POST says which of the two it means."""
    for text in ("99999999999999999999", "7.5", "007", "7\n", "7\r", "\n7", "a\nb", "a/b", "/", "a%2F", "ä", "7 ", "\x00"):
        assert server.client.get(f"{FEATURES}/user/{quote(text, safe='')}")["user_id"] == id_of(text)
        assert server.client.get(f"{FEATURES}/topic/{quote(text, safe='')}")["topic"] == text


def test_get_and_post_take_texts_of_the_same_length(server: Running) -> None:
    long = "x" * 60_000
    got = server.client.post({"users": [long], "topics": [long]})
    assert got["users"]["user_id"] == [server.client.get(f"{FEATURES}/user/{long}")["user_id"]] == [id_of(long)]
    assert got["topics"]["topic"] == [server.client.get(f"{FEATURES}/topic/{long}")["topic"]] == [long]


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/", 404, "there is nothing at /"),
        ("/v1/features/users/1", 404, "there is nothing at /v1/features/users/1"),
        ("/v1/features", 405, "GET is not for /v1/features"),
        ("/v1/features/", 404, "there is nothing at /v1/features/"),
        ("/v1/features/user/", 422, "the ID is empty"),
        ("/v1/features/topic/", 422, "the topic has no name"),
        ("/v1/features/user/%ff", 400, "the path is no UTF-8"),
        ("/v1/features/user/1?request_id=%ff", 400, "the path is no UTF-8"),
        ("/v1/features/user/1?as-of=5", 422, "there is no field 'as-of' (did you mean 'as_of'?)"),
        ("/v1/features/user/1?as_of=1&as_of=2", 422, "'as_of' is said more than once"),
        ("/v1/features/pin/1?as_of=now", 422, "as_of: input should be a valid integer"),
        ("/v1/features/pin/1?as_of=-1", 422, "as_of: input should be greater than or equal to 0"),
        ("/v1/features/user/1?surface=moon", 422, "there is no surface 'moon'"),
        ("/v1/features/user/1?fingerprint=x", 409, "the client was made for features with fingerprint 'x'"),
    ],
)
def test_a_path_that_is_refused(server: Running, path: str, status: int, error: str) -> None:
    reply = server.client.ask("GET", path)
    assert reply.status == status, reply
    assert refusal(reply)[0].startswith(error)


def test_another_fingerprint_is_served_to_who_wants_it_all_the_same(server: Running) -> None:
    ours = server.client.get("/readyz")["fingerprint"]
    assert server.client.get(f"/v1/features/user/1?fingerprint={ours}")["fingerprint"] == ours
    assert server.client.get("/v1/features/user/1?fingerprint=x&allow_other_fingerprint=true")["fingerprint"] == ours
    assert server.client.post({"users": [1], "fingerprint": "x", "allow_other_fingerprint": True})["fingerprint"] == ours


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda one: st.lists(one, max_size=3), max_leaves=5
)
_NAMES = st.sampled_from(["users", "pins", "topics", "as_of", "request_id", "surface", "fingerprint", "allow_other_fingerprint", "other"])


@hypothesis_settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.dictionaries(_NAMES, _VALUES, max_size=4) | _VALUES)
def test_anything_that_is_json_is_answered_or_refused(server: Running, said: Any) -> None:
    reply = server.client.ask("POST", FEATURES, json.dumps(said).encode())
    assert reply.status in (200, 400, 409, 422)
    if reply.status != 200:
        refusal(reply)


@hypothesis_settings(max_examples=60)
@given(body=st.binary(max_size=80), id=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_bytes_and_any_id_are_answered_or_refused(server: Running, body: bytes, id: str) -> None:
    reply = server.client.ask("POST", FEATURES, body)
    assert reply.status in (200, 400, 422)
    if reply.status != 200:
        refusal(reply)
    for kind in ("user", "pin", "topic"):
        reply = server.client.ask("GET", f"{FEATURES}/{kind}/" + "".join(f"%{byte:02X}" for byte in id.encode()))
        assert reply.status == (200 if id else 422)
        if reply.status != 200:
            refusal(reply)


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /v1/features/user/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/features HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/features HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/features HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
        b"GET /v1/features/user/%ff%00 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    ],
)
def test_bytes_that_are_no_http_end_a_connection_alone(server: Running, sent: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", server.client.port), timeout=PATIENCE_S) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass
    assert server.client.get("/healthz") == {"status": "ok"}
    assert "Traceback" not in capfd.readouterr().err


def test_a_head_without_end_is_cut_off(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.client.port), timeout=PATIENCE_S) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nendless: ".ljust(MAX_HEAD_BYTES + 1, b"x"))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 400 ")
    assert server.client.get("/healthz") == {"status": "ok"}


def test_a_body_that_does_not_come_is_not_waited_for(site: Site) -> None:
    with (
        running(site.settings, Options(timeout_s=PATIENCE_S, body_timeout_s=0.05)) as slow,
        socket.create_connection(("127.0.0.1", slow.client.port), timeout=PATIENCE_S) as connection,
    ):
        connection.sendall(b"POST /v1/features HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        said = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"the body has not come within 0.05 s" in said


HEAD = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET", HEAD, HEAD + b"\r\n" + HEAD, (HEAD + b"\r\n") * 2 + b"G"],
    ids=["nothing", "a method", "a head without its end", "of the second request", "of the third"],
)
def test_a_head_that_does_not_come_is_not_waited_for(site: Site, begun: bytes) -> None:
    with (
        running(site.settings, Options(timeout_s=PATIENCE_S, head_timeout_s=0.05)) as slow,
        socket.create_connection(("127.0.0.1", slow.client.port), timeout=PATIENCE_S) as connection,
    ):
        connection.sendall(begun)
        said = b"".join(iter(lambda: connection.recv(65_536), b""))
    answered = begun.count(b"\r\n\r\n")
    assert said.count(b'{"status":"ok"}') == answered
    if begun:
        assert said.count(b"HTTP/1.1 408 ") == 1
        assert said.endswith(b"the head has not come within 0.05 s")
    else:
        assert said == b""


def test_a_head_that_comes_byte_by_byte_gets_no_more_time(site: Site) -> None:
    with (
        running(site.settings, Options(timeout_s=PATIENCE_S, head_timeout_s=0.05)) as slow,
        socket.create_connection(("127.0.0.1", slow.client.port), timeout=PATIENCE_S) as connection,
    ):
        connection.settimeout(0.01)
        said = b""
        with suppress(ConnectionError):
            while b"within 0.05 s" not in said:
                connection.sendall(b"G")
                with suppress(TimeoutError):
                    said += connection.recv(65_536)
    assert b"HTTP/1.1 408 " in said


def test_more_connections_than_are_taken_are_told_so_and_closed(site: Site) -> None:
    with running(site.settings, Options(timeout_s=PATIENCE_S, most_connections=2)) as few, ExitStack() as held:

        def connected() -> socket.socket:
            return held.enter_context(socket.create_connection(("127.0.0.1", few.client.port), timeout=PATIENCE_S))

        first, second = connected(), connected()
        for one in (first, second):
            # Answered, so it is certain that both are counted before the third comes.
            one.sendall(HEAD + b"\r\n")
            assert one.recv(65_536).startswith(b"HTTP/1.1 200 ")
        refused = connected()
        said = b"".join(iter(lambda: refused.recv(65_536), b""))
        assert said.startswith(b"HTTP/1.1 503 ")
        assert said.endswith(b"more than 2 connections at once; come again")
        first.sendall(HEAD + b"\r\n")
        assert first.recv(65_536).startswith(b"HTTP/1.1 200 "), "who is connected is served on"
        second.close()

        def again() -> bool:
            with suppress(OSError, http.client.HTTPException):
                return few.client.ask("GET", "/healthz").status == 200
            return False

        await_true(again, "there is room again")


def test_a_request_that_is_answered_late_is_no_slow_head(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a connection that waits between two requests."""
    with running(site.settings, Options(timeout_s=PATIENCE_S, head_timeout_s=0.05)) as slow:
        read = FeatureReader.pin_counters
        monkeypatch.setattr(FeatureReader, "pin_counters", lambda *given: (time.sleep(0.2), read(*given))[1])
        connection = http.client.HTTPConnection("127.0.0.1", slow.client.port, timeout=PATIENCE_S)
        with closing(connection):
            for _ in range(2):
                connection.request("POST", FEATURES, b'{"pins":[1]}')
                answer = connection.getresponse()
                assert (answer.status, len(answer.read()) > 0) == (200, True)
                time.sleep(0.2)


def test_a_client_that_goes_amid_its_body_is_counted_and_nothing_more(server: Running, capfd: pytest.CaptureFixture[str]) -> None:
    counted = 'tidemark_serving_requests_total{endpoint="batch",status="%d"}'
    gone, unforeseen = (server.client.metric(counted % status) for status in (499, 500))
    with socket.create_connection(("127.0.0.1", server.client.port), timeout=PATIENCE_S) as connection:
        connection.sendall(b"POST /v1/features HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await_true(lambda: server.client.metric(counted % 499) > gone, "it is counted")
    assert server.client.metric(counted % 500) == unforeseen
    assert capfd.readouterr().err == ""


def test_a_read_that_fails_in_an_unforeseen_way_is_an_error_and_passes(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(FeatureReader, "pin_counters", lambda *_: 1 / 0)
        reply = server.client.ask("POST", FEATURES, {"pins": [1]})
        assert reply.status == 503
        assert refusal(reply)[0] == "a read has failed: ZeroDivisionError"
    with monkeypatch.context() as patched:
        patched.setattr(type(server.service.packer), "user", lambda *_: 1 / 0)
        reply = server.client.ask("GET", f"{FEATURES}/user/1?as_of=5")
        assert (reply.status, refusal(reply)[0]) == (500, "something that nobody has foreseen: ZeroDivisionError")
    await_true(lambda: server.client.ask("POST", FEATURES, {"pins": [1]}).status == 200, "the reader is opened anew")
