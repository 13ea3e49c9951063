"""The end of every benchmark's command: measure in a directory that goes again, and print the result or why there is none."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import _measure


def run(name: str, measure: Callable[[Path], dict[str, Any]], show: Callable[[dict[str, Any], Console], None], as_json: bool) -> None:
    """Measure and print; exit 1 where a check failed.

    Parameters
    ----------
    name : str
        Of the benchmark, for the message.
    measure : callable
        Takes an empty directory.
    show : callable
        Prints a result for a reader.
    as_json : bool
    """
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as scratch:
        try:
            result = measure(Path(scratch))
        except _measure.CheckFailedError as error:
            print(f"benchmarks.{name}: {error}", file=sys.stderr)
            sys.exit(1)
    if as_json:
        print(json.dumps(result))
    else:
        show(result, _measure.console())
