"""What a call of `get_online_features` asks for: views, features and entities, resolved and checked before anything is read.

What Feast would take for another entity (7.5 for 7, True for 1, a number for a topic) is refused here, and so is a registry that was applied under
other definitions. Feast's own objects are only read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from feast import FeatureService, FeatureView, utils
from feast.infra.registry.base_registry import BaseRegistry
from feast.protos.feast.types.Value_pb2 import Value

from feature_repo import views
from feature_repo.columns import VIEWS, Keys, View
from feature_repo.errors import FeastReadError, OtherFingerprintError
from flows import features as declared
from flows.events import is_decimal
from flows.vocabulary import suggestion

_MOST_PLANS = 1024


@dataclass(frozen=True, eq=False)
class Part:
    """One view of a request.

    Attributes
    ----------
    view : View
    key : str
        The column of the entity rows that names its entities.
    wanted : list of (str, str)
        Name in the answer, and of the feature.
    """

    view: View
    key: str
    wanted: list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Plan:
    """A request less its entities.

    Attributes
    ----------
    parts : list of Part
    keys : dict of str to type
        The columns that entity rows need.
    entities : dict of str to str
        Names that Feast takes for a column, too, with a warning.
    tables : list of (FeatureView, list of str)
        Feast's views with the features that are wanted of each.
    """

    parts: list[Part]
    keys: dict[str, type]
    entities: dict[str, str]
    tables: list[tuple[FeatureView, list[str]]]


class Plans:
    """Plans by what Feast has made of a request; Feast keeps that until its registry is read anew, and makes another one then."""

    def __init__(self) -> None:
        # With Feast's object, so that no other one gets its identity.
        self._known: dict[int, tuple[Any, Plan | None]] = {}

    def of(self, registry: BaseRegistry, project: str, wanted: list[str] | FeatureService, full_names: bool) -> Plan | None:
        """How to answer; None where only Feast's own way does, as with on-demand views.

        Raises
        ------
        FeastReadError, OtherFingerprintError
        """
        if not isinstance(wanted, FeatureService) and (isinstance(wanted, str) or not isinstance(wanted, Sequence)):
            raise FeastReadError(f"features came as {type(wanted).__name__}; give a list of 'view:feature' texts, or a feature service")
        try:
            context = utils._get_cached_request_context(registry, project, wanted, full_names)
        except KeyError as error:
            raise unknown_feature(wanted) or error from None
        known = self._known.get(id(context))
        if known is None:
            if len(self._known) >= _MOST_PLANS:
                self._known.clear()
            known = self._known[id(context)] = context, _plan(context, full_names)
        return known[1]


def _plan(context: tuple[Any, ...], full_names: bool) -> Plan | None:
    _, on_demand, join_keys, _, _, grouped, _, request_data, entityless = context
    for table, _ in grouped:
        check_fingerprint(table)
    if on_demand or request_data or entityless or any(_is_foreign(table) for table, _ in grouped):
        return None
    parts = []
    for table, names in grouped:
        key = join_keys[table.entities[0]]
        shown = table.projection.name_to_use()
        view = VIEWS[table.name]
        parts.append(
            Part(view, table.projection.join_key_map.get(key, key), [(f"{shown}__{name}" if full_names else name, name) for name in names])
        )
    return Plan(parts, {part.key: part.view.key for part in parts}, dict(join_keys), list(grouped))


def _is_foreign(table: FeatureView) -> bool:
    return table.name not in VIEWS or getattr(table.projection, "version_tag", None) is not None


def check_fingerprint(table: FeatureView) -> None:
    """Refuse a view over task state that was applied to the registry under other definitions.

    Raises
    ------
    OtherFingerprintError
    """
    if table.name in VIEWS and (applied := table.tags.get(views.FINGERPRINT_TAG)) != (now := declared.fingerprint()):
        raise OtherFingerprintError(table.name, applied, now)


def columns_of(entity_rows: Any, plan: Plan) -> dict[str, Keys] | None:
    """The entities of a request, by join key; None where they come in a form that only Feast's own way takes.

    Raises
    ------
    FeastReadError
        They name no entity, lack a key, are of another type, or differ in their columns or lengths.
    """
    by_key = _by_key(entity_rows)
    if by_key is None or any(len(values) and isinstance(values[0], Value) for values in by_key.values()):
        return None
    missing = sorted(set(plan.keys) - set(by_key))
    if missing:
        if set(missing) & {plan.entities.get(name) for name in by_key}:
            return None
        raise FeastReadError(
            f"entity rows have {_listed(by_key)} and lack {_listed(missing)}, which the features that are asked for belong to"
        )
    if len({len(by_key[key]) for key in plan.keys}) > 1:
        raise FeastReadError(f"entity rows: {_listed(plan.keys)} differ in length; all columns need one value for each row")
    # In the caller's order, which is that of Feast's answer.
    found = {key: _checked(key, values, plan.keys[key]) for key, values in by_key.items() if key in plan.keys}
    if not all(map(len, found.values())):
        raise FeastReadError(f"entity rows are empty: name at least one {_listed(plan.keys)}")
    return found


def _by_key(entity_rows: Any) -> dict[str, Sequence[Any]] | None:
    if isinstance(entity_rows, Mapping):
        return dict(entity_rows) if all(isinstance(v, (Sequence, np.ndarray)) for v in entity_rows.values()) else None
    if not isinstance(entity_rows, Sequence) or isinstance(entity_rows, (str, bytes)):
        raise FeastReadError(f"entity rows came as {type(entity_rows).__name__}; give a list of {{key: value}}, or {{key: list of values}}")
    if not entity_rows:
        raise FeastReadError("entity rows are empty: name at least one entity")
    if not all(isinstance(row, Mapping) for row in entity_rows):
        raise FeastReadError("entity rows must each be {key: value}")
    names = entity_rows[0].keys()
    for place, row in enumerate(entity_rows):
        if row.keys() != names:
            raise FeastReadError(f"entity row {place} has {_listed(row)}, and row 0 {_listed(names)}; all rows need the same keys")
    return {name: [row[name] for row in entity_rows] for name in names}


def _checked(key: str, values: Sequence[Any] | npt.NDArray[Any], kind: type) -> Keys:
    values = values.tolist() if isinstance(values, np.ndarray) else values
    kinds = set(map(type, values))
    if kind is str:
        if any(not issubclass(found, str) for found in kinds):
            raise _wrong(key, values, lambda value: not isinstance(value, str), "a topic is text")
        return list(values)
    if kinds != {int}:
        values = [_integer(key, place, value) for place, value in enumerate(values)]
    try:
        return np.array(values, np.int64)
    except OverflowError:
        raise _wrong(key, values, lambda value: not -(2**63) <= value < 2**63, "an ID has 64 bits") from None


def _integer(key: str, place: int, value: Any) -> int:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    # JSON carries IDs past 2^53 as texts, and Feast takes them so. One with a fraction, or "007", it would take for another entity.
    if isinstance(value, str) and is_decimal(value):
        return int(value)
    raise _of_another_type(
        key, place, value, "an ID is a whole number; of a text that was ingested as an ID, ask for `flows.events.id_of(text)`"
    )


def _wrong(key: str, values: Any, is_wrong: Callable[[Any], bool], rule: str) -> FeastReadError:
    place = next(i for i, value in enumerate(values) if is_wrong(value))
    return _of_another_type(key, place, values[place], rule)


def _of_another_type(key: str, place: int, value: Any, rule: str) -> FeastReadError:
    return FeastReadError(f"entity row {place}: {key} is {value!r} ({type(value).__name__}); {rule}")


def unknown_feature(wanted: Any) -> FeastReadError | None:
    """Feast says a KeyError of its own where a view lacks a feature."""
    for reference in wanted if not isinstance(wanted, FeatureService) else ():
        view, _, name = reference.partition(":")
        if view in VIEWS and name not in VIEWS[view].names:
            return FeastReadError(f"feature view '{view}' has no feature '{name}'{suggestion(name, list(VIEWS[view].names))}")
    return None


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) or "no key"
