"""The console's paths: the page with its files, what all sections say, and look-ups. Whatever it says goes out as JSON, never as markup."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response

from online_model.serving.beside import Beside
from online_model.serving.service import Service
from replay.console.attention import Attention, attention
from replay.console.board import Board, Section, Told
from replay.console.checks import Checks, ChecksSection
from replay.console.letters import Letters, LettersSection
from replay.console.lookup import Looked, Lookup
from replay.console.models import Models, ModelsSection
from replay.console.replays import Replays, ReplaysSection
from replay.console.requests import Requests, RequestsSection
from replay.console.stands import Stands, StandsSection

PAGE, API = "/console", "/v1/console"
FILES = {
    "console.html": "text/html; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "sections.js": "text/javascript; charset=utf-8",
    "drawing.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_SAFE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
# Files change with the version: a browser asks again each time.
_PAGE_HEADERS = {**_SAFE, "cache-control": "no-cache"}
_JSON_HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


@dataclass(frozen=True)
class Now:
    """What the console says.

    Attributes
    ----------
    now : int
        The server's clock, ms.
    version : str
        Of Tidemark.
    data : str
        Name of the data directory.
    attention : list of Attention
        What to look at; empty: nothing is known to be wrong.
    """

    now: int
    version: str
    data: str
    attention: list[Attention]
    flows: Told[Stands]
    letters: Told[Letters]
    requests: Told[Requests]
    models: Told[Models]
    checks: Told[Checks]
    replays: Told[Replays]


@dataclass(frozen=True)
class Refusal:
    """Why there is no answer."""

    error: str
    what_to_do: str


class Console(Beside):
    """See the module.

    Parameters
    ----------
    service : Service
        Of the server that it is beside.
    """

    open_paths = frozenset({"/", PAGE, *(f"{PAGE}/{name}" for name in FILES)})

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self._version, self._data = version("tidemark"), settings.data.resolve().name
        self._files = {name: Path(__file__).with_name(name).read_bytes() for name in FILES}
        self._lookup = Lookup(settings)
        sections: dict[str, Section[Any]] = {
            "flows": StandsSection(settings),
            "letters": LettersSection(settings),
            "requests": RequestsSection(service),
            "models": ModelsSection(settings),
            "checks": ChecksSection(settings),
            "replays": ReplaysSection(settings),
        }
        self._board = Board(sections, self._packed)

    def close(self) -> None:
        """Release all that is open."""
        self._board.close()
        self._lookup.close()

    def mount(self, app: FastAPI) -> None:
        """Add the paths."""
        self._pages(app)

        @app.get(API, responses=_answers(Now), summary="How all parts are", tags=["console"])
        async def now() -> Response:
            """What the page shows: each section with `problem` where it can't be read. A second old at most, but for sections that are slow."""
            return _json(await self._board.told())

        @app.get(API + "/user/{id:text}", responses=_answers(Looked), summary="A user, to look at", tags=["console"])
        async def user(id: str) -> Response:
            """Features as they are now, in words and over their windows. ID is a number, or the text that was ingested. SERVED keeps none of it."""
            return _json(orjson.dumps(await self._lookup.user(id)))

        @app.get(API + "/pin/{id:text}", responses=_answers(Looked), summary="A pin, to look at", tags=["console"])
        async def pin(id: str) -> Response:
            """As of a user."""
            return _json(orjson.dumps(await self._lookup.pin(id)))

        @app.get(API + "/topic/{name:text}", responses=_answers(Looked), summary="A topic, to look at", tags=["console"])
        async def topic(name: str) -> Response:
            """As of a user; NAME is the topic as it was ingested."""
            return _json(orjson.dumps(await self._lookup.topic(name)))

    def _pages(self, app: FastAPI) -> None:
        @app.get("/", include_in_schema=False)
        async def front() -> Response:
            return RedirectResponse(PAGE, 307, {"cache-control": "no-store"})

        @app.get(PAGE, include_in_schema=False)
        async def page() -> Response:
            return Response(self._files["console.html"], headers=_PAGE_HEADERS, media_type=FILES["console.html"])

        for name, kind in FILES.items():
            # A path for each, so that no other file is ever found.
            app.add_api_route(f"{PAGE}/{name}", _serving(self._files[name], kind), include_in_schema=False)

    def _packed(self, told: Mapping[str, Told[Any]]) -> bytes:
        now = time.time_ns() // 1_000_000
        return orjson.dumps(Now(now, self._version, self._data, attention(told, now), **told))


def _serving(content: bytes, kind: str) -> Any:
    async def file() -> Response:
        return Response(content, headers=_PAGE_HEADERS, media_type=kind)

    return file


def _answers(model: type) -> dict[int | str, dict[str, Any]]:
    refusals = {401: "A token is asked for.", 422: "That can't be asked for.", 503: "The store does not answer."}
    return {200: {"model": model}, **{status: {"model": Refusal, "description": why} for status, why in refusals.items()}}


def _json(body: bytes) -> Response:
    return Response(body, headers=_JSON_HEADERS, media_type="application/json")
