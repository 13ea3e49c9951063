"""One direction of import, pure kernels, and oracles that share nothing with the code under test.

Read from the sources alone: an import inside a function, under TYPE_CHECKING or by `importlib.import_module("name")` counts like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = {"flows", "feature_repo", "online_model", "replay", "benchmarks", "tests", "tidemark"}
ORACLES = ("tests.oracles", "tests.strategies")  # the naive readings, and the streams that they are asked about
ENGINES = {"bytewax", "rocksdict", "feast", "confluent_kafka", "sqlite3", "redis"}


def imported(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a module imports; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                base = ".".join(filter(None, [*parts[: len(parts) - node.level + is_package], base]))
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield node.lineno, str(argument.value)


def modules() -> Iterator[tuple[str, Path]]:
    """Name and file of every module of the project."""
    for top in sorted(PROJECT):
        for path in [ROOT / f"{top}.py", *sorted((ROOT / top).rglob("*.py"))]:
            if path.is_file():
                yield path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"), path


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def may_import_bytewax(module: str) -> bool:
    return within(module, "flows.dataflow", "tests", "benchmarks") or module in (
        "flows.actions",
        "flows.revisits",
        "flows.all",
        "flows.archiver",
        "flows.examples.flow",
    )


# (rule, the modules that it binds, the packages that those must not import)
RULES: list[tuple[str, Callable[[str], bool], set[str]]] = [
    ("flows is the ground floor", lambda m: within(m, "flows"), PROJECT - {"flows"}),
    ("feature_repo imports flows alone", lambda m: within(m, "feature_repo"), PROJECT - {"flows", "feature_repo"}),
    (
        "online_model imports flows and feature_repo",
        lambda m: within(m, "online_model"),
        PROJECT - {"flows", "feature_repo", "online_model"},
    ),
    ("replay is above all but the front door", lambda m: within(m, "replay"), {"tidemark", "tests", "benchmarks"}),
    ("the front door ships without tests", lambda m: within(m, "tidemark"), {"tests", "benchmarks"}),
    ("kernels are pure", lambda m: within(m, "flows.kernels", "online_model.table.kernels"), ENGINES | {"torch"}),
    ("an embedding table does without torch", lambda m: within(m, "online_model.table"), {"torch"}),
    ("Redis stays behind flows.online", lambda m: not within(m, "flows.online", "tests", "benchmarks"), {"redis"}),
    ("bytewax stays behind the dataflow modules", lambda m: not may_import_bytewax(m), {"bytewax"}),
    ("oracles share nothing with the code under test", lambda m: within(m, *ORACLES), PROJECT - {"tests"}),
]


def breaches(module: str, source: str, is_package: bool = False) -> list[str]:
    """What a module imports against the rules, one line each."""
    found = []
    for line, name in imported(source, module, is_package):
        found += [f"{module}:{line} imports {name}: {rule}" for rule, binds, banned in RULES if binds(module) and within(name, *banned)]
        if within(module, *ORACLES) and within(name, "tests") and not within(name, *ORACLES):
            found.append(f"{module}:{line} imports {name}: oracles share nothing with the code under test")
    return found


def test_every_module_keeps_the_rules() -> None:
    found = [breach for name, path in modules() for breach in breaches(name, path.read_text("utf-8"), path.name == "__init__.py")]
    assert not found, "\n" + "\n".join(found)


def test_the_walk_meets_the_modules() -> None:
    names = {name for name, _ in modules()}
    assert {"flows", "flows.kernels", "flows.settings", "tests.oracles", "tests.test_architecture"} <= names


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("flows.log", "import feature_repo"),
        ("flows.log", "from replay.verify import digest"),
        ("flows.log", "def f():\n    import online_model.serving"),
        ("flows.log", "import importlib\nimportlib.import_module('tidemark')"),
        ("flows.log", "from bytewax.dataflow import Dataflow"),
        ("tidemark", "import bytewax.run"),
        ("feature_repo.views", "from online_model import table"),
        ("online_model.learner", "import replay"),
        ("replay.audit", "from tests.oracles import features"),
        ("flows.kernels.counters", "import sqlite3"),
        ("flows.kernels.counters", "from rocksdict import Rdict"),
        ("flows.kernels.packing", "import redis"),
        ("online_model.table.kernels.index", "from rocksdict import Rdict"),
        ("online_model.table.table", "import torch"),
        ("feature_repo.redis_store", "from redis import Redis"),
        ("tests.oracles.features", "from flows.events import EVENT_SCHEMA"),
        ("tests.oracles.features", "from flows import events"),
        ("tests.oracles.features", "from tests import conftest"),
        ("tests.oracles.features", "from .. import conftest"),
        ("tests.strategies", "from flows.vocabulary import SAVE"),
    ],
)
def test_a_breach_is_seen(module: str, source: str) -> None:
    assert breaches(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("flows.dataflow.inputs", "import bytewax.inputs"),
        ("flows.actions", "from bytewax.dataflow import Dataflow"),
        ("flows.state", "import rocksdict"),
        ("flows.kernels.counters", "import numpy as np\nfrom flows.kernels import windows\nfrom . import windows"),
        ("flows.flows_like", "import flowsheet, replaying"),
        ("replay.rebuild", "import feature_repo.views, online_model.learner"),
        (
            "tests.oracles.features",
            "from tests.oracles.decide import decide\nfrom .decide import decide\nfrom tests.strategies import COLUMNS\nimport pandas",
        ),
        ("tests.test_log", "from flows.log import Log\nfrom tests.oracles import features"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert not breaches(module, source)


def test_a_relative_import_is_resolved() -> None:
    assert [name for _, name in imported("from . import a\nfrom .b import c\nfrom ..d import e", "x.y.z")] == ["x.y.a", "x.y.b.c", "x.d.e"]
    assert [name for _, name in imported("from . import a\nfrom ..d import e", "x.y", is_package=True)] == ["x.y.a", "x.d.e"]
