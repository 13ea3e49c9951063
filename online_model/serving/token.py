"""A token that guards a server: whoever asks without it learns whether the process lives and is ready, what Prometheus counts, and no more.

The token itself is not kept, only its hash, so nothing that prints or dumps what is held can tell it; it is never logged, and never part of a URL.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from pathlib import Path

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.errors import SettingsError

VARIABLE = "TIDEMARK_TOKEN"
OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
"""What needs no token: whoever watches a server has none, and learns nothing of any user or pin."""
LEAST = 16
_MOST = 4096
_GOOD_FOR = "`openssl rand -hex 32` makes a good one"
_ADVICE = "send the header 'Authorization: Bearer TOKEN', with the token that the server was started with"


class Token:
    """Tells whether somebody has the token.

    Parameters
    ----------
    text : str
    where : str
        Where it comes from, for messages.

    Raises
    ------
    SettingsError
        It is too short, too long, or no header can carry it.
    """

    def __init__(self, text: str, where: str) -> None:
        # Messages never repeat it.
        if not text:
            raise SettingsError(f"{where} holds no token; {_GOOD_FOR}")
        if not LEAST <= len(text) <= _MOST:
            raise SettingsError(f"{where}: a token must have {LEAST} to {_MOST} characters, and this one has {len(text)}; {_GOOD_FOR}")
        if not all("!" <= character <= "~" for character in text):
            raise SettingsError(f"{where}: a token is one line of ASCII letters, digits and signs, without spaces; {_GOOD_FOR}")
        self._hash = _hash(text.encode())

    @classmethod
    def given(cls, file: Path | None, environment: Mapping[str, str]) -> Token | None:
        """The token that an operator has given, by file or, without one, by the environment variable TIDEMARK_TOKEN; None without either.

        Raises
        ------
        SettingsError
            The file can't be read, or what is given can't be a token; an empty variable is none either, for so a secret that is missing arrives.
        """
        if file is None:
            return cls(environment[VARIABLE], f"environment variable {VARIABLE}") if VARIABLE in environment else None
        where = f"--token-file {file}"
        try:
            with file.open("rb") as opened:
                data = opened.read(_MOST + 3)
        except OSError as error:
            raise SettingsError(f"{where}: it can't be read: {error.strerror or error}; name a file that holds the token alone") from error
        return cls(data.decode("latin-1").rstrip("\r\n"), where)

    def fits(self, header: bytes | None) -> bool:
        """Whether the value of an Authorization header bears it; takes the same time for every wrong token."""
        scheme, _, said = (header or b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(_hash(said.strip()), self._hash)

    def borne_by(self, scope: Scope) -> bool:
        """Whether a request bears it, in one Authorization header."""
        said = _said(scope)
        return len(said) == 1 and self.fits(said[0])


def _said(scope: Scope) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == b"authorization"]


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


class Guarded:
    """An application that answers who has the token, and everybody on open paths.

    Parameters
    ----------
    app : ASGI application
    token : Token
    open_paths : collection of str
        Besides OPEN: pages that hold nothing, from which a person can give the token.
    """

    def __init__(self, app: ASGIApp, token: Token, open_paths: Collection[str] = ()) -> None:
        self._app, self._token, self._open = app, token, OPEN | frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it before anything of it is read."""
        if scope["type"] == "http" and scope["path"] not in self._open and not self._token.borne_by(scope):
            none = "this server asks for a token, and the request has none"
            await _refusal("the token is not the one of this server" if _said(scope) else none)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _refusal(error: str) -> Response:
    body = orjson.dumps({"error": error, "what_to_do": _ADVICE})
    headers = {"www-authenticate": 'Bearer realm="tidemark"', "cache-control": "no-store", "connection": "close"}
    return Response(body, 401, headers, media_type="application/json")
