"""What serving over HTTP costs beside the reader that it serves from: one user and 100 pins a request, each kept in SERVED.

`python -m benchmarks.serving [--json] [--quick] [--events N] [--users M] [--repeats R] [--seconds S] [--seed N]`. The server is a process of its own,
`tidemark serve` as a user starts it; its clients are in this one, a thread and a connection that stays open each. Every answer of a first round
must be what the reader says before anything is timed, and what was answered must all be in SERVED at the end.
"""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from benchmarks import _command, _measure, _process, _stream
from flows.answers import EntityReader
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, USER_COUNTERS
from flows.reading import FeatureReader
from flows.settings import Settings

PINS = 100
_REQUESTS = 400
_PATIENCE_S = 60.0
_MEASURED = ("reader", "one_client", "clients")
_FIGURES = ("p50_ms", "p99_ms", "p99.9_ms", "cpu_ms")

NOTES = {
    "reader": "one catch-up, sequence and counters of a user, counters of 100 pins, as arrays, in this process: what the server itself calls",
    "one_client": "the same over HTTP, one request after another, from the call to the last byte of its JSON",
    "clients": "several at once; server and clients share the machine's cores",
    "cpu_ms": "of the reader, and of the server's process (reading, JSON, HTTP, and the appends to SERVED) for each request",
}


@dataclass(frozen=True)
class Asked:
    """A request, as arrays and as the body of a POST."""

    user: np.ndarray
    pins: np.ndarray
    body: bytes


def requests_of(reader: EntityReader, pins: np.ndarray, seed: int) -> list[Asked]:
    """Users and pins that something is known of."""
    rng = np.random.default_rng(seed)
    known, users = np.unique(pins[:, 0]), np.unique(pins[:, 1])
    out = []
    for _ in range(_REQUESTS):
        user, wanted = rng.choice(users, 1), rng.choice(known, PINS)
        out.append(Asked(user, wanted, orjson.dumps({"users": user.tolist(), "pins": wanted.tolist()})))
    return out


def read(reader: EntityReader, asked: Asked) -> tuple[Any, Any, Any]:
    """What the server reads for a request."""
    reader.refresh()
    return reader.user_sequences(asked.user), reader.user_counters(asked.user), reader.pin_counters(asked.pins)


@contextmanager
def serving(settings: Settings) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server's process and its port."""
    process = _process.started(settings, "serve", "--port", "0")
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise _measure.CheckFailedError(f"{process.args!r} ended with {process.wait()}")
        yield process, int(json.loads(line)["url"].rpartition(":")[2])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def check(reader: EntityReader, asked: list[Asked], port: int) -> int:
    """Raise unless each answer is what the reader says; returns how many bytes an answer has, about."""
    size = 0
    actions, surfaces = reader.vocabulary.action_names(), reader.vocabulary.surface_names()
    with _connection(port) as connection:
        for one in asked:
            body = _answer(connection, one)
            size += len(body)
            got, (rows, user, pins) = json.loads(body), read(reader, one)
            columns = {name: getattr(rows, name).tolist() for name in SEQUENCE_FIELDS}
            columns |= {"action": [actions[a] for a in columns["action"]], "surface": [surfaces[s] for s in columns["surface"]]}
            same = (
                got["users"]["sequence"] == {"offsets": rows.offsets.tolist(), **columns}
                and got["users"]["counters"] == {name: user.values[:, i].tolist() for i, name in enumerate(USER_COUNTERS)}
                and got["pins"]["counters"] == {name: pins.values[:, i].tolist() for i, name in enumerate(PIN_COUNTERS)}
            )
            if not same:
                raise _measure.CheckFailedError(f"the answer for user {one.user[0]} is not what the reader says")
    return size // len(asked)


def _connection(port: int) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S))


def _answer(connection: http.client.HTTPConnection, asked: Asked) -> bytes:
    connection.request("POST", "/v1/features", asked.body)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise _measure.CheckFailedError(f"a request was answered with {response.status}: {body.decode()}")
    return body


def over_http(port: int, asked: list[Asked], clients: int, seconds: float) -> dict[str, float]:
    """Requests of some clients, one after another each."""
    delays: list[list[float]] = [[] for _ in range(clients)]
    failures: list[Exception] = []

    def work(client: int) -> None:
        at, end = client * 37, time.perf_counter() + seconds
        try:
            with _connection(port) as connection:
                while (began := time.perf_counter()) < end:
                    _answer(connection, asked[at % len(asked)])
                    delays[client].append(time.perf_counter() - began)
                    at += 1
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    before, began = _cpu_of(port), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    seconds, number = time.perf_counter() - began, sum(map(len, delays))
    told = _percentiles(np.concatenate([np.array(one) for one in delays]))
    cpu = round((_cpu_of(port) - before) * 1000 / number, 3)
    return {**told, "cpu_ms": cpu, "requests": number, "requests_per_s": round(number / seconds, 1)}


def _cpu_of(port: int) -> float:
    """CPU seconds of the server so far, by its own metrics."""
    with _connection(port) as connection:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("process_cpu_seconds_total "))


