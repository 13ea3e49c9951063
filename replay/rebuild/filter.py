"""The filter of `--exclude`: an expression over the fields of an event, parsed as Python's and worked out column by column; nothing is executed."""

from __future__ import annotations

import ast
import datetime
from collections.abc import Callable
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import SettingsError
from flows.events import INT64_MAX, INT64_MIN, hash_id, id_of
from flows.vocabulary import Vocabulary, suggestion

_IDS = ("event_id", "user_id", "pin_id")
_TIMES = ("event_time", "arrival")
_WHOLE = ("duration_ms", "offset", "partition")
_NAMES = ("action", "surface", "topic")
_TEXTS = ("producer", "request_id")
FIELDS = (*_IDS, *_TIMES, *_WHOLE, *_NAMES, *_TEXTS)

_NUMERIC = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}
_TEXTUAL = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_MIRRORED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Eq: ast.Eq, ast.NotEq: ast.NotEq}


class Events(Protocol):
    """What a filter is worked out on: n events."""

    def __len__(self) -> int: ...
    def numbers(self, field: str) -> np.ndarray:
        """int64[n] of an ID, a time, a count; codes of action and surface, hashes of topics."""

    def texts(self, field: str) -> pa.Array:
        """Texts of producer or request_id, n of them, null where there is none."""


_Match = Callable[[Events], np.ndarray]


class Filter:
    """A condition on events.

    Parameters
    ----------
    text : str
        e.g. ``producer == 'v13' and event_time >= '2026-03-01T00:00Z'``: comparisons (also chained), ``in`` and ``not in`` a list, ``and``, ``or``,
        ``not``, parentheses, ``producer.startswith('v1')``. Times are ms since 1970 or ISO 8601, UTC unless they say otherwise. IDs may be texts.
    vocabulary : Vocabulary

    Raises
    ------
    SettingsError
        It isn't such an expression; the message shows where.
    """

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self.text = text
        self._codes = {"action": vocabulary.actions, "surface": vocabulary.surfaces}
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            at = error.offset - 1 if isinstance(error, SyntaxError) and error.offset else 0
            raise self._wrong(getattr(error, "msg", None) or "it is too long or nested too deeply", at) from None
        try:
            self.matches: _Match = self._condition(tree.body)
        except RecursionError:
            raise self._wrong("it is nested too deeply", 0) from None

    def _wrong(self, what: str, at: int | ast.AST) -> SettingsError:
        column = at if isinstance(at, int) else getattr(at, "col_offset", 0)
        # The parser counts bytes.
        column = len(self.text.strip().encode()[:column].decode("utf-8", "ignore")) if not isinstance(at, int) else column
        error = SettingsError(f"filter: {what}")
        error.below = (f"  {self.text.strip()}", f"  {' ' * column}^")
        return error

    def _condition(self, node: ast.expr) -> _Match:
        if isinstance(node, ast.BoolOp):
            parts = [self._condition(value) for value in node.values]
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return lambda events: join.reduce([part(events) for part in parts])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._condition(node.operand)
            return lambda events: ~inner(events)
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            parts = [self._comparison(a, op, b) for a, op, b in zip(operands, node.ops, operands[1:], strict=False)]
            return lambda events: np.logical_and.reduce([part(events) for part in parts])
        if isinstance(node, ast.Call):
            return self._startswith(node)
        raise self._wrong("a condition is expected here, such as producer == 'v13'", node)

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Match:
        if isinstance(right, ast.Name) and not isinstance(left, ast.Name) and type(op) in _MIRRORED:
            return self._comparison(right, _MIRRORED[type(op)](), left)
        if not isinstance(left, ast.Name):
            raise self._wrong("one side of a comparison must be a field and the other a value", left)
        field = self._field(left)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set):
                raise self._wrong("after 'in' comes a list, such as ['v12', 'v13']", right)
            wanted = [self._value(field, item) for item in right.elts]
            negated = isinstance(op, ast.NotIn)
            if field in _TEXTS:
                return lambda events: _mask(pc.is_in(events.texts(field), value_set=pa.array(wanted, pa.string()))) ^ negated
            return lambda events: np.isin(events.numbers(field), np.array(wanted, np.int64)) ^ negated
        if type(op) not in _NUMERIC:
            raise self._wrong("this comparison is not known: use ==, !=, <, <=, >, >=, in, not in", left)
        if field in _NAMES and not isinstance(op, ast.Eq | ast.NotEq):
            raise self._wrong(f"{field} has no order: use ==, !=, in, not in", left)
        value = self._value(field, right)
        if field in _TEXTS:
            textual = _TEXTUAL[type(op)]
            # An event without one is different from all.
            return lambda events: _mask(textual(events.texts(field), value), isinstance(op, ast.NotEq))
        numeric = _NUMERIC[type(op)]
        return lambda events: numeric(events.numbers(field), np.int64(value))

    def _startswith(self, node: ast.Call) -> _Match:
        call = node.func
        if not (
            isinstance(call, ast.Attribute)
            and call.attr == "startswith"
            and isinstance(call.value, ast.Name)
            and len(node.args) == 1
            and not node.keywords
        ):
            raise self._wrong("the only call is FIELD.startswith('…')", node)
        field = self._field(call.value)
        if field not in _TEXTS:
            raise self._wrong(f"only {' and '.join(_TEXTS)} can be compared by how they start", call.value)
        prefix = self._value(field, node.args[0])
        return lambda events: _mask(pc.starts_with(events.texts(field), pattern=prefix))

    def _field(self, node: ast.Name) -> str:
        if node.id not in FIELDS:
            raise self._wrong(f"there is no field '{node.id}'{suggestion(node.id, list(FIELDS))}; fields: {', '.join(FIELDS)}", node)
        return node.id

    def _value(self, field: str, node: ast.expr) -> int | str:
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            value = -node.operand.value if type(node.operand.value) is int else None
        if type(value) is int and field not in (*_NAMES, *_TEXTS):
            if not INT64_MIN <= value <= INT64_MAX:
                raise self._wrong(f"{field} is a 64-bit number", node)
            return value
        if type(value) is str:
            if field in _TEXTS:
                return value
            if field == "topic":
                return hash_id(value) if value else 0
            if field in self._codes:
                codes = self._codes[field]
                if value not in codes:
                    raise self._wrong(f"there is no {field} '{value}'{suggestion(value, codes)}; there are: {', '.join(codes)}", node)
                return codes[value]
            if field in _TIMES:
                return self._time(value, node)
            if field in _IDS:
                return id_of(value)
        kind = "a text in quotes" if field in (*_TEXTS, *_NAMES) else "a whole number of ms, or a time such as '2026-03-01T12:00Z'"
        raise self._wrong(f"{field} is compared with {kind if field not in _WHOLE else 'a whole number'}", node)

    def _time(self, text: str, node: ast.expr) -> int:
        try:
            return time_of(text)
        except ValueError:
            raise self._wrong(f"'{text}' is no time: write it as 2026-03-01T12:00Z, or as ms since 1970", node) from None


def time_of(text: str) -> int:
    """Ms since 1970 of an ISO 8601 time, in UTC unless it says otherwise.

    Raises
    ------
    ValueError
    """
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(milliseconds=1)


def _mask(found: pa.Array, of_null: bool = False) -> np.ndarray:
    return found.fill_null(of_null).to_numpy(zero_copy_only=False)
