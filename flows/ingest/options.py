"""What a user asks of an ingest, read from option texts and checked before any file is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.errors import InputError, SettingsError
from flows.vocabulary import Vocabulary, suggestion

TARGETS = (
    "event_id", "user_id", "pin_id", "action", "surface", "event_time", "duration_ms", "request_id", "topic", "producer", "schema_version",
    "arrival_time",
)  # fmt: skip
NEEDED = ("user_id", "pin_id", "action", "event_time")
TIME_UNITS = ("s", "ms", "us", "ns")
ARRIVALS = ("event-time", "now")
SUFFIXES = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
}  # fmt: skip
FORMATS = ("parquet", "csv", "tsv", "jsonl")
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
# What lies beside the events of a simulation, by columns that nothing else has together.
_SIMULATED = {
    "the log of served requests": {"request_id", "candidates", "propensities"},
    "the table of true labels": {"save_time", "label_7dRevGrid", "matured"},
}
_VERSION = 1  # raise it when the same file and options would give other records: the ledger then takes them for new


@dataclass(frozen=True)
class IngestOptions:
    """How the rows of a file become records.

    Attributes
    ----------
    columns : mapping of str to str
        Contract's column to file's column.
    actions : mapping of str to str
        File's action to Tidemark action; others keep their names.
    surfaces : mapping of str to str
        File's surface to Tidemark surface; others keep their names.
    surface_of : mapping of str to str
        Action (Tidemark's name, or the file's where that names no Tidemark action in use) to the surface of rows that name none.
    surface : str or None
        The surface of all other rows that name none.
    time_unit : {"s", "ms", "us", "ns"}
        Unit of times given as numbers.
    arrival : {"event-time", "now"}
        What a record's timestamp is where the file has no arrival_time.
    format : str or None
        One of `FORMATS`, or None: by the file's name.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    actions: Mapping[str, str] = field(default_factory=dict)
    surfaces: Mapping[str, str] = field(default_factory=dict)
    surface_of: Mapping[str, str] = field(default_factory=dict)
    surface: str | None = None
    time_unit: str = "ms"
    arrival: str = "event-time"
    format: str | None = None

    @classmethod
    def parse(
        cls,
        vocabulary: Vocabulary,
        columns: Sequence[str] = (),
        actions: Sequence[str] = (),
        surfaces: Sequence[str] = (),
        surface_of: Sequence[str] = (),
        surface: str | None = None,
        time_unit: str = "ms",
        arrival: str = "event-time",
        format: str | None = None,
    ) -> IngestOptions:
        """Options from texts like ``"user_id=user,pin_id=item"``, each possibly given several times.

        Raises
        ------
        SettingsError
            A text is malformed, or a name isn't known.
        """
        mapped = _pairs("--columns", columns)
        for target in mapped:
            if target not in TARGETS:
                near = suggestion(target, list(TARGETS))
                raise SettingsError(f"--columns: there is no column '{target}'{near}; columns: {', '.join(TARGETS)}")
        sources: dict[str, str] = {}
        for target, source in mapped.items():
            if source in sources:
                raise SettingsError(f"--columns: column '{source}' is mapped twice, to {sources[source]} and to {target}")
            sources[source] = target
        renamed = _pairs("--actions", actions)
        for source, target in renamed.items():
            if target not in vocabulary.actions:
                raise SettingsError(
                    f"--actions {source}={target}: there is no action '{target}'{suggestion(target, list(vocabulary.actions))}; "
                    f"actions: {', '.join(vocabulary.actions)} (a vocabulary file declares more)"
                )
        called = _pairs("--surfaces", surfaces)
        for source, target in called.items():
            _check_surface(vocabulary, f"--surfaces {source}={target}", target)
        implied = _pairs("--surface-of", surface_of)
        for action, name in implied.items():
            if action not in vocabulary.actions and action not in renamed:
                known = [*vocabulary.actions, *renamed]
                raise SettingsError(
                    f"--surface-of {action}={name}: there is no action '{action}'{suggestion(action, known)}; actions: {', '.join(known)}"
                )
            _check_surface(vocabulary, f"--surface-of {action}={name}", name)
        if surface is not None:
            _check_surface(vocabulary, f"--surface {surface}", surface)
        closed = (("--time-unit", time_unit, TIME_UNITS), ("--arrival", arrival, ARRIVALS), ("--format", format, FORMATS))
        for option, value, allowed in closed:
            if value is not None and value not in allowed:
                raise SettingsError(f"{option}: '{value}' is none of {', '.join(allowed)}{suggestion(value, list(allowed))}")
        return cls(mapped, renamed, called, implied, surface, time_unit, arrival, format)

    def surface_for(self, source: str, action: str) -> str | None:
        """The surface of a row with this action in the file, `action` after mapping, that names no surface itself."""
        if action in self.surface_of:
            return self.surface_of[action]
        # The file's own name counts where it can't mean a Tidemark action: none that rows can have is called so.
        if source in self.surface_of and source != action and source not in self.actions.values():
            return self.surface_of[source]
        return self.surface

    def fingerprint(self, format: str) -> str:
        """Digest of all that decides which records a file gives; half of a ledger key."""
        parts = [_VERSION, format, sorted(self.columns.items()), sorted(self.actions.items()), sorted(self.surface_of.items())]
        # Only where it was asked for: what was ingested before there was such an option keeps its key.
        called = [sorted(self.surfaces.items())] if self.surfaces else []
        text = json.dumps([*parts, self.surface, self.time_unit, self.arrival, *called])
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def resolve(self, path: Path, present: Sequence[str], strict: bool = True) -> dict[str, str]:
        """Which of a file's columns stand for which of the contract's.

        Parameters
        ----------
        path : Path
            For messages.
        present : sequence of str
            The names of the file's columns.
        strict : bool
            The file has the same columns in every row, so a needed one that is not `present` is an error.

        Raises
        ------
        InputError
            A mapped or needed column isn't there, or is there twice.
        """
        names: dict[str, str] = {}
        missing: list[str] = []
        taken = set(self.columns.values())
        for target in TARGETS:
            source = self.columns.get(target)
            if source is not None:
                if source not in present:
                    near = suggestion(source, list(present))
                    raise InputError(f"{path} has no column '{source}' for {target}{near}; its columns: {_list(present)}")
            elif target in taken or target not in present:
                if target in NEEDED:
                    missing.append(target)
                continue
            else:
                source = target
            if list(present).count(source) > 1:
                raise InputError(f"{path} has several columns '{source}'; rename all but one")
            names[target] = source
        if strict and missing:
            raise InputError(f"{path} {_lacks(missing, present)}; its columns: {_list(present)}")
        return names