def alone(reader: EntityReader, asked: list[Asked], seconds: float) -> dict[str, float]:
    """The same reads without a server."""
    delays, end, at, cpu = [], time.perf_counter() + seconds, 0, time.process_time()
    while (began := time.perf_counter()) < end:
        read(reader, asked[at % len(asked)])
        delays.append(time.perf_counter() - began)
        at += 1
    return {**_percentiles(np.array(delays)), "cpu_ms": round((time.process_time() - cpu) * 1000 / at, 3)}


def _percentiles(delays: np.ndarray) -> dict[str, float]:
    return {f"p{p:g}_ms": round(float(np.percentile(delays, p)) * 1000, 3) for p in (50, 99, 99.9)}


def measure(events: int, users: int, clients: int, seconds: float, repeats: int, seed: int, scratch: Path) -> dict[str, Any]:
    """Measure reader and server in turns.

    Raises
    ------
    CheckFailedError
        An answer is wrong, or what was served is not in SERVED.
    """
    settings = _stream.make(scratch, events=events, users=users, seed=seed)
    _process.told(_process.started(settings, "run"))
    with FeatureReader(settings) as reader, serving(settings) as (process, port):
        asked = requests_of(reader, np.concatenate(list(reader.pin_rows(reader.default_as_of() or 0))), seed)
        size, answered = check(reader, asked, port), len(asked)
        turns = []
        for _ in range(repeats):
            turn = {"reader": alone(reader, asked, seconds)}
            turn |= {"one_client": over_http(port, asked, 1, seconds), "clients": over_http(port, asked, clients, seconds)}
            answered += int(turn["one_client"]["requests"] + turn["clients"]["requests"])
            turns.append(turn)
        process.send_signal(signal.SIGTERM)
        said = json.loads(process.communicate(timeout=_PATIENCE_S)[0])
    if said != {"kept_rows": answered, "lost_rows": 0}:
        raise _measure.CheckFailedError(f"{answered} rows were served, and at its end the server says {said}")

    def of(what: str, figure: str) -> list[float]:
        return [turn[what][figure] for turn in turns]

    return {
        "benchmark": "serving",
        "results": {
            **{f"{what}_{p}": _measure.spread(of(what, p)) for what in _MEASURED for p in _FIGURES},
            "requests_per_s": _measure.spread(of("clients", "requests_per_s"), 1),
            "clients": clients,
            "answer_bytes": size,
            "rows_kept": answered,
            "log_bytes_per_row": round((settings.logs / "served.db").stat().st_size / answered),
            "notes": NOTES,
        },
        "ratios": {
            "http_vs_reader_p50": _measure.ratio(of("one_client", "p50_ms"), of("reader", "p50_ms")),
            "cpu_vs_reader": _measure.ratio(of("clients", "cpu_ms"), of("reader", "cpu_ms")),
            "http_vs_reader_p99": _measure.ratio(of("one_client", "p99_ms"), of("reader", "p99_ms")),
        },
        "machine": _measure.machine(),
        "seed": seed,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    results = result["results"]
    table = Table("ms", "p50", "p99", "p99.9", "CPU", title="serving: one user and 100 pins")
    for what in _MEASURED:
        cells = (results[f"{what}_{p}"] for p in _FIGURES)
        name = f"{results['clients']} clients" if what == "clients" else what.replace("_", " ")
        table.add_row(name, *(f"{cell['median']:.2f} ({cell['min']:.2f} to {cell['max']:.2f})" for cell in cells))
    console.print(table)
    console.print(
        f"{results['clients']} clients: {results['requests_per_s']['median']:,.0f} requests/s; {results['answer_bytes']:,} bytes an answer"
    )
    console.print(f"SERVED: {results['rows_kept']:,} rows, all that were served; {results['log_bytes_per_row']:,} bytes each")
    _measure.show_ratios(result, console)
    for name, note in NOTES.items():
        console.print(f"{name}: {note}")
    console.print(f"{_measure.where(result)}; seed {result['seed']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="A small stream, turns of 1 s, one repeat; ends within a minute.")
@click.option("--events", type=click.IntRange(1000), help="Events to simulate, about; default 1000000.")
@click.option("--users", type=click.IntRange(10), help="Users; default 20000.")
@click.option("--clients", type=click.IntRange(1), default=8, show_default=True, help="Clients at once.")
@click.option("--seconds", type=click.FloatRange(0.1), help="Of each turn; default 5.")
@click.option("--repeats", type=click.IntRange(1), help="Turns; default 3.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(
    as_json: bool,
    quick: bool,
    events: int | None,
    users: int | None,
    clients: int,
    seconds: float | None,
    repeats: int | None,
    seed: int,
) -> None:
    """Serving over HTTP, beside the reader that it serves from."""
    events, users = events or (100_000 if quick else 1_000_000), users or (2_000 if quick else 20_000)
    seconds, repeats = seconds or (1 if quick else 5), repeats or (1 if quick else 3)
    _command.run("serving", lambda scratch: measure(events, users, clients, seconds, repeats, seed, scratch), show, as_json)


if __name__ == "__main__":
    main()
