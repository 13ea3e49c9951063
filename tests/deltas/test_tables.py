"""With the embedding table itself: what it says has changed, put out and read, is what it has; its files make a base, its state a snapshot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson

from online_model.deltas.follower import Follower
from online_model.deltas.record import Rows
from online_model.deltas.writer import DeltaWriter
from online_model.registry import tensors
from online_model.registry.manifest import CALIBRATORS, DENSE, TABLES
from online_model.registry.snapshots import write_snapshot
from online_model.table import checkpoint
from online_model.table.config import TableConfig
from online_model.table.table import EmbeddingTable
from tests.deltas.making import embeddings
from tests.registry.making import about, registry_in, serve

CONFIG = TableConfig(dimension=8, admit_after=2)
IDS = np.arange(-5, 60)


def learn(table: EmbeddingTable, rng: np.random.Generator, now: int) -> None:
    """A while of a learner's life: IDs are seen, admitted, moved; those long not seen go."""
    for step in range(4):
        ids = rng.choice(IDS, 12)
        rows = table.admit(ids, np.full(len(ids), now + step))
        table.apply(rows, rng.standard_normal((len(ids), CONFIG.dimension)).astype(np.float32), 0.1)
    table.expire(now - 20)


def test_what_the_table_learns_is_what_consumers_have(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    registry = registry_in(tmp_path)
    learned = {name: EmbeddingTable(CONFIG, rng.standard_normal(CONFIG.dimension).astype(np.float32)) for name in TABLES}
    for table in learned.values():
        learn(table, rng, 0)
        table.take_changed()
    with registry.draft() as draft:
        for name, file in TABLES.items():
            checkpoint.save(learned[name], draft / file)
        (draft / DENSE).write_bytes(tensors.to_bytes({"w": np.ones(3, np.float32)}))
        (draft / CALIBRATORS).write_bytes(orjson.dumps({}))
        base = registry.publish(draft, about())
    serve(registry, base.number)
    # The learner works on a copy.
    learned = {name: checkpoint.load(base.path / file) for name, file in TABLES.items()}
    with embeddings(tmp_path) as log:
        follower = Follower(registry, log)
        writer = DeltaWriter.open(log, base.number, base.digest)
        for delta in range(1, 9):
            for table in learned.values():
                learn(table, rng, delta * 10)
            changed, deleted = {}, {}
            for name, table in learned.items():
                ids, deleted[name] = table.take_changed()
                changed[name] = (ids, table.gather(table.rows_of(ids)))
            closing = writer.append(Rows.of(changed, deleted, CONFIG.dimension), (delta,), delta * 10, delta * 10)
            if delta == 5:
                write_snapshot(base, closing.point(), {name: table.state() for name, table in learned.items()})
                serve(registry, base.number, closing.position)
            for one in (follower, Follower(registry, log)):
                one.refresh()
                assert (one.served.delta, one.trouble) == (delta, None)
                for name, table in learned.items():
                    assert one.served.tables[name].ids.tolist() == table.ids.tolist()
                    assert one.served.tables[name].gather(IDS).tobytes() == table.gather(table.rows_of(IDS)).tobytes()
        assert any(len(rows.ids) for rows in follower.served.tables.values())
    _, states = registry.load(registry.start_for(base, 1 << 40))
    again = EmbeddingTable.from_state(CONFIG, states["pin"])
    assert again.gather(again.rows_of(again.ids)).tobytes() == states["pin"]["weights"].tobytes()
