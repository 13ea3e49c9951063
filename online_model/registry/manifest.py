"""What a base is: its files with their digests, and everything that decided what it became.

A manifest is one JSON file that bears its own digest. It must never be taken for another's: it says its base's number, and names nothing outside
its directory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from flows.sealed import digest_of as digest_of
from online_model.registry.errors import DamagedModelError, NewerFormatError

FORMAT = 1
MANIFEST = "manifest.json"
DENSE, CALIBRATORS = "dense.safetensors", "calibrators.json"
TABLES = {"user": "user_table.safetensors", "pin": "pin_table.safetensors"}
"""The file of each embedding table."""
REQUIRED = (DENSE, *TABLES.values(), CALIBRATORS)
_FILE = re.compile(r"[a-z][a-z0-9_]{0,60}\.safetensors")


@dataclass(frozen=True)
class FileEntry:
    """A file of a base: bytes, and its SHA-256 in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Build:
    """On what a model was computed: equal ones compute equal bits from equal inputs.

    Attributes
    ----------
    torch : str
        Version and build.
    instruction_set : str
        What torch uses of the processor, as `torch.backends.cpu.get_cpu_capability` says.
    threads : int
    device : str
        "cpu", or the name of the accelerator.
    seed : int
    """

    torch: str
    instruction_set: str
    threads: int
    device: str
    seed: int


@dataclass(frozen=True)
class Described:
    """What whoever trains a base says of it.

    Attributes
    ----------
    config : mapping
        Of the model and its training.
    feature_fingerprint, vocabulary_fingerprint : str
        Under which the examples were made that it learned from.
    cut : mapping
        Which examples: positions of EXAMPLES, times.
    parent : int or None
        The base that it began from; None: from nothing.
    build : Build
    metrics : mapping
        What it was measured to be worth.
    made_as_of : int
        The moment it was made for, ms: an argument of the training, no clock.
    """

    config: Mapping[str, Any]
    feature_fingerprint: str
    vocabulary_fingerprint: str
    cut: Mapping[str, Any]
    parent: int | None
    build: Build
    metrics: Mapping[str, Any]
    made_as_of: int


@dataclass(frozen=True)
class Manifest:
    """A base.

    Attributes
    ----------
    base : int
        Its number, from 1 on.
    files : mapping of str to FileEntry
    about : Described
    digest : str
        Of all of the above: names this base and no other.
    """

    base: int
    files: Mapping[str, FileEntry]
    about: Described
    format: int = FORMAT
    digest: str = field(default="", compare=False)

    def sealed(self) -> Manifest:
        """The same with its digest."""
        content = asdict(self)
        del content["digest"]
        return Manifest(self.base, self.files, self.about, self.format, digest_of(content))

    def to_bytes(self) -> bytes:
        """The file's content."""
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Read it back.

        Raises
        ------
        NewerFormatError
        DamagedModelError
            It is not what was written.
        """
        content = checked(data, where, FORMAT)
        try:
            about = dict(content["about"])
            build = Build(**about.pop("build"))
            files = {name: FileEntry(**entry) for name, entry in content["files"].items()}
            manifest = cls(content["base"], files, Described(build=build, **about), content["format"], content["digest"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DamagedModelError(f"{where} lacks something, or says what no manifest says ({error})") from error
        if wrong := [name for name in files if not is_allowed(name)]:
            raise DamagedModelError(f"{where} names files that no base has: {', '.join(map(repr, wrong))}")
        if missing := [name for name in REQUIRED if name not in files]:
            raise DamagedModelError(f"{where} names no {', '.join(missing)}")
        return manifest


def is_allowed(name: str) -> bool:
    """Whether a base may have a file of this name: weights are safetensors, which no reader executes; and there is no way out of its directory."""
    return name == CALIBRATORS or _FILE.fullmatch(name) is not None


def checked(data: bytes, where: str, newest: int) -> dict[str, Any]:
    """A JSON document that bears its digest, and whose format can be read.

    Raises
    ------
    NewerFormatError
    DamagedModelError
    """
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DamagedModelError(f"{where} is not what was written: {error}") from error
    if not isinstance(content, dict):
        raise DamagedModelError(f"{where} is not what was written: it holds no object")
    form = content.get("format")
    # Before the digest, of which a later version may take another.
    if type(form) is int and form > newest:
        raise NewerFormatError(
            f"{where} has format {form}; this Tidemark reads up to {newest}: use the version that wrote it, or a later one"
        )
    rest = {key: value for key, value in content.items() if key != "digest"}
    if content.get("digest") != digest_of(rest):
        raise DamagedModelError(f"{where} is not what was written: its digest is another")
    return content
