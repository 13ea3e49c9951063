"""While the flows run, each answer is what its logged prefix leads to: recomputed from the ACTIONS log alone, to the last bit."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.answers import EntityReader, Tiles
from flows.features import SEQUENCE_FIELDS
from flows.log import Log
from flows.online.follower import Follower
from flows.open_log import open_log
from flows.outputs import ACTIONS, REVISITS
from flows.positions import Positions
from flows.settings import Settings
from flows.state.meta import Meta
from flows.state.runs import Table
from online_model.serving.options import Options
from tests.online.redis_server import RedisServer
from tests.processes import PATIENCE_S, Simulated, end_all, ended, ends, settings_of, start, tidemark, watching
from tests.serving.http import running, served

SMALL = {"batch_records": 100}
FILES = 3  # of the stream: enough that the flows move on between answers


class AtPrefix(EntityReader):
    """Answers for a prefix out of the log, whatever state there is."""

    def __init__(self, settings: Settings, prefix: Positions) -> None:
        super().__init__(settings)
        self.log = open_log(settings, ACTIONS, read_only=True)
        self._metas: dict[tuple[str, int], Meta] = {}
        for p in range(settings.partitions):
            # No time is so late that rows could answer for it.
            meta = Meta(ACTIONS, p, "", position=int(prefix.actions[p]), corrected_to=int(prefix.corrected_to[p]), watermark=2**62)
            self._metas[ACTIONS, p] = meta
            applied = {origin: int(n) - 1 for origin, n in enumerate(prefix.applied[p]) if n}
            self._metas[REVISITS, p] = Meta(REVISITS, p, "", applied=applied, expired_to=2**62)

    def meta(self, flow: str, partition: int) -> Meta | None:
        return self._metas[flow, partition]

    def rows_of(self, flow: str, table: Table, wanted: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        return {}

    def tiles_of(self, partitions: Iterable[int], topics: list[str] | None) -> list[Tiles]:
        assert not list(partitions), "no rows answer for any time"
        return []

    def _actions(self) -> Log:
        return self.log


@pytest.mark.slow
@pytest.mark.parametrize("store", ["state", pytest.param("redis", marks=pytest.mark.redis)])
def test_each_answer_while_the_flows_run_is_that_of_its_prefix(
    store: str, simulated: Simulated, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = tmp_path / "data"
    tidemark("ingest", simulated.files[0], data=data)
    settings = settings_of(data)
    if store == "redis":
        server: RedisServer = request.getfixturevalue("server")
        settings = settings_of(data, online=server.url)
        sync(settings)
    rng = np.random.default_rng(5)
    users, pins, topics = entities(simulated)
    run = start("run", "--follow", data=data, **SMALL)
    asked = 0
    try:
        with running(settings, Options(timeout_s=PATIENCE_S)) as made, watching(settings_of(data)) as watch:
            for more in [*simulated.files[1:FILES], None]:
                behind = True
                while behind:
                    behind = watch.position() < ends(settings, ACTIONS)
                    if store == "redis":
                        sync(settings)
                    said = {"users": rng.choice(users, 3).tolist(), "pins": rng.choice(pins, 20).tolist(), "topics": topics}
                    made.client.post({**said, "request_id": str(asked)})
                    asked += 1
                if more is not None:
                    tidemark("ingest", more, data=data)
    finally:
        run.terminate()
        ended(run)
        end_all(run)
    rows = served(settings)
    assert len({one for part in rows for one in part.request_id}) == asked
    assert any(part.topic_stats.any() for part in rows)
    prefixes = sorted({prefix for part in rows for prefix in part.prefixes})
    assert len(prefixes) >= FILES, "the flows moved on between answers"
    for packed in rng.permutation(np.array(prefixes, object))[:8].tolist():
        prefix = Positions.from_bytes(packed)
        assert prefix is not None
        reader = AtPrefix(settings_of(data), prefix)
        for part in rows:
            for i in np.flatnonzero(part.prefix == (part.prefixes.index(packed) if packed in part.prefixes else -2)).tolist():
                check(part, i, reader)
        reader.log.close()


def sync(settings: Settings) -> None:
    with Follower(settings) as follower:
        list(follower.round())


def entities(simulated: Simulated) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Users, pins and some topics of a stream."""
    table = pq.read_table(sorted(simulated.directory.glob("events-*.parquet"))[0], columns=["user_id", "pin_id", "topic"])
    users, pins = (np.unique(table.column(name).drop_null().to_numpy()) for name in ("user_id", "pin_id"))
    return users, pins, sorted(set(table.column("topic").to_pylist()) - {None, ""})[:4]


def check(part: Any, i: int, reader: EntityReader) -> None:
    user, as_of = np.array([part.user_id[i]]), int(part.as_of[i])
    want = reader.user_sequences(user, as_of)
    span = slice(part.sequence_offsets[i], part.sequence_offsets[i + 1])
    for field in SEQUENCE_FIELDS:
        assert part.sequence[field][span].tobytes() == getattr(want, field).tobytes()
    assert part.user_counters[i].tobytes() == reader.user_counters(user, as_of).values.tobytes()
    span = slice(part.pin_offsets[i], part.pin_offsets[i + 1])
    assert part.pin_counters[span].tobytes() == reader.pin_counters(part.pin_id[span], as_of).values.tobytes()
    span = slice(part.topic_offsets[i], part.topic_offsets[i + 1])
    if part.topic[span]:
        assert part.topic_stats[span].tobytes() == reader.topic_stats(part.topic[span], as_of).values.tobytes()


def test_a_copy_of_the_logs_alone_is_enough(simulated: Simulated, tmp_path: Path) -> None:
    """Without state, at the position where state was."""
    settings = settings_of(Path(shutil.copytree(simulated.run, tmp_path / "data")))
    with running(settings, Options(timeout_s=PATIENCE_S)) as made:
        users, pins, _ = entities(simulated)
        made.client.post({"users": users[:5].tolist(), "pins": pins[:50].tolist()})
    shutil.rmtree(settings.state)
    for part in served(settings):
        for i in range(len(part)):
            prefix = Positions.from_bytes(part.prefixes[part.prefix[i]])
            assert prefix is not None
            reader = AtPrefix(settings, prefix)
            check(part, i, reader)
            reader.log.close()
