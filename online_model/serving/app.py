"""The HTTP of serving: paths, statuses, and one form for everything that is refused. What is served is `service.Service`'s matter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

import numpy as np
import orjson
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.errors import OtherFingerprintError, TidemarkError
from flows.events import id_of
from online_model.serving import examples
from online_model.serving.answer import Answer, Ask
from online_model.serving.beside import Beside
from online_model.serving.errors import BadRequestError, NotUtf8Error, ServingError, SlowBodyError, TooLargeError
from online_model.serving.metrics import Metrics
from online_model.serving.packing import Request as Asked
from online_model.serving.rank_schema import RankRequest, parsed_rank
from online_model.serving.retrieve_schema import RetrieveRequest, parsed_retrieve
from online_model.serving.schema import MAX_BODY_BYTES, BatchRequest, GetQuery, checked, parsed, refused, said_once
from online_model.serving.service import Service
from online_model.serving.token import Guarded

_JSON = "application/json"
# An answer holds for a moment.
_HEADERS = {"cache-control": "no-store"}
_NO_IDS = np.empty(0, np.int64)
_FEATURES, _RANK, _RETRIEVE = "/v1/features", "/v1/rank", "/v1/retrieve"
_CLIENT_GONE = 499

_Said = Annotated[GetQuery, Query()]
_DESCRIPTION = """Action sequences and revisit counters as the flows have them now, or had them at a time.

Every answer says which prefix of the logs it reflects (`positions`), and is kept in the log `served` with all its values."""


class _Text(Convertor[str]):
    """The rest of a path, whatever it holds: Starlette's own `path` leaves out a newline, and so takes one text for another."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("text", _Text())


def make_app(service: Service, beside: Beside | None = None) -> FastAPI:
    """The application over a service, with what else it has; whoever runs it closes both."""
    app = FastAPI(title="Tidemark", description=_DESCRIPTION, version="1", redoc_url=None, redirect_slashes=False)
    if service.options.token is not None:
        app.add_middleware(Guarded, token=service.options.token, open_paths=beside.open_paths if beside is not None else ())
    # The last one added is the first that a request meets: what is refused is counted, too.
    app.add_middleware(_Measured, metrics=service.metrics)
    _refusals(app)
    _features(app, service)
    _ranking(app, service)
    _operations(app, service)
    if beside is not None:
        beside.mount(app)
    return app


