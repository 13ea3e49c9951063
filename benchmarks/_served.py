"""Makes SERVED of a simulation: what `tidemark serve` would have logged, had it ranked the simulated requests.

Candidates, slots and propensities are the simulation's; features are those of `flows.point_in_time`, strictly before each request, of what had
arrived by then. So the log fits the simulated actions, for whatever learns from both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from flows.answers import SequenceRows
from flows.examples.heartbeats import beat
from flows.features import SEQUENCE_FIELDS, TOPIC_STATS
from flows.open_log import open_log
from flows.outputs import ACTIONS, SERVED
from flows.point_in_time import Asked, PointInTime
from flows.served import Status
from flows.served_rows import Ranked, Served, batches_of
from flows.settings import Settings
from flows.state.actions_task import state_fingerprint

_APPENDED, _BATCH_BYTES = 4_096, 4 << 20


def serve_simulated(settings: Settings, simulation: Path) -> int:
    """Append to SERVED what a simulation served, and heartbeats up to where its actions end. Returns the number of requests.

    Parameters
    ----------
    settings : Settings
        Of a data directory whose ACTIONS hold the simulation's events.
    simulation : Path
        What `tidemark simulate --out` wrote.
    """
    table = pq.read_table(simulation / "served.parquet").combine_chunks()
    n = table.num_rows
    time, user = table.column("request_time").to_numpy(), table.column("user_id").to_numpy()

    def lists(name: str) -> np.ndarray:
        return table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(n, -1)

    candidates, slots, propensities, shown = (lists(name) for name in ("candidates", "slots", "propensities", "shown"))
    pins = candidates[shown]
    ends = np.concatenate([[0], np.cumsum(shown.sum(axis=1))])
    of_pin = np.repeat(time, shown.sum(axis=1))
    with PointInTime(settings) as point:
        of_user = point.users(Asked(user, time - 1, arrived_by=time))
        of_pins = point.pins(Asked(pins, of_pin - 1, arrived_by=of_pin))
    found = of_user.found_sequence | of_user.found_counters
    ids, surfaces = table.column("request_id").to_pylist(), table.column("surface").to_pylist()
    mark = state_fingerprint(settings, settings.load_vocabulary())
    made = []
    for i in range(n):
        low, high = of_user.offsets[i], of_user.offsets[i + 1]
        columns = {name: getattr(of_user, name)[low:high] for name in SEQUENCE_FIELDS}
        rows, seen = slice(ends[i], ends[i + 1]), shown[i]
        unknown = np.full(int(seen.sum()), np.nan, np.float32)
        ranked = Ranked(
            slots[i][seen].astype(np.int16),
            propensities[i][seen].astype(np.float32),
            slots[i][seen] > 0,
            unknown,
            None,
            None,
            candidates[i][~seen],
        )
        made.append(
            Served(
                timestamp=int(time[i]),
                request_id=ids[i],
                surface=surfaces[i],
                fingerprint=mark,
                as_of=int(time[i]) - 1,
                positions=None,
                user_id=user[i : i + 1],
                user_status=np.where(found[i : i + 1], Status.FOUND, Status.NOT_FOUND).astype(np.int8),
                sequences=SequenceRows(
                    offsets=np.array([0, high - low]), **columns, found=of_user.found_sequence[i : i + 1], as_of=int(time[i]) - 1
                ),
                user_counters=of_user.counters[i : i + 1],
                pin_id=pins[rows],
                pin_status=np.where(of_pins.found[rows], Status.FOUND, Status.NOT_FOUND).astype(np.int8),
                pin_counters=of_pins.values[rows],
                topic=(),
                topic_status=np.empty(0, np.int8),
                topic_stats=np.empty((0, len(TOPIC_STATS))),
                ranked=ranked,
            )
        )
    with open_log(settings, SERVED, create=True) as served, open_log(settings, ACTIONS, read_only=True) as actions:
        for at in range(0, n, _APPENDED):
            served.append(batches_of(made[at : at + _APPENDED], settings.partitions, _BATCH_BYTES))
        beat(actions, served, [0] * settings.partitions)
    return n
