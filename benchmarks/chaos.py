"""Faults while the flows run: after them everything must be as if there had been none.

`python -m benchmarks.chaos --seed S --kills N [--rescales M] [--json] [--quick] [--kafka]`. A simulated stream is run once undisturbed, and once
while it is still arriving: killed, stopped, rescaled, paused, the clock set to and fro, the disk full now and then, with --kafka the broker
killed and paused too. Then state digests, exports, outputs and counts are compared. The exit status is 1 if anything differs.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import _chaos_schedule as schedule
from benchmarks import _measure
from benchmarks._chaos_acts import Stage, undisturbed
from benchmarks._chaos_clock import WallClock
from benchmarks._chaos_outcome import compare, say
from benchmarks._chaos_processes import FailedError
from benchmarks._chaos_site import TIDEMARK, Site, parts_of
from flows.errors import TidemarkError
from flows.settings import Settings

PARTITIONS = 4
_EVENTS_OF_A_PART = 300
_COUNTED = {schedule.KILL: "kills", schedule.RESCALE: "rescales", schedule.FULL: "full_disks"}
_NOTE = "the same seed draws the same stream and the same faults; at which instruction they strike, the machine decides"


def measure(
    seed: int, kills: int, rescales: int, kafka: bool, directory: Path, program: Sequence[str] = TIDEMARK, quiet: bool = True
) -> dict[str, Any]:
    """Run it all and compare.

    Parameters
    ----------
    directory : Path
        Empty; the data directories stay there.
    program : sequence of str
        What is called for `tidemark` where it is disturbed.
    quiet : bool
        Show no progress.

    Returns
    -------
    dict
        The object that is printed.
    """
    begun = time.monotonic()
    kinds = schedule.kinds(seed, kills, rescales, kills // 20)
    # Twice as many as acts that strike: those that miss take their part too.
    parts = 2 * len(kinds) + 2
    files, records = parts_of(directory / "stream", _EVENTS_OF_A_PART * parts, parts, seed, PARTITIONS)
    clock = WallClock(directory)
    with ExitStack() as stack:
        clean = Site(Settings(data=directory / "clean", partitions=PARTITIONS), files, clock)
        clean.feed_all()
        start_s = undisturbed(clean)
        said = say(clean.settings, directory / "clean-said")
        settings = Settings(data=directory / "disturbed", partitions=PARTITIONS)
        broker = None
        if kafka:
            # Here, for its client and its tests are needed by nothing else.
            from benchmarks._chaos_kafka import KafkaBroker

            broker = stack.enter_context(KafkaBroker(directory / "broker"))
            settings = broker.settings(settings)
        site = Site(settings, files, clock, program)
        stage = Stage(site, start_s, broker)
        site.feed(2)
        _perform(stage, seed, kinds, kafka, quiet)
        compared = []
        try:
            stage.finish()
            got = say(settings, directory / "disturbed-said")
            if broker is None:
                compared.append(compare(got, said, records))
            else:
                compared.append(compare(got.without_offsets(), said.without_offsets(), records))
                # The same ACTIONS once more, into outputs that are made anew: now offsets too must be equal.
                again = Site(replace(settings, data=directory / "clean-kafka"), [], clock)
                broker.renew_outputs(again.settings)
                undisturbed(again)
                compared.append(compare(got, say(again.settings, directory / "clean-kafka-said"), records))
        except (FailedError, TidemarkError) as error:
            stage.wrong.append(f"at the end: {error}")
    differences = stage.wrong + [difference for one in compared for difference in one.differences]
    done = stage.done
    return {
        "benchmark": "chaos",
        "results": {
            **{name: done[name] for name in ("kills", "rescales", "broker_faults", "clock_jumps", "pauses", "full_disks", "ingest_kills")},
            **{name: done[name] for name in ("acts", "missed", "refused")},
            "killed": {name: n for name, n in sorted(done.items()) if " " in name},
            "clock": clock.means,
            "records": records,
            "values_compared": sum(one.values for one in compared),
            "mismatches": len(differences),
            "differences": differences,
            "lost": max((one.lost for one in compared), default=0),
            "doubled": max((one.doubled for one in compared), default=0),
            "seeds": [seed],
            "seconds": round(time.monotonic() - begun, 1),
            "note": _NOTE,
        },
        "ratios": {},
        "machine": _measure.machine(),
        "seed": seed,
    }


def _perform(stage: Stage, seed: int, kinds: list[str], kafka: bool, quiet: bool) -> None:
    """Act by act, until each kind has come as often as it should; what strikes nobody is tried again, with all else drawn anew."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
        transient=True,
    )
    with bar:
        task = bar.add_task("faults", total=len(kinds), rate="")
        number = misses = 0
        for kind in kinds:
            while True:
                before = stage.done[_COUNTED[kind]]
                stage.perform(schedule.act(seed, number, kind, kafka))
                number += 1
                if stage.done[_COUNTED[kind]] > before:
                    break
                misses += 1
                if misses > len(kinds) + 20:
                    stage.wrong.append(f"{misses} acts struck nobody: no more are tried")
                    return
            bar.advance(task)
            speed = bar.tasks[task].speed
            bar.update(task, rate=f"{60 * speed:.0f}/min" if speed else "")


