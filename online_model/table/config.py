"""What an embedding table is made under. All of it enters what rows become, so it lies in the table's file; where rows lie (`Spill`) does not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from online_model.table.errors import TableError


@dataclass(frozen=True)
class TableConfig:
    """How IDs get rows, and how rows learn.

    Attributes
    ----------
    dimension : int
        Of a vector.
    admit_after : int
        Sightings after which an ID gets a row; 1 for at once.
    candidates : int
        How many IDs without a row are counted, at most: 32 to 64 bytes each. An ID is forgotten at the earliest when half as many others have
        come since it was last seen; until then its count is exact.
    initial_accumulator : float
        Adagrad's accumulator of a new row.
    epsilon : float
        Beside the root of the accumulator.

    Raises
    ------
    TableError
        A value is out of bounds.
    """

    dimension: int
    admit_after: int = 2
    candidates: int = 1 << 17
    initial_accumulator: float = 0.1
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        bounds = {
            "dimension": (1, 65_536),
            "admit_after": (1, 2**31 - 1),
            "candidates": (2, 2**26),
            "initial_accumulator": (0, 1e30),
            "epsilon": (1e-30, 1),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            whole = name in ("dimension", "admit_after", "candidates")
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not least <= value <= most:
                raise TableError(
                    f"embedding table: {name} is {value!r}; give {'a whole number' if whole else 'a number'} from {least:g} to {most:g}"
                )

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Spill:
    """Where vectors go that are not in use.

    Attributes
    ----------
    directory : Path
        Made, and emptied: what lies there is scratch, never the truth. One table's alone.
    hot_rows : int
        How many vectors stay in memory.

    Raises
    ------
    TableError
        Fewer than two rows would stay.
    """

    directory: Path
    hot_rows: int

    def __post_init__(self) -> None:
        if self.hot_rows < 2:
            raise TableError(f"embedding table: hot_rows is {self.hot_rows}; keep at least 2 in memory")
