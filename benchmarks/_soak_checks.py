"""What is looked at after a soak: whether anything of what was sent is lost, counts twice, or says something else than it should.

Four things that share little: what was sent, and the tests' oracle over it, against what is served over HTTP; a clean run of the same log into
outputs that are made anew, task by task and record by record; the commands that an operator has for it; and the numbers of records and examples.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks._chaos_kafka import KafkaBroker
from benchmarks._chaos_outcome import Said, compare, say
from benchmarks._measure import CheckFailedError
from benchmarks._process import environment
from benchmarks._soak_events import PINS, USERS, Sent, sampled_ids
from benchmarks._soak_load import Client
from benchmarks._soak_stack import DEDUP_MS, LATENESS_MS
from flows.examples.export import table_of
from flows.examples.joining import cut
from flows.examples.record import EXAMPLES, Kind
from flows.examples.rows import ExampleRows, rows_of
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, USER_COUNTERS
from flows.open_log import open_log
from flows.outputs import DEADLETTERS, EMBEDDINGS, LATE, REVISITS, SERVED, take_next
from flows.settings import Settings
from online_model.deltas.follower import Follower
from online_model.registry.registry import Registry
from tests.oracles.features import counters, sequences
from tests.processes import ROOT

_READ, _ASKED, _HASHED = 8_192, 200, 4_096
_PATIENCE_S = 60
# Of the newest event alone: a soak is a matter of minutes.
_NOW = (0,)


@dataclass
class Verdict:
    """What was found.

    Attributes
    ----------
    lost, doubled, mismatched : int
        Events, outputs and examples that are missing or there once too often; values that are not what they should be.
    checked : dict of str to int
        How much each check has looked at.
    differences : list of str
    """

    lost: int = 0
    doubled: int = 0
    mismatched: int = 0
    checked: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    def count(self, what: str, had: int, wanted: int) -> None:
        """Two numbers that should be the same, of things that can be lost or doubled."""
        self.checked[what] = wanted
        if had != wanted:
            self.lost, self.doubled = self.lost + max(0, wanted - had), self.doubled + max(0, had - wanted)
            self.differences.append(f"{what}: {had:,}, should be {wanted:,}")

    def differ(self, what: str, number: int = 1) -> None:
        """Values that are wrong."""
        self.mismatched += number
        self.differences.append(what)


# What is served, against the oracle ------------------------------------------------------------------------------------------------


def _answered(client: Client, asked: dict[str, list[int]]) -> dict[str, Any] | None:
    """What a server says; a busy one may refuse a request, and is asked again, as a client would."""
    until = time.monotonic() + _PATIENCE_S
    while (answer := client.post("/v1/features", asked)) is None and time.monotonic() < until:
        time.sleep(1)
    return answer


def check_served(verdict: Verdict, sent: Sent, port: int, partitions: int) -> None:
    """Sampled users and pins as they are served, against what the oracle makes of what was sent about them."""
    decided = sent.decided(partitions, LATENESS_MS, DEDUP_MS)
    if (decided["status"] != "accepted").any():
        raise CheckFailedError("the oracle refuses events of the soak: they were made wrong")
    users, pins = sampled_ids(USERS).tolist(), sampled_ids(PINS).tolist()
    wanted: dict[int, tuple[Any, Any, Any]] = {}
    compared = 0
    with closing(Client("127.0.0.1", port)) as client:
        for kind, ids in (("users", users), ("pins", pins)):
            for at in range(0, len(ids), _ASKED):
                asked = ids[at : at + _ASKED]
                answer = _answered(client, {kind: asked})
                if answer is None:
                    verdict.differ(f"{len(asked)} {kind} are not served", len(asked))
                    continue
                as_of = answer["as_of"]
                if as_of not in wanted:
                    wanted[as_of] = (
                        sequences(decided, as_of),
                        counters(decided, "user", as_of).to_dict("index"),
                        counters(decided, "pin", as_of).to_dict("index"),
                    )
                of_sequences, of_users, of_pins = wanted[as_of]
                names, of_counters = (USER_COUNTERS, of_users) if kind == "users" else (PIN_COUNTERS, of_pins)
                said = answer[kind]
                for i, one in enumerate(asked):
                    should = of_counters.get(one, dict.fromkeys(names, 0))
                    wrong = [name for name in names if said["counters"][name][i] != should[name]]
                    compared += len(names)
                    if kind == "users":
                        low, high = said["sequence"]["offsets"][i : i + 2]
                        got = list(zip(*(said["sequence"][name][low:high] for name in SEQUENCE_FIELDS), strict=True))
                        compared += len(got)
                        if got != [_ordered(entry) for entry in of_sequences.get(one, [])]:
                            wrong.append("sequence")
                    if wrong:
                        verdict.differ(f"{kind[:-1]} {one} is served with another {', '.join(wrong[:3])} than was sent")
    verdict.checked["values served, against the oracle"] = compared


def _ordered(entry: tuple[int, str, str, int, int]) -> tuple[Any, ...]:
    """An entry of the oracle's in the order of SEQUENCE_FIELDS."""
    return tuple(
        dict(zip(("pin_id", "action", "surface", "event_time", "duration_ms"), entry, strict=True))[name] for name in SEQUENCE_FIELDS
    )


