"""A table as one safetensors file: written beside its place, synced, and moved there at once; whole and checked before anything of it is loaded.

Its bytes follow from the table's state alone, so equal tables make equal files. What is killed in between leaves the old file, and maybe a draft
beside it, which the next save removes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flows.directories import sync, translated
from flows.errors import DataDirectoryError
from online_model.table.config import Spill, TableConfig
from online_model.table.errors import TableError, TableFileError
from online_model.table.state import DTYPES, Hashes, State
from online_model.table.table import EmbeddingTable

FORMAT = "tidemark embedding table 1"
_ABOUT = "table"
_PIECE = 65_536
_ADVICE = "take another copy of it: an earlier base, or a checkpoint of the learner"


def save(table: EmbeddingTable, path: Path) -> None:
    """Write a table; whoever opens the path finds the old file or the new one.

    Parameters
    ----------
    table : EmbeddingTable
    path : Path
        In a directory that is there. One process at a time.

    Raises
    ------
    StorageFullError
    DataDirectoryError
    """
    draft = path.with_name(f".{path.name}.draft")
    with translated(f"embedding table {path}"):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            written = draft / path.name
            written.touch()
            mode = written.stat().st_mode
            _write(table, written)
            # safetensors puts another file in its place, for its owner's eyes alone.
            os.chmod(written, mode)
            sync(written)
            os.replace(written, path)
            sync(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _write(table: EmbeddingTable, path: Path) -> None:
    state = table.state(path.parent)
    about = {"format": FORMAT, "config": table.config.as_dict(), "checksum": _checksum(table.config, state)}
    # One entry: safetensors writes several in an order that differs from time to time.
    metadata = {_ABOUT: orjson.dumps(about, option=orjson.OPT_SORT_KEYS).decode()}
    try:
        save_file(dict(state), path, metadata)
    except SafetensorError as error:
        # It gives the system's error as text alone.
        raise DataDirectoryError(f"embedding table {path} can't be written ({error}); make room or give another path") from error


def load(path: Path, spill: Spill | None = None) -> EmbeddingTable:
    """Read a table that `save` has written.

    Parameters
    ----------
    path : Path
    spill : Spill, optional

    Raises
    ------
    TableFileError
        It is damaged, or something else; found before anything is loaded.
    DataDirectoryError
        It isn't there, or can't be read.
    """
    with translated(f"embedding table {path}"):
        path.open("rb").close()
        try:
            with safe_open(path, framework="np") as file:
                return _loaded(path, file, spill)
        except SafetensorError as error:
            raise TableFileError(f"embedding table {path} is no whole safetensors file ({error}); {_ADVICE}") from error


def _loaded(path: Path, file: Any, spill: Spill | None) -> EmbeddingTable:
    try:
        about = orjson.loads((file.metadata() or {})[_ABOUT])
        found = about["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise TableFileError(f"embedding table {path} does not say that it is one; {_ADVICE}") from error
    if found != FORMAT:
        raise TableFileError(f"embedding table {path} has format {found!r}, not {FORMAT!r}; {_ADVICE}")
    if set(file.keys()) != DTYPES.keys():
        raise TableFileError(f"embedding table {path} holds other arrays than a table's; {_ADVICE}")
    try:
        config = TableConfig(**about["config"])
        state: dict[str, Any] = {name: file.get_tensor(name) for name in DTYPES if name != "weights"}
        state["weights"] = _Slices(file.get_slice("weights"))
        damaged = about["checksum"] != _checksum(config, state)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, TableError) as error:
        raise TableFileError(f"embedding table {path} can't be read ({error}); {_ADVICE}") from error
    if damaged:
        raise TableFileError(f"embedding table {path} is not what was written: its checksum differs; {_ADVICE}")
    return EmbeddingTable.from_state(config, state, spill)


def _checksum(config: TableConfig, state: State) -> str:
    """Over shapes and bytes of all arrays, and the config."""
    hashes = Hashes(config)
    for name in DTYPES:
        array = state[name]
        hashes.add(name, np.frombuffer(f"{array.dtype}{tuple(array.shape)}".encode(), np.uint8))
        for begin in range(0, array.shape[0], _PIECE):
            hashes.add(name, array[begin : begin + _PIECE])
    return hashes.digest()


class _Slices:
    """An array of a file, read where it is asked for."""

    def __init__(self, of: Any) -> None:
        self._of = of
        self.shape = tuple(of.get_shape())
        # Another type is refused by its name.
        self.dtype = np.dtype(np.float32) if of.get_dtype() == "F32" else of.get_dtype()

    def __getitem__(self, part: slice) -> np.ndarray:
        begin, end, _ = part.indices(self.shape[0])
        found: np.ndarray = self._of[begin:end]
        return found