def again(seed: int, kills: int, rescales: int, kafka: bool) -> str:
    """The command that draws the same again."""
    return f"python -m benchmarks.chaos --seed {seed} --kills {kills} --rescales {rescales}" + " --kafka" * kafka


def show(result: dict[str, Any]) -> None:
    """The figures for a reader."""
    of = result["results"]
    names = ("kills", "rescales", "broker_faults", "clock_jumps", "pauses", "full_disks", "ingest_kills")
    print(
        "chaos: "
        + ", ".join(f"{of[name]} {name.replace('_', ' ')}" for name in names)
        + f" in {of['seconds']:.0f} s; seed {result['seed']}"
    )
    print("killed at: " + ", ".join(f"{name} {n}" for name, n in of["killed"].items()))
    print(f"clock: {of['clock']}")
    print(
        f"{of['records']:,} records, {of['values_compared']:,} values compared: "
        f"{of['mismatches']} mismatches, {of['lost']} lost, {of['doubled']} doubled"
    )
    for difference in of["differences"]:
        print(f"  {difference}")


@click.command()
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
@click.option("--kills", type=click.IntRange(1), help="SIGKILLs that hit a live process. Default 100, with --quick 5.")
@click.option(
    "--rescales", type=click.IntRange(0), help="Stops after which another number of workers goes on. Default a fifth of the kills."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="Few faults; ends within a minute.")
@click.option("--kafka", is_flag=True, help="Over a real broker (java, and Maven to fetch it), which is killed and paused too.")
def main(seed: int, kills: int | None, rescales: int | None, as_json: bool, quick: bool, kafka: bool) -> None:
    """Faults while the flows run: after them everything must be as if there had been none."""
    kills = kills or (5 if quick else 100)
    rescales = kills // 5 if rescales is None else rescales
    directory = Path(tempfile.mkdtemp(prefix="tidemark-chaos-"))
    try:
        result = measure(seed, kills, rescales, kafka, directory, quiet=as_json or not sys.stderr.isatty())
    except BaseException:
        print(
            f"benchmarks.chaos: broken off; what there is lies in {directory}; again: {again(seed, kills, rescales, kafka)}",
            file=sys.stderr,
        )
        raise
    if as_json:
        print(json.dumps(result))
    else:
        show(result)
    if result["results"]["mismatches"]:
        print(f"benchmarks.chaos: seed {seed} failed; the data lie in {directory}", file=sys.stderr)
        print(f"again: {again(seed, kills, rescales, kafka)} ({_NOTE})", file=sys.stderr)
        sys.exit(1)
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