# What the log leads to, undisturbed --------------------------------------------------------------------------------------------------


def check_again(verdict: Verdict, settings: Settings, broker: KafkaBroker, sent: Sent, scratch: Path, wait: Callable[[str], None]) -> None:
    """Have the flows and the join run once more over the same logs, from nothing and undisturbed, and compare everything."""
    wait("what the flows say")
    got, joined = say(settings, scratch / "said", _NOW), examples_of(settings)
    check_counts(verdict, got, sent)
    wait("the same once more, undisturbed")
    clean = replace(settings, data=scratch / "clean", online=None)
    broker.renew_outputs(clean, (REVISITS, LATE, DEADLETTERS, EXAMPLES))
    for words in (("run", "--workers", "2"), ("examples", "run", "--workers", "2")):
        command(clean, *words)
    compared = compare(got, say(clean, scratch / "said-clean", _NOW), got.records)
    # Heartbeats are records and no events, so these two are counted above in another way.
    differences = [one for one in compared.differences if not one.startswith("accepted, duplicate or dead")]
    verdict.checked["values, against a clean run"] = compared.values
    verdict.lost += sum(one.startswith("records of") for one in differences) and compared.lost
    verdict.doubled += sum(one.startswith("records of") for one in differences) and compared.doubled
    for one in differences:
        verdict.differ(f"against a clean run: {one}")
    again = examples_of(clean)
    verdict.checked["examples, against a clean run"] = again.records.total()
    for kind in Kind:
        verdict.count(f"{kind.name.lower()} records of examples, against a clean run", joined.records[kind], again.records[kind])
    for partition, (had, wanted) in enumerate(zip(joined.digests, again.digests, strict=True)):
        if had != wanted:
            verdict.differ(f"examples of partition {partition} are not those of a clean run")


def check_counts(verdict: Verdict, got: Said, sent: Sent) -> None:
    """How many events count, against how many were sent."""
    verdict.count("events that count", got.counts.get("accepted", 0), sent.events)
    letters = sum(n for name, n in got.counts.items() if name.startswith("deadletter."))
    # Those that a producer sends again are records too; nothing names them, so nothing can find them equal.
    verdict.count("records that are no events", letters, min(max(letters, sent.malformed), sent.malformed + sent.malformed_again))
    verdict.count("late events", got.counts.get("late", 0), sent.late)
    if got.counts.get("duplicate", 0) < sent.doubled:
        verdict.differ(f"{got.counts.get('duplicate', 0):,} records were left out as sent again, {sent.doubled:,} were")
    if got.lag:
        verdict.differ(f"{got.lag:,} records are not applied")


@dataclass(frozen=True)
class Joined:
    """EXAMPLES as its readers take it: how many records of each kind, which requests, and a digest of each partition."""

    records: Counter[int]
    seen: Counter[str]
    digests: list[str]


def examples_of(settings: Settings) -> Joined:
    """Read it."""
    records: Counter[int] = Counter()
    seen: Counter[str] = Counter()
    digests, vocabulary = [], settings.load_vocabulary()
    with open_log(settings, EXAMPLES, create=True) as log:
        for partition in range(log.partitions):
            digest = hashlib.sha256()
            for rows in cut(_rows(log, partition), _HASHED):
                records.update(rows.kind.tolist())
                seen.update(
                    request for request, kind in zip(rows.request_id.to_pylist(), rows.kind.tolist(), strict=True) if kind == Kind.NEGATIVE
                )
                table = table_of(rows, vocabulary).append_column("kind", pa.array(rows.kind))
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, table.schema) as writer:
                    writer.write_table(table.combine_chunks())
                digest.update(sink.getvalue())
            digests.append(digest.hexdigest())
    return Joined(records, seen, digests)


