"""What ranking 500 candidates over HTTP takes, and on what the time is spent: features, packing, the model, the answer, HTTP.

`python -m benchmarks.rank [--json] [--quick] [--encoder NAME] [--events N] [--users M] [--requests R] [--repeats R] [--seed N]`. The server is a
process of its own, `tidemark serve` as a user starts it, with one thread for the model, and one client asks it. The models, one for each encoder,
know every user and pin of the stream; the server is switched between them. Scores that are kept in SERVED must be what the model says of that row
alone.
"""

from __future__ import annotations

import http.client
import json
import signal
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import _command, _measure, _process, _stream
from benchmarks.serving import serving
from flows.answers import SequenceRows
from flows.features import SEQUENCE_FIELDS
from flows.log import read_before
from flows.open_log import open_log
from flows.outputs import SERVED
from flows.reading import FeatureReader
from flows.served_rows import ServedRows, rows_of
from flows.settings import Settings
from online_model.deltas.follower import Served
from online_model.deltas.table_rows import tables_of
from online_model.model.calibration import Calibrators
from online_model.model.config import Encoder, ModelConfig
from online_model.model.dense import save_dense
from online_model.model.ranker import Ranker
from online_model.registry import tensors
from online_model.registry.bases import Base
from online_model.registry.build import build_of
from online_model.registry.manifest import CALIBRATORS, DENSE, TABLES, Described
from online_model.registry.registry import Registry
from online_model.serving.answer import Ask, defaults
from online_model.serving.candidates import Candidates
from online_model.serving.model import Dense, Model
from online_model.serving.rank_metrics import PARTS

CANDIDATES = 500
ENCODERS = ("mean", "transact_v1_1")
_WARM_UP, _CHECKED = 5, 20
_PATIENCE_S = 120.0

NOTES = {
    "request": "from the call to the last byte of its JSON, one client: 500 candidates, the best 25 told and kept in SERVED",
    "shares": "of the time of all requests, by the server's own histogram; `http` is what is missing to the client's: HTTP, the request's JSON",
}


@dataclass(frozen=True)
class Turn:
    """Requests of one model, one after another."""

    p50_ms: float
    p99_ms: float
    mean_ms: float
    parts_ms: dict[str, float]


def publish(settings: Settings, encoder: str, ids: dict[str, np.ndarray], seed: int) -> Base:
    """A model that knows IDs; its numbers follow from the seed."""
    config = ModelConfig(encoder=Encoder(encoder), seed=seed)
    registry = Registry.of(settings)
    rng = np.random.default_rng(seed)
    with registry.draft() as draft:
        save_dense(Ranker(config), draft / DENSE)
        Calibrators.none(config.heads).save(draft / CALIBRATORS)
        for table, known in ids.items():
            n = len(known)
            state = {
                "ids": known,
                "weights": rng.normal(0, 0.05, (n, config.dim)).astype(np.float32),
                "accumulators": np.ones(n, np.float32),
                "counts": np.ones(n, np.int32),
                "last_seen": np.zeros(n, np.int64),
                "default": np.zeros(config.dim, np.float32),
            }
            (draft / TABLES[table]).write_bytes(tensors.to_bytes(state))
        expected = registry.bases.expected
        about = Described({"model": config.to_dict()}, expected.features, expected.vocabulary, {}, None, build_of(seed), {}, 0)
        return registry.publish(draft, about)


