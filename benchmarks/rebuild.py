"""What a rebuild of a part costs: by how many partitions the named users live in, by how many users they are, by how far back it goes.

`python -m benchmarks.rebuild [--json] [--quick] [--events N] [--users M] [--repeats R] [--seed S]`. Each case takes named users' saves out of what
counts, on a copy of one data directory. Tasks of users that were not named must keep their digests; and all tasks must be, in the first turn, what
the log with its corrections makes of them from nothing.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from benchmarks import _command, _digests, _measure, _process, _stream
from benchmarks.replay import SHARE, site_with_checkpoints
from flows.decode import Decoder
from flows.log import LocalLog
from flows.outputs import ACTIONS
from flows.settings import Settings

_MANY = 64
# Of a partition, from which users are taken: whoever acts among the first so many and the last so many records.
_LOOKED = 20_000
NOTE = (
    "`built_s`: the making of new states, by the command's own clock; `total_s`: the whole command, with its start, the search, the comparison and "
    "the switch. `of_P_partitions`: one user in each of P partitions, from the beginning of the log; `many_of_one`: "
    f"{_MANY} users of one partition; `late`: one user, what came after {SHARE:.0%} of the log alone, from a checkpoint there"
)


@dataclass(frozen=True)
class _Case:
    """Whose saves are taken out, and from which offset on; the partitions are theirs."""

    users: list[int]
    partitions: frozenset[int]
    begin: int = 0


def measure(events: int, users: int, repeats: int, seed: int, scratch: Path) -> dict[str, Any]:
    """In turns.

    Raises
    ------
    CheckFailedError
        A task that was not named has changed, one that was has not, or the result is not what the log makes of it.
    """
    site = site_with_checkpoints(_stream.make(scratch / "stream", events, users, seed), scratch / "site")
    was = _digests.digests(site)
    cases = _cases(site)
    ran: dict[str, dict[str, list[float]]] = {name: {"built_s": [], "total_s": [], "replayed": []} for name in cases}
    for turn in range(repeats):
        for name, case in cases.items():
            copied = replace(site, data=scratch / "copy")
            shutil.copytree(site.data, copied.data)
            for key, value in _rebuilt(copied, case).items():
                ran[name][key].append(value)
            _process.Run(copied).finish()
            _check(copied, case, was, name, scratch if turn == 0 else None)
            shutil.rmtree(copied.data)
    one, every, late = ran["of_1_partitions"], ran[f"of_{site.partitions}_partitions"], ran["late"]
    return {
        "benchmark": "rebuild",
        "results": {
            "note": NOTE,
            "events": events,
            "users": users,
            "partitions": site.partitions,
            **{name: {key: _measure.spread(values) for key, values in of.items()} for name, of in ran.items()},
            "mismatches": 0,
        },
        "ratios": {
            "every_partition_vs_one": _measure.ratio(every["built_s"], one["built_s"]),
            "many_users_vs_one": _measure.ratio(ran["many_of_one"]["built_s"], one["built_s"]),
            "whole_log_vs_late": _measure.ratio(one["built_s"], late["built_s"]),
            "whole_log_vs_late_replayed": _measure.ratio(one["replayed"], late["replayed"]),
        },
        "machine": _measure.machine(),
        "seed": seed,
    }


def _cases(site: Settings) -> dict[str, _Case]:
    """By name; partitions 1, 2, 4, … as many as there are."""
    found = [_busiest(site, partition) for partition in range(site.partitions)]
    counts = sorted({*(1 << i for i in range(site.partitions.bit_length()) if 1 << i <= site.partitions), site.partitions})
    cases = {f"of_{n}_partitions": _Case([users[0] for users, _ in found[:n]], frozenset(range(n))) for n in counts}
    users, begin = found[0]
    cases["many_of_one"] = _Case(users[:_MANY], frozenset([0]))
    cases["late"] = _Case(users[:1], frozenset([0]), begin)
    return cases


def _busiest(site: Settings, partition: int) -> tuple[list[int], int]:
    """Users who save both early and late in a partition, the busiest first; and the offset at which late begins."""
    save = site.load_vocabulary().actions["save"]
    with LocalLog.open(site.logs, ACTIONS, read_only=True) as log:
        late = int(log.end_position(partition) * SHARE)
        found = []
        for begin in (0, late):
            columns = Decoder(site.load_vocabulary()).decode(*(b.records for b in log.read(partition, begin, _LOOKED)))
            found.append(columns.user_id[(columns.action == save) & ~columns.bad])
    users, counts = np.unique(np.concatenate(found), return_counts=True)
    both = np.isin(users, found[0]) & np.isin(users, found[1])
    order = np.lexsort((users[both], -counts[both]))
    return users[both][order].tolist(), late


def _rebuilt(site: Settings, case: _Case) -> dict[str, float]:
    """What the command says of itself, and how long all of it took."""
    named = [word for user in case.users for word in ("--user", str(user))]
    words = ["--exclude", "action == 'save'", *named, *(["--from", str(case.begin)] if case.begin else []), "--yes"]
    began = time.perf_counter()
    told = _process.told(_process.started(site, "replay", "rebuild", *words))
    total = time.perf_counter() - began
    if not told["switched"] or {part["partition"] for part in told["plan"]["parts"]} != case.partitions:
        raise _measure.CheckFailedError(
            f"tidemark replay rebuild {' '.join(words)} made {told['plan']['parts']} anew, switched {told['switched']}"
        )
    return {"built_s": told["built"]["seconds"], "total_s": total, "replayed": told["built"]["replayed"]}


def _check(site: Settings, case: _Case, was: _digests.Digests, name: str, scratch: Path | None) -> None:
    """Raise unless what was named has changed and no other user's task; with `scratch`, also unless the log leads to the same from nothing."""
    now = _digests.digests(site)
    changed = {p for p in range(site.partitions) if now[f"{ACTIONS}-{p}"] != was[f"{ACTIONS}-{p}"]}
    if changed != case.partitions:
        raise _measure.CheckFailedError(
            f"{name}: tasks of partitions {sorted(changed)} have changed, those of {sorted(case.partitions)} were named"
        )
    if scratch is not None:
        _process.told(_process.started(replace(site, checkpoints=str(scratch / "none")), "replay", "restore", "--all"))
        _digests.check_equal(_digests.digests(site), now, f"{name}: made from nothing, and rebuilt")


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    results = result["results"]
    console.print(f"{results['events']:,} events, {results['users']:,} users, {results['partitions']} partitions")
    for name, of in results.items():
        if isinstance(of, dict):
            console.print(
                f"{name}: {of['replayed']['median']:,.0f} records in {of['built_s']['median']} s; {of['total_s']['median']} s in all"
            )
    _measure.show_ratios(result, console)
    console.print(results["note"])
    console.print(f"{_measure.where(result)}; seed {result['seed']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="400 000 events, one turn.")
@click.option("--events", type=click.IntRange(1_000), help="Default 10 000 000.")
@click.option("--users", type=click.IntRange(1), help="Default a hundredth of the events.")
@click.option("--repeats", type=click.IntRange(1), help="Default 3.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(as_json: bool, quick: bool, events: int | None, users: int | None, repeats: int | None, seed: int) -> None:
    """What a rebuild of named users costs, by how many partitions they live in and how far back it goes."""
    events, repeats = events or (400_000 if quick else 10_000_000), repeats or (1 if quick else 3)
    _command.run("rebuild", lambda scratch: measure(events, users or events // 100, repeats, seed, scratch), show, as_json)


if __name__ == "__main__":
    main()
