"""The HTTP connection of serving: uvicorn's, which waits for ever for a head and takes any number of connections, with limits to both.

Must never end a connection whose request is under way: bodies and answers have limits of their own.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class HeadInTime(H11Protocol):
    """A connection that is closed if a head has not come in time, counted from its first byte or, of the first one, from the connection.

    Parameters
    ----------
    head_timeout_s : float
    most_connections : int
        Of a server at once; one more is told so and closed, before it has cost a file that state needs.
    **given
        As uvicorn makes its own.
    """

    def __init__(self, head_timeout_s: float, most_connections: int, **given: Any) -> None:
        super().__init__(**given)
        self._head_timeout_s, self._most_connections = head_timeout_s, most_connections
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most_connections:
            self._tell(503, b"Service Unavailable", f"more than {self._most_connections} connections at once; come again".encode())
            return
        self._look(begun=True)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._look(begun=True)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # What has come of the next head meanwhile is with h11; without any, uvicorn's own limit for idle connections holds.
        self._look(begun=bool(self.conn.trailing_data[0]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _look(self, begun: bool) -> None:
        if not begun or self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._late is None:
            self._late = self.loop.call_later(self._head_timeout_s, self._refuse)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self) -> None:
        if self.transport.is_closing():
            return
        if not self.conn.trailing_data[0]:
            # Of whoever has said nothing at all: an answer would be taken for that to what they ask next.
            self.timeout_keep_alive_handler()
            return
        self._tell(408, b"Request Timeout", f"the head has not come within {self._head_timeout_s:g} s".encode())

    def _tell(self, status: int, reason: bytes, told: bytes) -> None:
        """Answer what has not been asked yet, and close."""
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(told)), (b"connection", b"close")]
        for event in (h11.Response(status_code=status, reason=reason, headers=headers), h11.Data(data=told), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