class Client:
    """One connection to a server."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)

    def close(self) -> None:
        """End it."""
        self._connection.close()

    def get(self, path: str) -> bytes:
        """An answer, whatever its status."""
        self._connection.request("GET", path)
        return self._connection.getresponse().read()

    def rank(self, body: bytes) -> bytes:
        """A ranking."""
        self._connection.request("POST", "/v1/rank", body)
        response = self._connection.getresponse()
        said = response.read()
        if response.status != 200:
            raise _measure.CheckFailedError(f"a request was answered with {response.status}: {said.decode()}")
        return said

    def spent(self) -> dict[str, float]:
        """Seconds so far, by part."""
        sums = dict(line.rpartition(" ")[::2] for line in self.get("/metrics").decode().splitlines() if not line.startswith("#"))
        return {part: float(sums[f'tidemark_serving_rank_seconds_sum{{part="{part}"}}']) for part in PARTS}

    def await_base(self, number: int) -> None:
        """Until a base is served."""
        end = time.monotonic() + _PATIENCE_S
        while json.loads(self.get("/readyz"))["model"].get("arms", {}).get("served", {}).get("base") != number:
            if time.monotonic() > end:
                raise _measure.CheckFailedError(f"base {number} is not served within {_PATIENCE_S:g} s")
            time.sleep(0.05)


def turn(client: Client, bodies: list[bytes]) -> Turn:
    """Ask one after another."""
    for body in bodies[:_WARM_UP]:
        client.rank(body)
    before, took = client.spent(), []
    for body in bodies:
        began = time.perf_counter()
        client.rank(body)
        took.append((time.perf_counter() - began) * 1000)
    parts = {part: (after - before[part]) * 1000 / len(bodies) for part, after in client.spent().items()}
    mean = float(np.mean(took))
    parts["http"] = mean - sum(parts.values())
    return Turn(float(np.percentile(took, 50)), float(np.percentile(took, 99)), mean, parts)


def check(settings: Settings, bases: list[Base]) -> int:
    """Raise unless scores in SERVED are what the models say of a row alone; returns how many rows it holds."""
    torch.set_num_threads(1)
    models = {one.number: Model.of(Dense.of(one), Served(one, 0, tables_of({t: one.table(t) for t in TABLES}))) for one in bases}
    total = 0
    with open_log(settings, SERVED, read_only=True) as log:
        for partition, end in enumerate(log.end_positions()):
            if not end:
                continue
            batches = read_before(log, end, partition, 0, end)
            rows = rows_of([batch.records for batch in batches], f"{SERVED}/{partition}")
            total += len(rows)
            for i in range(min(_CHECKED, len(rows))):
                pins = slice(rows.pin_offsets[i], rows.pin_offsets[i + 1])
                [said] = models[int(rows.base[i])].score([_candidates(settings, rows, i, pins)])
                if said.score.tobytes() != rows.score[pins].tobytes():
                    raise _measure.CheckFailedError(f"the scores of request {rows.request_id[i]} are not what base {rows.base[i]} says")
    return total


def _candidates(settings: Settings, rows: ServedRows, i: int, pins: slice) -> Candidates:
    entries = slice(rows.sequence_offsets[i], rows.sequence_offsets[i + 1])
    sequence = {name: rows.sequence[name][entries] for name in SEQUENCE_FIELDS}
    ask = Ask(rows.user_id[i : i + 1], rows.pin_id[pins], (), None)
    answer = replace(
        defaults(ask),
        sequences=SequenceRows(offsets=np.array([0, entries.stop - entries.start]), found=np.ones(1, np.bool_), as_of=0, **sequence),
        user_counters=rows.user_counters[i : i + 1],
        pin_counters=rows.pin_counters[pins],
    )
    return Candidates(int(rows.timestamp[i]), settings.load_vocabulary().surfaces[rows.surfaces[rows.surface[i]]], answer)


def measure(encoders: tuple[str, ...], events: int, users: int, requests: int, repeats: int, seed: int, scratch: Path) -> dict[str, Any]:
    """Measure the encoders in turns.

    Raises
    ------
    CheckFailedError
        A score is wrong, or what was served is not in SERVED.
    """
    settings = _stream.make(scratch, events=events, users=users, seed=seed)
    _process.told(_process.started(settings, "run"))
    with FeatureReader(settings) as reader:
        revisited = np.concatenate(list(reader.pin_rows(reader.default_as_of() or 0)))
    known = {"pin": np.unique(revisited[:, 0]), "user": np.unique(revisited[:, 1])}
    bases = [publish(settings, encoder, known, seed) for encoder in encoders]
    rng = np.random.default_rng(seed)
    few = len(known["pin"]) < CANDIDATES
    bodies = [
        orjson.dumps(
            {
                "user": int(rng.choice(known["user"])),
                "candidates": rng.choice(known["pin"], CANDIDATES, replace=few).tolist(),
                "surface": "homefeed",
            }
        )
        for _ in range(requests)
    ]
    registry = Registry.of(settings)
    turns: dict[str, list[Turn]] = {encoder: [] for encoder in encoders}
    # Asked far less often where an answer takes fifty times as long.
    asked = {encoder: bodies if encoder == "mean" else bodies[: max(_WARM_UP, requests // 4)] for encoder in encoders}
    registry.switch(registry.start_for(bases[0], 0), 0, "benchmark")
    with serving(settings) as (process, port), closing(Client(port)) as client:
        for _ in range(repeats):
            for encoder, base in zip(encoders, bases, strict=True):
                registry.switch(registry.start_for(base, 0), 0, "benchmark")
                client.await_base(base.number)
                turns[encoder].append(turn(client, asked[encoder]))
        process.send_signal(signal.SIGTERM)
        said = json.loads(process.communicate(timeout=_PATIENCE_S)[0])
    answered = repeats * sum(len(of) + _WARM_UP for of in asked.values())
    if said != {"kept_rows": answered, "lost_rows": 0} or (kept := check(settings, bases)) != answered:
        raise _measure.CheckFailedError(f"{answered} requests were ranked, and at its end the server says {said}, SERVED has {kept}")
    return {
        "benchmark": "rank",
        "results": {
            "candidates": CANDIDATES,
            "encoders": {encoder: _told(of) for encoder, of in turns.items()},
            "requests": {encoder: len(of) for encoder, of in asked.items()},
            "rows_kept": kept,
            "log_bytes_per_row": round((settings.logs / "served.db").stat().st_size / kept),
            "notes": NOTES,
        },
        "ratios": {
            f"request_vs_model_{encoder}": _measure.ratio([turn.mean_ms for turn in of], [turn.parts_ms["model"] for turn in of])
            for encoder, of in turns.items()
        },
        "machine": _measure.machine(),
        "seed": seed,
    }


def _told(turns: list[Turn]) -> dict[str, Any]:
    figures = {name: _measure.spread([getattr(turn, name) for turn in turns]) for name in ("p50_ms", "p99_ms", "mean_ms")}
    parts = turns[0].parts_ms
    return figures | {"shares": {part: _measure.spread([turn.parts_ms[part] / turn.mean_ms for turn in turns]) for part in parts}}


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    results = result["results"]
    parts = (*PARTS, "http")
    table = Table("encoder", "p50, ms", "p99, ms", *(f"{part}, %" for part in parts), title=f"ranking {results['candidates']} candidates")
    for encoder, of in results["encoders"].items():
        times = (f"{of[name]['median']:.1f} ({of[name]['min']:.1f} to {of[name]['max']:.1f})" for name in ("p50_ms", "p99_ms"))
        table.add_row(encoder, *times, *(f"{of['shares'][part]['median']:.1%}".rstrip("%") for part in parts))
    console.print(table)
    console.print(f"SERVED: {results['rows_kept']:,} rows, all that were ranked; {results['log_bytes_per_row']:,} bytes each")
    _measure.show_ratios(result, console)
    for name, note in NOTES.items():
        console.print(f"{name}: {note}")
    console.print(f"{_measure.where(result)}; seed {result['seed']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="A small stream, few requests, one repeat; ends within a minute.")
@click.option(
    "--encoder",
    "encoders",
    type=click.Choice([one.value for one in Encoder]),
    multiple=True,
    default=ENCODERS,
    show_default=True,
    help="Of the models; again for more.",
)
@click.option("--events", type=click.IntRange(1000), help="Events to simulate, about; default 1000000.")
@click.option("--users", type=click.IntRange(10), help="Users; default 20000.")
@click.option("--requests", type=click.IntRange(_WARM_UP), help="Of each turn, a quarter for all but mean pooling; default 400.")
@click.option("--repeats", type=click.IntRange(1), help="Turns of each encoder; default 3.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(
    as_json: bool,
    quick: bool,
    encoders: tuple[str, ...],
    events: int | None,
    users: int | None,
    requests: int | None,
    repeats: int | None,
    seed: int,
) -> None:
    """Ranking 500 candidates over HTTP, and on what the time is spent."""
    events, users = events or (100_000 if quick else 1_000_000), users or (2_000 if quick else 20_000)
    requests, repeats = requests or (60 if quick else 400), repeats or (1 if quick else 3)
    _command.run("rank", lambda scratch: measure(encoders, events, users, requests, repeats, seed, scratch), show, as_json)


if __name__ == "__main__":
    main()
