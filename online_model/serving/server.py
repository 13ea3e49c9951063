"""The process that serves: its socket, its signals, and its end, which drains what is to be kept."""

from __future__ import annotations

import gc
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn

from flows import stopping
from flows.errors import SettingsError
from flows.freed_memory import return_freed_memory
from online_model.serving.app import make_app
from online_model.serving.beside import Beside
from online_model.serving.heartbeats import Heartbeats
from online_model.serving.protocol import HeadInTime
from online_model.serving.service import Service

MAX_HEAD_BYTES = 65_536
# Requests that are under way when it is asked to stop.
_GRACE_S = 10
# A thread that computes hands the interpreter on after this time. By default it is 5 ms: longer than most answers take.
_SWITCH_S = 0.0005


class Server(uvicorn.Server):
    """A server that ends when this process is asked to stop, and leaves signals to whoever asks."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none: `flows.stopping` does."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        return await super().on_tick(counter) or stopping.requested()


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises
    ------
    SettingsError
        The port is taken, or the address is none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        # Python repeats the address behind it.
        said = (error.strerror or str(error)).partition(" (while")[0]
        raise SettingsError(f"can't serve at {host}:{port}: {said}; give another --host or --port") from error


def make_server(service: Service, beside: Beside | None = None) -> Server:
    """A server of a service, and of what else it has, that does nothing yet."""
    return Server(
        uvicorn.Config(
            make_app(service, beside),
            # Over h11: the other implementation that uvicorn has takes a head without end.
            http=partial(HeadInTime, service.options.head_timeout_s, service.options.most_connections),  # type: ignore[arg-type]
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )


def serve(service: Service, listening: socket.socket, ready: Callable[[str], None], beside: Beside | None = None) -> int:
    """Serve until this process is asked to stop; returns how many rows of what was served are lost.

    Parameters
    ----------
    listening : socket
    ready : callable
        Called with the server's URL once requests are taken.
    beside : Beside, optional
        What else it has; closed at the end.
    """
    stopping.listen()
    return_freed_memory()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="tidemark: %(message)s")
    try:
        service.warm_up()
        sys.setswitchinterval(_SWITCH_S)
        # What is there by now stays: no collection shall go through it again, which is what the slowest answers wait for.
        gc.collect()
        gc.freeze()
        server = make_server(service, beside)
        beating = Heartbeats(service.settings)
        ready(_url(listening))
        try:
            server.run([listening])
        finally:
            beating.close()
    finally:
        try:
            listening.close()
            if beside is not None:
                beside.close()
        finally:
            # What was served is kept, whatever the rest meets.
            lost = service.close()
    return lost


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if listening.family == socket.AF_INET6 else f"http://{host}:{port}"
