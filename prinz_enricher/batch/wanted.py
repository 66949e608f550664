"""What is said to a caller whose value does not fit its type. One wording for single values and whole columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pyarrow as pa

from prinz_enricher.signature import AnyValue, ListOf, MapOf, Record, Scalar, Tensor, Type

NULL: Final = "is null, but a value is required"
NOT_WHOLE: Final = "is not a whole number"
NOT_FINITE: Final = "is NaN or infinite, which a whole number can't be"
NOT_UNICODE: Final = "is not Unicode text"
TOO_LARGE: Final = "is too large for one column"
KEY_NOT_UNICODE: Final = "has a key that is not Unicode text"
NOT_ISO: Final = "is not an ISO-8601 date and time"
TOO_FINE: Final = "has digits finer than microseconds"
TOO_FAR: Final = "is a date and time outside the range of 64 bits"
UNSET_VALUE: Final = "holds no value; write a null as null_value"
UNKNOWN_PROPERTY: Final = "is no property of this record"
MISSING_PROPERTY: Final = "is missing, but is required"
TWICE: Final = "has a key that another entry has too"
NULL_KEY: Final = "has an entry without a key"
BINARY_IN_ANY: Final = "is binary, which a value of any type can't hold"
INSTANT_IN_ANY: Final = "is a timestamp, which a value of any type can't hold"
NOT_JSON: Final = "is not JSON text, which a value of any type is held as"
OTHER_TYPE: Final = "is of a type that the service does not take"
INEXACT_DECIMAL: Final = "is a decimal that a floating point number can't tell"


def out_of_range(name: str) -> str:
    """Say that a number is too large for its type."""
    return f"is outside the range of {name}"


def inexact(name: str, bits: int) -> str:
    """Say that a whole number is too large for a floating point type to tell from its neighbours."""
    return f"is a whole number beyond 2^{bits}, inexact as {name}"


def wrong_type(got: str, name: str) -> str:
    """Say that a value is of another type than is wanted."""
    return f"is {got}; wanted {name}"


def wrong_size(size: int) -> str:
    """Say that a list does not have its declared length."""
    return f"does not have the declared length of {size}"


def type_name(type: Type) -> str:
    """Name a type in a few words."""
    match type:
        case Scalar(kind):
            return kind.value
        case ListOf():
            return "array"
        case MapOf():
            return "map"
        case Record():
            return "object"
        case Tensor(dtype, shape):
            return dtype if len(shape) <= 1 else f"array of {dtype}"
        case AnyValue():
            return "any"


_PLAIN_NAMES: Final[tuple[tuple[Callable[[pa.DataType], bool], str], ...]] = (
    (pa.types.is_boolean, "a boolean"),
    (pa.types.is_integer, "a whole number"),
    (pa.types.is_floating, "a floating point number"),
    (pa.types.is_decimal, "a decimal"),
    (pa.types.is_string, "text"),
    (pa.types.is_binary, "binary"),
    (pa.types.is_timestamp, "a timestamp"),
    (pa.types.is_date, "a date"),
)


def arrow_name(type: pa.DataType) -> str:
    """Name an Arrow type in a few words; nested ones without their parts, which a caller names."""
    types = pa.types
    if types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type):
        return "a list"
    if types.is_struct(type):
        return "a record"
    if types.is_map(type):
        return "a map"
    if types.is_null(type):
        return "null"
    if types.is_dictionary(type):
        return arrow_name(type.value_type)
    for is_of, name in _PLAIN_NAMES:
        if is_of(type):
            return name
    if types.is_union(type) or types.is_run_end_encoded(type) or types.is_nested(type):
        return "of a nested Arrow type"
    return f"of Arrow type {type}" if not isinstance(type, pa.BaseExtensionType) else "of an extension type"