def _rows(log: Any, partition: int) -> Iterator[ExampleRows]:
    applied: dict[int, int] = {}
    at, end = log.start_positions()[partition], log.end_position(partition)
    while at < end:
        batches = log.read(partition, at, _READ)
        taken = [take_next(batch.records, applied, EXAMPLES) for batch in batches if batch.records.num_rows]
        rows = rows_of([one for one in taken if one.num_rows], EXAMPLES)
        # Heartbeats come with the clock.
        yield rows.take((rows.kind != Kind.HEARTBEAT).nonzero()[0])
        at = batches[-1].end_offset


def check_shown(verdict: Verdict, settings: Settings, shown: dict[str, int]) -> int:
    """Whether what visitors were shown, and have seen, has become one example each; returns how many answers no log has.

    Parameters
    ----------
    shown : dict of str to int
        By request, how many pins were shown. Those that a server was killed before it had kept are in no log, and in no example.
    """
    kept: set[str] = set()
    with open_log(settings, SERVED, read_only=True) as log:
        for partition in range(log.partitions):
            at, end = log.start_positions()[partition], log.end_position(partition)
            while at < end:
                batches = log.read(partition, at, _READ)
                for batch in batches:
                    kept.update(batch.records.column("request_id").to_pylist())
                at = batches[-1].end_offset
    wanted = Counter({request: number for request, number in shown.items() if request in kept})
    had = examples_of(settings).seen
    missing, extra = (wanted - had).total(), (had - wanted).total()
    verdict.lost, verdict.doubled = verdict.lost + missing, verdict.doubled + extra
    verdict.checked["pins that were shown and seen, in examples"] = wanted.total()
    if missing or extra:
        verdict.differences.append(
            f"of {wanted.total():,} pins that were shown and seen, {missing} have no example, {extra} have one too many"
        )
    return len(shown) - len(wanted)


# What an operator would ask -----------------------------------------------------------------------------------------------------------


def check_commands(verdict: Verdict, settings: Settings, seed: int, entities: int) -> None:
    """`replay audit`, `skew check`, `archive verify` and `replay verify` find nothing."""
    audited = json.loads(command(settings, "replay", "audit", "--sample", entities, "--seed", seed, "--json", codes=(0, 1)))
    verdict.checked["entities audited"] = sum(task["entities"] for task in audited["tasks"])
    for task in audited["tasks"]:
        if task["mismatches"] or task["problem"]:
            verdict.differ(f"audit of {task['task']}: {task['mismatches']} mismatches {task['problem'] or ''}", max(1, task["mismatches"]))
    skew = json.loads(command(settings, "skew", "check", "--sample", 20 * entities, "--seed", seed, "--json", codes=(0, 1)))
    verdict.checked["served rows recomputed"] = sum(skew["rows"].values())
    if skew["findings"]:
        verdict.differ(f"skew: {[(cause['cause'], cause['rows']) for cause in skew['causes']][:3]}", skew["findings"])
    for words in (("archive", "verify", "--compare"), ("replay", "verify")):
        found = json.loads(command(settings, *words, "--json", codes=(0, 1)))
        for problem in found["problems"]:
            verdict.differ(f"{' '.join(words)}: {problem}")


def check_deltas(verdict: Verdict, settings: Settings) -> None:
    """What the learner has put out is one chain without a gap, as a server reads it."""
    with open_log(settings, EMBEDDINGS, read_only=True) as log:
        follower = Follower(Registry.of(settings), log)
        while follower.refresh():
            pass
    verdict.checked["deltas in one chain"] = follower.served.delta
    if follower.trouble is not None or follower.healed:
        verdict.differ(f"deltas: {follower.trouble or 'some were refused'}")


def command(settings: Settings, *words: object, codes: tuple[int, ...] = (0,)) -> str:
    """What a command prints.

    Raises
    ------
    CheckFailedError
        It ends with another code.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tidemark", *map(str, words)],
        env=environment(settings) | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in codes or (done.returncode and not done.stdout):
        raise CheckFailedError(f"tidemark {' '.join(map(str, words))} ended with {done.returncode}: {(done.stderr or done.stdout)[-1000:]}")
    return done.stdout
