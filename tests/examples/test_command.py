"""`tidemark examples`, as processes: over a simulation, killed, rescaled, and following a server's heartbeats."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks._served import serve_simulated
from flows.examples.record import EXAMPLES, Kind
from flows.examples.run import stands
from flows.log import LocalLog
from flows.open_log import open_log
from flows.outputs import ACTIONS, SERVED
from flows.state.task import task_path
from online_model.serving.heartbeats import Heartbeats
from tests.examples.playing import Driven
from tests.processes import PARTITIONS, Simulated, await_true, end_all, ended, refused, settings_of, start, tidemark


@pytest.fixture(scope="module")
def served(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that has what was served and done in its logs, and no examples yet."""
    data = tmp_path_factory.mktemp("served") / "data"
    simulated.copy(data)
    assert serve_simulated(settings_of(data), simulated.directory) > 200
    return data


def tables(data: Path) -> list[pa.Table]:
    out = []
    for partition in range(PARTITIONS):
        driven = Driven(settings_of(data), partition)
        out.append(driven.table())
        driven.close()
    return out


def counts(data: Path) -> dict[str, int]:
    return dict(json.loads(tidemark("examples", "status", "--json", data=data).out)["counts"])


def test_a_simulation_whole_killed_and_rescaled(served: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for data in (whole, killed):
        shutil.copytree(served, data)
    told = json.loads(tidemark("examples", "run", "--json", data=whole).out)
    assert (told["examples"] > 1_500, told["positives"] > 100, told["finals"] > told["examples"]) == (True, True, True)
    assert re.match("nothing new to join; (examples are up to date|.* wait for the other log)", tidemark("examples", "run", data=whole).out)

    settings = settings_of(killed)
    for number in range(2):
        was = sum(one.position for one in stands(settings))
        process = start("examples", "run", "--workers", 1 + number % 2, data=killed, batch_records=100, anchor_records=150)
        await_true(
            lambda p=process, w=was: p.poll() is not None or sum(one.position for one in stands(settings)) > w + 200, "it has moved on"
        )  # type: ignore[misc]
        end_all(process)
        process.communicate()
    tidemark("examples", "run", "--workers", 2, data=killed)
    for one, other in zip(tables(whole), tables(killed), strict=True):
        assert one.equals(other)
    assert counts(whole) == counts(killed)
    digests = [
        [t for t in json.loads(tidemark("status", "--digest", "--json", data=data).out)["tasks"] if t["flow"] == "examples"]
        for data in (whole, killed)
    ]
    assert digests[0] == digests[1]
    assert len({task["digest"] for task in digests[0]}) == PARTITIONS
    # One whose state is damaged is left out, said so, and made anew; what it puts out once more, readers leave out.
    meta = next((killed / "state" / "examples" / "0001").glob("*.log"))
    meta.write_bytes(meta.read_bytes()[:-200] + bytes(200))
    for table in (killed / "state" / "examples" / "0001").glob("*.sst"):
        table.unlink()
    said = refused("examples", "run", data=killed)
    assert "examples/1 was left out" in said
    assert "`tidemark examples restore --partition 1` puts back" in said
    assert "`tidemark replay restore --task examples/1`" in tidemark("replay", "verify", "--task", "examples/1", data=killed, code=1).out
    assert json.loads(tidemark("examples", "restore", "--partition", 1, "--json", data=killed).out) == {"restored": ["examples/1"]}
    tidemark("examples", "run", data=killed)
    assert tables(killed)[1].equals(tables(whole)[1])
    assert counts(whole) == counts(killed)
    # One whose state is gone is not taken for one that has only begun; that it was put back, and begins anew, is no loss.
    shutil.rmtree(killed / "state" / "examples" / "0000")
    assert "examples/0000 is gone" in refused("examples", "status", data=killed)
    assert json.loads(tidemark("examples", "restore", "--partition", 0, "--json", data=killed).out) == {"restored": []}
    assert counts(killed) != counts(whole)
    tidemark("examples", "run", data=killed)
    assert tables(killed)[0].equals(tables(whole)[0])
    assert counts(killed) == counts(whole)
    # What came out is what the simulation's users did.
    rows = pa.concat_tables(tables(whole))
    made = {kind: rows.filter(pa.array(rows.column("kind").to_numpy() == kind)) for kind in Kind}
    assert len(made[Kind.NEGATIVE]) == told["examples"]
    saved = made[Kind.FINAL].filter(pa.array(made[Kind.FINAL].column("label_save").to_numpy() == 1))
    revisits = made[Kind.FINAL].column("label_revisit").to_numpy()
    first = made[Kind.FINAL].column("label_click").to_numpy() >= 0
    assert (revisits[first] == np.where(made[Kind.FINAL].column("label_save").to_numpy()[first] == 1, -1, 0)).all()
    assert 0 < (revisits[~first] >= 0).sum() <= len(saved)
    assert revisits[~first].max() == 1
    assert "examples" in tidemark("examples", "status", data=whole).out


def test_examples_follow_a_server_that_serves_nobody(served: Path, tmp_path: Path) -> None:
    """The last actions pass though nobody is served any more: by heartbeats, appended once each."""
    data = tmp_path / "data"
    shutil.copytree(served, data)
    settings = settings_of(data)
    with open_log(settings, ACTIONS) as actions:
        batch = actions.read(0, 0, 1)[0].records
        newest = max(
            int(one.records.column("timestamp").to_numpy().max()) for p in range(PARTITIONS) for one in actions.read(p, 0, 1 << 20)
        )
        at = batch.schema.get_field_index("timestamp")
        actions.append([(0, batch.set_column(at, batch.schema.field(at), pa.array([newest + 1_000])))])
        end = actions.end_position(0)
    process = start("examples", "run", "--follow", "--json", data=data)
    try:
        await_true(lambda: stands(settings)[0].position == end - 1, "all has passed that comes before what was served last")
        waiting = tidemark("examples", "status", data=data)
        assert "wait until log 'served' has come as far: `tidemark serve`" in waiting.out
        assert tidemark("examples", "status", "--json", data=data).json()["tasks"][0]["waits_for"] == SERVED
        beats = Heartbeats(settings, each_s=0.1)
        await_true(lambda: stands(settings)[0].position == end, "the last action has passed")
        with open_log(settings, SERVED) as log:
            ends = log.end_positions()
            time.sleep(0.5)
            assert log.end_positions() == ends
        beats.close()
        process.terminate()
        done = ended(process)
    finally:
        end_all(process)
    assert done.code == 0
    told = json.loads(done.out)
    assert (told["stopped"], told["examples"] > 1_500) == (True, True)
    assert stands(settings)[0].waits_for != SERVED
    path = task_path(settings, EXAMPLES, 1)
    (path / "CURRENT").write_text("what is this\n")
    said = tidemark("examples", "status", "--json", data=data, code=1)
    assert f"state {path}" in said.err
    assert [one["partition"] for one in said.json()["tasks"] if one["problem"]] == [1]
    assert tidemark("examples", "status", data=data, code=1).out.count("damaged") == 1


def test_what_is_not_there_is_said(simulated: Simulated, tmp_path: Path) -> None:
    data = tmp_path / "data"
    simulated.copy(data)
    assert "nothing has been served from" in refused("examples", "run", data=data)
    assert "nothing has been joined yet" in tidemark("examples", "status", data=data).out
    assert "3 workers for" in refused("examples", "run", "--workers", 3, data=data, partitions=PARTITIONS) or PARTITIONS >= 3
    LocalLog.open(settings_of(data).logs, SERVED, PARTITIONS, create=True).close()
    told = json.loads(tidemark("examples", "run", "--json", data=data).out)
    assert (told["records"], told["waiting"]) == (0, simulated.records)
    # Where nobody is served, all passes once that is said, and there are impressions without a served row, which is no error.
    told = json.loads(tidemark("examples", "run", "--served-ended", "--json", data=data).out)
    assert (told["records"] >= simulated.records, told["examples"], told["waiting"]) == (True, 0, PARTITIONS)
    assert counts(data)["impressions_without_served"] > 1_000
