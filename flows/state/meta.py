"""What a task's state says of itself: which position it reflects, and which runs are live. Nothing in its database is true that this does not say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import orjson

from flows.errors import MAKE_ANEW, DataDirectoryError, OtherFingerprintError, StateError
from flows.state.runs import Manifest, Run

# 3: corrections (`generation`, `corrected_to`, `fold_all`). State of format 2 reflects none, and is one of format 3 from its next commit on.
FORMAT = 3
READABLE = (2, FORMAT)
META = b"meta"
"""The key of the meta record."""


@dataclass
class Meta:
    """What a task's state is, as of its last commit.

    Attributes
    ----------
    flow, partition : str, int
        The task.
    fingerprint : str
        Of the features and settings that the state was made under.
    generation : int
        The correction that the outbox follows.
    corrected_to : int
        The correction that the state reflects; ahead of `generation` where nothing goes out (see flows.corrections.history).
    position : int
        Next offset to read of the task's input partition.
    watermark : int or None
        Greatest event time applied, ms.
    sequences : dict of log name to list of int
        Next sequence number of the outbox, by destination partition.
    applied : dict of origin to int
        Last sequence number applied, of tasks that read another task's output.
    inputs : dict of log name to [position, arrival]
        Of each further input: next offset, and the greatest timestamp before it, ms.
    anchor, anchor_sequences, anchor_inputs
        Position, `sequences` and `inputs` that the saved working set reflects.
    expired_to : int
        Revisits whose hour ended at or before this may be gone, ms.
    fold_all : bool
        All runs of each table are to become one: rows that take others back must meet them before these expire.
    counts : dict
        Records by what became of them.
    """

    flow: str
    partition: int
    fingerprint: str
    format: int = FORMAT
    generation: int = 0
    corrected_to: int = 0
    position: int = 0
    watermark: int | None = None
    sequences: dict[str, list[int]] = field(default_factory=dict)
    applied: dict[int, int] = field(default_factory=dict)
    anchor: int = 0
    anchor_sequences: dict[str, list[int]] = field(default_factory=dict)
    inputs: dict[str, list[int]] = field(default_factory=dict)
    anchor_inputs: dict[str, list[int]] = field(default_factory=dict)
    expired_to: int = -(2**62)
    fold_all: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    manifest: Manifest = field(default_factory=dict)
    next_run: int = 0

    def check_fingerprint(self, fingerprint: str, path: Path) -> None:
        """Refuse to read a state under other features or settings than it was made with.

        Raises
        ------
        OtherFingerprintError
        """
        if self.fingerprint != fingerprint:
            raise OtherFingerprintError(
                f"state {path} was made under other features or settings (fingerprint {self.fingerprint}, now {fingerprint}); "
                "read it with the settings that it was made with"
            )

    def to_json(self) -> bytes:
        """The meta record."""
        content = {**self.__dict__, "manifest": {name: [[r.id, r.level, r.rows] for r in runs] for name, runs in self.manifest.items()}}
        if not self.inputs:
            # Of most tasks; what they write can be read by who doesn't know these.
            del content["inputs"], content["anchor_inputs"]
        return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)

    @classmethod
    def from_json(cls, data: bytes, path: Path) -> Meta:
        """Read a meta record, as of this format; refuse one that can't be."""
        try:
            content = orjson.loads(data)
            if content.get("format") not in READABLE:
                raise DataDirectoryError(
                    f"state {path} has format {content.get('format')}; this Tidemark reads format {FORMAT}: "
                    f"`tidemark replay restore --all` makes it anew from the log; if features have changed as well, {MAKE_ANEW}"
                )
            content["format"] = FORMAT
            content["manifest"] = {name: [Run(*r) for r in runs] for name, runs in content["manifest"].items()}
            content["applied"] = {int(origin): last for origin, last in content["applied"].items()}
            return cls(**content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StateError(
                f"state {path}: its meta record can't be read ({error!r}); put the task back with `tidemark replay restore`"
            ) from error
