"""What no file of the project may do, read from the sources: run what it reads, or hand it to a shell."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = [
    ROOT / "tidemark.py",
    *(path for top in ("flows", "feature_repo", "online_model", "replay") for path in (ROOT / top).rglob("*.py")),
]
# Modules whose readers execute what they are given, or whose formats do.
_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
_NAMES = {"eval", "exec", "compile", "__import__"}
_CALLS = {"torch.load", "os.system", "os.popen", "tempfile.mktemp", "pd.read_pickle", "pd.eval", "faiss.read_index"}
_TRUE = {"allow_pickle", "shell"}
# What a learner and the process that reads for it say to each other: a pair of sockets and memory that nobody else has, and no file.
_BETWEEN_OWN_PROCESSES = {("online_model/learner/reading_process.py", "pickle"), ("online_model/learner/ring.py", "pickle")}
_FALSE = {"weights_only", "verify", "ssl_check_hostname", "check_hostname"}


def dangers(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of everything that is not allowed."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.partition(".")[0] in _MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in _MODULES:
            yield node.lineno, str(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if (
                (isinstance(node.func, ast.Name) and name in _NAMES)
                or name in _CALLS
                or name.endswith((".query", ".to_pickle", ".read_pickle"))
            ):
                yield node.lineno, name
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if (keyword.arg in _TRUE and value is not False) or (keyword.arg in _FALSE and value is not True):
                    yield node.lineno, f"{keyword.arg}="


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from yaml import load",
        "def f():\n    import dill",
        "eval('1')",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=given)",
        "subprocess.run(words, shell=True)",
        "requests.get(url, verify=False)",
        "frame.query(text)",
    ],
)
def test_it_sees(source: str) -> None:
    assert list(dangers(source))


def test_what_is_allowed() -> None:
    assert list(dangers("model.eval()\nre.compile('x')\nast.parse(text, mode='eval')\nnp.load(path, allow_pickle=False)")) == []


def test_nothing_that_is_shipped_executes_what_it_reads() -> None:
    found = [(str(path.relative_to(ROOT)), line, name) for path in SHIPPED for line, name in dangers(path.read_text("utf-8"))]
    assert [one for one in found if (one[0], one[2]) not in _BETWEEN_OWN_PROCESSES] == []
    # And no more is allowed than there is.
    assert {(path, name) for path, _, name in found} == _BETWEEN_OWN_PROCESSES


def test_the_tests_that_the_threat_model_names_are_there() -> None:
    named = set(re.findall(r"`((?:\w+/)?test_\w+\.py)`", (ROOT / "docs/security.md").read_text("utf-8")))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / "tests" / name).is_file()] == []
