"""Servers in this process, with real sockets, and a plain client."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from flows.log import read_before
from flows.open_log import log_exists, open_log
from flows.outputs import SERVED
from flows.served_rows import ServedRows, rows_of
from flows.settings import Settings
from online_model.serving.beside import MakeBeside
from online_model.serving.options import Options
from online_model.serving.server import bound, make_server
from online_model.serving.service import Service
from tests.processes import PATIENCE_S, await_true


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks a server; a connection for each request."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, quote(path, safe="/?&=%"), sent, headers or {})
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, status: int = 200) -> Any:
        """The JSON of an answer that must have this status."""
        reply = self.ask("GET", path)
        assert reply.status == status, reply
        return reply.json()

    def post(self, said: object, status: int = 200) -> Any:
        reply = self.ask("POST", "/v1/features", said)
        assert reply.status == status, reply
        return reply.json()

    def metric(self, name: str) -> float:
        """A metric by its name, with its labels as they are written."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), 0.0)


@dataclass
class Running:
    """A server and a client of it."""

    service: Service
    client: Client


@contextmanager
def running(settings: Settings, options: Options | None = None, make_beside: MakeBeside | None = None) -> Iterator[Running]:
    """A server in a thread; at the end all that was served is in SERVED."""
    service = Service(settings, options or Options(timeout_s=PATIENCE_S))
    listening = bound("127.0.0.1", 0)
    beside = make_beside(service) if make_beside is not None else None
    server = make_server(service, beside)
    thread = threading.Thread(target=server.run, args=([listening],), name="serving")
    thread.start()
    try:
        await_true(lambda: server.started, "the server has started")
        yield Running(service, Client(listening.getsockname()[1]))
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        listening.close()
        if beside is not None:
            beside.close()
        service.close()
    assert not thread.is_alive()


def served(settings: Settings) -> list[ServedRows]:
    """All of SERVED, a partition each."""
    if not log_exists(settings, SERVED):
        return []
    out = []
    with open_log(settings, SERVED, read_only=True) as log:
        for partition, end in enumerate(log.end_positions()):
            batches, at = [], 0
            while at < end:
                batches += (read := read_before(log, end, partition, at, 1000))
                at = read[-1].end_offset
            out.append(rows_of([batch.records for batch in batches], f"served/{partition}"))
    return out


def record_of(rows: list[ServedRows], request_id: str) -> tuple[ServedRows, list[int]]:
    """The records of one request, that must lie in one partition."""
    found = [(part, [i for i, one in enumerate(part.request_id) if one == request_id]) for part in rows if request_id in part.request_id]
    assert len(found) == 1, request_id
    return found[0]
