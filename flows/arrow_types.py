"""Which columns of a stranger's Arrow message go on as they are: of types whose values are as large as their bytes, and that Python has a form for.

A column of any other type goes on as whether each row has a value at all. So nothing behind it has to know what else Arrow may hold: values
that rows share, that take no bytes, times of unknown zones, types that can't be cast or taken from.
"""

from __future__ import annotations

import pyarrow as pa

from flows.arrow_size import holds_texts

# Of a column of lists or structs, which Python needs many times the memory for.
_MOST_NESTED_BYTES = 8 << 20


def tamed(column: pa.Array) -> pa.Array:
    """A column as it is, views of texts as texts; or, of a type that isn't plain, bool[n]: whether there is a value."""
    kind = column.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        try:
            return column.cast(pa.string() if pa.types.is_string_view(kind) else pa.binary())
        except pa.ArrowException:
            return column.is_valid()
    return column if _is_plain(kind) else column.is_valid()


def are_tame(schema: pa.Schema) -> bool:
    """Whether `tamed` leaves columns of these types as they are."""
    return all(_is_plain(kind) and not (pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)) for kind in schema.types)


def may_be_bulky(held: int) -> bool:
    """Whether of records that hold so many bytes a column may be what `unless_bulky` changes."""
    return held > _MOST_NESTED_BYTES


def unless_bulky(column: pa.Array) -> pa.Array:
    """A column as it is; or, of lists or structs that Python has no room for, bool[n]: whether there is a value."""
    return column.is_valid() if pa.types.is_nested(column.type) and column.nbytes > _MOST_NESTED_BYTES else column


def _is_plain(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return False
    if pa.types.is_dictionary(kind):
        return holds_texts(kind.value_type) or pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_struct(kind) or pa.types.is_map(kind):
        # What lies in lists may be empty, or shared, without bytes of its own.
        return kind.num_fields > 0 and all(_is_plain_inside(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_fixed_size_list(kind):
        # Each of its values takes bytes of its own, null or not, unless there are none.
        return kind.list_size > 0 and _is_number(kind.value_type)
    if pa.types.is_timestamp(kind):
        return kind.tz is None or _is_known(kind.tz)
    return pa.types.is_null(kind) or pa.types.is_fixed_size_binary(kind) or holds_texts(kind) or _is_number(kind)


def _is_plain_inside(kind: pa.DataType) -> bool:
    return _is_plain(kind) and not (pa.types.is_null(kind) or pa.types.is_dictionary(kind) or pa.types.is_fixed_size_binary(kind))


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_date, pa.types.is_time)
    return any(test(kind) for test in (*tests, pa.types.is_duration))


def _is_known(zone: str) -> bool:
    """Whether Python knows a time zone."""
    try:
        pa.lib.string_to_tzinfo(zone)
    except Exception:
        # Whatever it is that a zone's name, from anybody, makes some library say.
        return False
    return True
