"""Lines of code: lines that hold something other than blanks, comments and docstrings. A line of SQL within a string counts."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable
from pathlib import Path

_NOTHING = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}


def lines_of_code(source: str) -> int:
    """How many lines of a module's source hold code."""
    text = source.splitlines()
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NOTHING:
            held.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            held.difference_update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return sum(1 for line in held if text[line - 1].strip())


def lines_of_files(paths: Iterable[Path]) -> int:
    """The same of several files together."""
    return sum(lines_of_code(path.read_text("utf-8")) for path in paths)