def _features(app: FastAPI, service: Service) -> None:
    told = [Depends(_legible), Depends(_said_once)]

    async def one(said: GetQuery, ask: Ask, pack: Callable[[Asked, Answer], bytes]) -> Response:
        request = checked(said, time.time_ns() // 1_000_000, service.vocabulary, service.fingerprint)
        return Response(await service.serve(request, ask, pack), media_type=_JSON, headers=_HEADERS)

    # The first, for paths are looked for in this order.
    schema = BatchRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    body = {"requestBody": {"required": True, "content": {_JSON: {"schema": schema, "examples": examples.BATCH_REQUESTS}}}}

    @app.post(
        _FEATURES,
        openapi_extra=body,
        responses=examples.BATCH,
        summary="Many users, pins and topics at once, as columns",
        tags=["features"],
    )
    async def batch(http: Request) -> Response:
        """All of one log prefix. A list stands for each value of the single answers: of all entities, in the order asked."""
        timestamp = time.time_ns() // 1_000_000
        said, ask = parsed(await _body(http, service.options.body_timeout_s), service.options)
        request = checked(said, timestamp, service.vocabulary, service.fingerprint)
        return Response(await service.serve(request, ask, service.packer.batch), media_type=_JSON, headers=_HEADERS)

    @app.get(
        _FEATURES + "/user/{id:text}",
        dependencies=told,
        responses=examples.USER,
        summary="A user's sequence and counters",
        tags=["features"],
    )
    async def user(id: str, said: _Said) -> Response:
        """ID is a number, or the text that was ingested. Someone of whom nothing is known has an empty sequence and zeros, and found=false."""
        return await one(said, Ask(_one_id(id), _NO_IDS, (), said.as_of), service.packer.user)

    @app.get(_FEATURES + "/pin/{id:text}", dependencies=told, responses=examples.PIN, summary="A pin's counters", tags=["features"])
    async def pin(id: str, said: _Said) -> Response:
        """ID is a number, or the text that was ingested."""
        return await one(said, Ask(_NO_IDS, _one_id(id), (), said.as_of), service.packer.pin)

    @app.get(
        _FEATURES + "/topic/{name:text}", dependencies=told, responses=examples.TOPIC, summary="A topic's statistics", tags=["features"]
    )
    async def topic(name: str, said: _Said) -> Response:
        """NAME is the topic as it was ingested."""
        if not name:
            raise BadRequestError("the topic has no name", "name one: /v1/features/topic/NAME")
        return await one(said, Ask(_NO_IDS, _NO_IDS, (name,), said.as_of), service.packer.topic)


def _ranking(app: FastAPI, service: Service) -> None:
    schema = RankRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    body = {"requestBody": {"required": True, "content": {_JSON: {"schema": schema, "examples": examples.RANK_REQUESTS}}}}

    @app.post(_RANK, openapi_extra=body, responses=examples.RANK, summary="The best pins for a user", tags=["ranking"])
    async def rank(http: Request) -> Response:
        """Ranked by the model that the user gets: pins slot by slot, as columns, each with what it leads to. All of one log prefix and one model."""
        timestamp = time.time_ns() // 1_000_000
        said, wanted = parsed_rank(await _body(http, service.options.body_timeout_s))
        request = checked(said, timestamp, service.vocabulary, service.fingerprint)
        return Response(await service.rank(request, wanted), media_type=_JSON, headers=_HEADERS)

    schema = RetrieveRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    sought = {"requestBody": {"required": True, "content": {_JSON: {"schema": schema, "examples": examples.RETRIEVE_REQUESTS}}}}

    @app.post(_RETRIEVE, openapi_extra=sought, responses=examples.RETRIEVE, summary="Pins near to a user", tags=["ranking"])
    async def retrieve(http: Request) -> Response:
        """Candidates: of the embedding that is served, the nearest to the user, less what they have acted on; for somebody new, popular ones."""
        timestamp = time.time_ns() // 1_000_000
        said, wanted = parsed_retrieve(await _body(http, service.options.body_timeout_s))
        request = checked(said, timestamp, service.vocabulary, service.fingerprint)
        return Response(await service.retrieve(request, wanted), media_type=_JSON, headers=_HEADERS)


def _operations(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Whether the process lives", tags=["operations"])
    async def healthz() -> Response:
        """200 as long as it answers at all."""
        return Response(b'{"status":"ok"}', media_type=_JSON, headers=_HEADERS)

    @app.get("/readyz", summary="Whether requests get what they ask for", tags=["operations"], responses=examples.READY)
    async def readyz(http: Request) -> Response:
        """503 with the reasons, if not. `served_log` says how the log of what is served does. Without the server's token, `ready` alone."""
        ready, said = await service.readiness()
        token = service.options.token
        if token is not None and not token.borne_by(http.scope):
            # The rest names places, brokers and models, and how far the logs are.
            said = {"ready": ready}
        return Response(orjson.dumps(said), 200 if ready else 503, media_type=_JSON, headers=_HEADERS)

    @app.get("/metrics", summary="Metrics for Prometheus", tags=["operations"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """In Prometheus's text format."""
        return Response(service.exposition(), media_type=CONTENT_TYPE_LATEST)


def _refusals(app: FastAPI) -> None:
    @app.exception_handler(TidemarkError)
    async def refuse(_: Request, error: Exception) -> Response:
        if isinstance(error, ServingError):
            headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else {}
            if isinstance(error, SlowBodyError):
                # The rest of it is not waited for.
                headers["connection"] = "close"
            return _refusal(error.status, error.error, error.advice, headers)
        advice = "serve it with the settings that it was made with" if isinstance(error, OtherFingerprintError) else "see /readyz"
        return _refusal(503, str(error), advice, {"retry-after": "1"})

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = refused([dict(one) for one in error.errors()])
        return _refusal(found.status, found.error, found.advice)

    @app.exception_handler(HTTPException)
    async def unknown(http: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        # Not http.url, which is made of what the client calls the host.
        path = http.scope["path"]
        what = {404: f"there is nothing at {path}", 405: f"{http.method} is not for {path}"}
        return _refusal(error.status_code, what.get(error.status_code, str(error.detail)), "see /docs for what there is", error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: Exception) -> Response:
        # Nobody reads it, and it is counted.
        return _refusal(_CLIENT_GONE, "the client has gone before its body was here", "ask again")

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        # Its traceback goes to standard error.
        return _refusal(
            500, f"something that nobody has foreseen: {type(error).__name__}", "see what the server has written to its standard error"
        )


def _refusal(status: int, error: str, advice: str, headers: Mapping[str, str] | None = None) -> Response:
    body = orjson.dumps({"error": error.encode("utf-8", "replace").decode(), "what_to_do": advice})
    return Response(body, status, media_type=_JSON, headers={**_HEADERS, **(headers or {})})


def _one_id(text: str) -> np.ndarray:
    if not text:
        raise BadRequestError("the ID is empty", "give one: a whole number, or the text that was ingested")
    return np.array([id_of(text)], np.int64)


async def _legible(http: Request) -> None:
    # The server has put other characters in place of bytes that are no UTF-8.
    try:
        unquote_to_bytes(http.scope["raw_path"] + b"?" + http.scope["query_string"]).decode("utf-8")
    except UnicodeDecodeError:
        raise NotUtf8Error("the path is no UTF-8", "percent-encode the UTF-8 of what is asked for") from None


async def _said_once(http: Request) -> None:
    said_once(http.query_params.multi_items())


async def _body(http: Request, seconds: float) -> bytes:
    if http.scope["query_string"]:
        raise BadRequestError("a POST says nothing behind its question mark", "say it in the body; see /docs for the fields")
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in http.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise TooLargeError(f"the body is larger than {MAX_BODY_BYTES >> 20} MiB", "send several requests")
                parts.append(part)
    except TimeoutError:
        raise SlowBodyError(f"the body has not come within {seconds:g} s", "send it at once") from None
    return b"".join(parts)


class _Measured:
    """Counts requests and times them, from the head to the last byte, whatever becomes of them."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            self._metrics.request(_endpoint(scope["path"]), status, time.perf_counter() - began)


def _endpoint(path: str) -> str:
    if path in (_FEATURES, _RANK, _RETRIEVE):
        return {_FEATURES: "batch", _RANK: "rank", _RETRIEVE: "retrieve"}[path]
    if path in ("/console", "/v1/console") or path.startswith(("/console/", "/v1/console/")):
        return "console"
    kind = path.removeprefix(_FEATURES + "/").partition("/")[0] if path.startswith(_FEATURES + "/") else path.removeprefix("/")
    allowed: dict[str, Any] = dict.fromkeys(("user", "pin", "topic") if path.startswith(_FEATURES) else ("healthz", "readyz", "metrics"))
    return kind if kind in allowed else "other"
