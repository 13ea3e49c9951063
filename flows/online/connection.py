"""The Redis that the settings name: its client, and its errors in our words.

Retries and timeouts are those of redis-py: a connection that was lost is made again within the call that finds out. No message has a secret, for
none is in the setting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from flows.errors import OnlineStoreError, SettingsError
from flows.option_file import option_lines, option_value
from flows.settings import Settings

_OPTIONS = ("username", "password", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TIMEOUT_S = 5.0
# Some 0.3 s in all: a server that restarts is met again by the next request at the latest.
_RETRY = (ExponentialBackoff(cap=0.2, base=0.02), 4)


def connect(settings: Settings) -> Redis:
    """A client of the setting `online`; nothing is sent before it is used.

    Raises
    ------
    SettingsError
        There is no such setting, or the options file is wrong.
    """
    if settings.online is None:
        raise SettingsError(
            "the setting 'online' is empty, so features are read from task state; set TIDEMARK_ONLINE=redis://host:port to use Redis"
        )
    url = urlsplit(settings.online)
    try:
        port = url.port or 6379
    except ValueError as error:
        raise SettingsError(f"setting 'online': {error}") from None
    named: dict[str, Any] = {"ssl": True} if url.scheme == "rediss" else {}
    if settings.online_options is not None:
        for where, name, value in option_lines("online_options", settings.online_options):
            if name not in _OPTIONS:
                raise SettingsError(f"{where}: there is no option '{name}'; options: {', '.join(_OPTIONS)}")
            named[name] = option_value(f"{where}, {name}", value)
    return Redis(
        host=url.hostname or "",
        port=port,
        db=int(url.path.strip("/") or 0),
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        retry=Retry(*_RETRY),
        client_name="tidemark",
        **named,
    )


@contextmanager
def translated(settings: Settings) -> Iterator[None]:
    """Redis's exceptions as ours."""
    try:
        yield
    except RedisError as error:
        raise OnlineStoreError(f"Redis {settings.online}: {' '.join(str(error).split())}{_advice(error)}") from error


def _advice(error: RedisError) -> str:
    if isinstance(error, (AuthenticationError, NoPermissionError)):
        return "; check username and password in the file that 'online_options' names"
    if isinstance(error, (RedisConnectionError, RedisTimeoutError)):
        return "; check the setting 'online' and that Redis runs: reads go on by themselves when it is back"
    return ""