def format_of(path: Path, forced: str | None) -> tuple[str, str | None]:
    """(format, compression or None) of a file, by its name.

    Raises
    ------
    InputError
        The name doesn't tell.
    """
    suffix, compression = path.suffix.lower(), COMPRESSIONS.get(path.suffix.lower())
    if compression is not None:
        suffix = Path(path.stem).suffix.lower()
    found = forced or SUFFIXES.get(suffix)
    if found is None:
        raise InputError(f"{path}: '{suffix}' names no format that is known; say --format {'|'.join(FORMATS)}")
    return found, compression


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        for part in text.split(","):
            name, sign, value = part.partition("=") if option == "--columns" else part.rpartition("=")
            name, value = name.strip(), value.strip()
            if not (name and sign and value):
                raise SettingsError(f"{option}: '{part}' is not NAME=VALUE; several are joined by commas")
            if pairs.get(name, value) != value or (name in pairs and option == "--columns"):
                raise SettingsError(f"{option}: '{name}' is given twice, as '{pairs[name]}' and as '{value}'")
            pairs[name] = value
    return pairs


def _check_surface(vocabulary: Vocabulary, where: str, name: str) -> None:
    if name not in vocabulary.surfaces:
        near = suggestion(name, list(vocabulary.surfaces))
        raise SettingsError(f"{where}: there is no surface '{name}'{near}; surfaces: {', '.join(vocabulary.surfaces)}")


def _lacks(missing: Sequence[str], present: Sequence[str]) -> str:
    """Which columns a file hasn't, and what to do about it."""
    for about, columns in _SIMULATED.items():
        if columns <= set(present):
            return f"is {about} that `tidemark simulate` writes, and no actions: give it events-*.parquet and events-bad.jsonl"
    named = [f"'{name}'{suggestion(name, list(present))}" for name in missing]
    them = f"--columns {','.join(f'{name}=NAME' for name in missing)}"
    if len(missing) == 1:
        return f"has no column {named[0]}; name the one that stands for it with {them}"
    return f"has no columns {', '.join(named[:-1])} and {named[-1]}; name those that stand for them with {them}, if it holds actions at all"


def _list(names: Sequence[str], most: int = 30) -> str:
    return ", ".join(list(names)[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
