"""Real event data as actions: what each file's rows are taken for, as the file that is ingested and as what the oracles are given.

The two mappings are written down apart, so that a fault in one of them shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tests.oracles.partition import partition_of

COLUMNS = "event_id=row,user_id=user,pin_id=item,event_time=ts,action=action"


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes
    ----------
    file : str
        Name in the user's folder.
    prepare : callable
        The file's frame → the frame that is ingested, with an event_id (`row`), in the order of the file.
    options : tuple of str
        Of `tidemark ingest`.
    meaning : dict
        Action in the prepared frame → Tidemark's (action, surface), for the oracles.
    """

    file: str
    prepare: Callable[[pd.DataFrame], pd.DataFrame]
    options: tuple[str, ...]
    meaning: dict[str, tuple[str, str]]

    def log(self, prepared: pd.DataFrame, partitions: int) -> pd.DataFrame:
        """The prepared rows as the oracles take a log: each user's partition, offsets in the order of the file."""
        partition = {user: partition_of(user, partitions) for user in prepared["user"].unique().tolist()}
        action = prepared["action"].astype(str)
        frame = pd.DataFrame(
            {
                "partition": prepared["user"].map(partition).astype("int64"),
                "event_id": prepared["row"],
                "user_id": prepared["user"].astype("int64"),
                "pin_id": prepared["item"].astype("int64"),
                "action": action.map({name: mapped for name, (mapped, _) in self.meaning.items()}),
                "surface": action.map({name: surface for name, (_, surface) in self.meaning.items()}),
                "event_time": prepared["ts"],
                "duration_ms": 0,
                "topic": prepared.get("topic", ""),
                "timestamp": prepared["ts"],
            }
        )
        frame.insert(1, "offset", frame.groupby("partition").cumcount())
        return frame


def _mathoverflow(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(row=np.arange(len(rows)))


def _online_retail(rows: pd.DataFrame) -> pd.DataFrame:
    """A purchase is a save; a repeated one, of what the user bought before, first a click on the earlier purchase too."""
    bought = rows["action"] == "purchase"
    again = bought & (rows[bought].groupby(["user", "item"]).cumcount().reindex(rows.index, fill_value=0) > 0)
    clicks = rows[again].assign(action="repeat", order=rows.index[again] * 2)
    other = rows.assign(action=rows["action"].astype(str), order=rows.index * 2 + 1)
    out = pd.concat([clicks, other]).sort_values("order", ignore_index=True)
    return out.assign(row=np.arange(len(out)), topic="country " + out["category"].astype(str))[
        ["row", "user", "item", "action", "ts", "topic"]
    ]


DATASETS = {
    "mathoverflow": Dataset(
        "mathoverflow.parquet",
        _mathoverflow,
        (
            "--columns", COLUMNS, "--actions", "a2q=save,c2q=grid_click,c2a=closeup",
            "--surface-of", "save=related_pins,grid_click=own_profile", "--surface", "homefeed", "--time-unit", "ms", "--arrival", "event-time",
        ),
        {"a2q": ("save", "related_pins"), "c2q": ("grid_click", "own_profile"), "c2a": ("closeup", "homefeed")},
    ),
    "online_retail": Dataset(
        "online_retail.parquet",
        _online_retail,
        (
            "--columns", COLUMNS + ",topic=topic", "--actions", "purchase=save,repeat=grid_click,cancel=hide",
            "--surface-of", "save=related_pins,grid_click=own_profile", "--surface", "homefeed", "--time-unit", "ms", "--arrival", "event-time",
        ),
        {"purchase": ("save", "related_pins"), "repeat": ("grid_click", "own_profile"), "cancel": ("hide", "homefeed")},
    ),
}  # fmt: skip
