"""What is wrong with a batch: descriptions, one wording for single values and arrays, and the paths of values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.batch.read_bounds import UNBOUNDED, ReadBounds
from prinz_enricher.errors import MAX_VIOLATIONS, InvalidInput, Violation
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
UNKNOWN_COLUMN: Final = "is not a column of this model"
MISSING_COLUMN: Final = "is missing, but the column is required"
UNKNOWN_PROPERTY: Final = "is not a property of this record"
MISSING_PROPERTY: Final = "is missing, but is required"
DUPLICATE: Final = "is there twice"
DUPLICATE_KEY: Final = "has a key that another entry has too"
NULL_KEY: Final = "has an entry without a key"
BINARY_IN_ANY: Final = "is binary, which a value of any type can't hold"
INSTANT_IN_ANY: Final = "is a timestamp, which a value of any type can't hold"
NOT_JSON: Final = "is not JSON text, which a value of any type is held as"
OTHER_TYPE: Final = "is of a type that the service does not take"
INEXACT_DECIMAL: Final = "is a decimal that a floating point number can't tell"

# Templates for the name of the wanted type; for that and the bits it holds exactly; for the actual and the wanted type;
# for the declared length.
OUT_OF_RANGE: Final = "is outside the range of {}"
INEXACT: Final = "is a whole number beyond 2^{1}, inexact as {0}"
WRONG_TYPE: Final = "is {}; wanted {}"
WRONG_SIZE: Final = "does not have the declared length of {}"

# Characters of a caller's name that a path repeats.
MAX_NAME: Final = 200
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TYPE_NAMES: Final[dict[type, str]] = {ListOf: "array", MapOf: "map", Record: "object", AnyValue: "any"}
_ARROW_NAMES: Final[tuple[tuple[Callable[[pa.DataType], bool], str], ...]] = (
    *((is_list, "a list") for is_list in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)),
    (pa.types.is_struct, "a record"),
    (pa.types.is_map, "a map"),
    (pa.types.is_null, "null"),
    (pa.types.is_boolean, "a boolean"),
    (pa.types.is_integer, "a whole number"),
    (pa.types.is_floating, "a floating point number"),
    (pa.types.is_decimal, "a decimal"),
    (pa.types.is_string, "text"),
    (pa.types.is_binary, "binary"),
    (pa.types.is_timestamp, "a timestamp"),
    (pa.types.is_date, "a date"),
    (pa.types.is_run_end_encoded, "of a nested Arrow type"),
    (pa.types.is_nested, "of a nested Arrow type"),
    (lambda type: isinstance(type, pa.BaseExtensionType), "of an extension type"),
)


def type_name(type: Type) -> str:
    """Name a type in a few words."""
    match type:
        case Scalar(kind):
            return kind.value
        case Tensor(dtype, shape):
            return dtype if len(shape) <= 1 else f"array of {dtype}"
        case _:
            return _TYPE_NAMES[type.__class__]


def arrow_name(type: pa.DataType) -> str:
    """Name an Arrow type in a few words; nested ones without their parts, which a caller names."""
    if pa.types.is_dictionary(type):
        return arrow_name(type.value_type)
    return next((name for is_of, name in _ARROW_NAMES if is_of(type)), f"of Arrow type {type}")


def quoted(name: str) -> str:
    """Write a name as a path holds it: in quotes, escaped as in JSON, cut where it is very long."""
    return json.dumps(name if len(name) <= MAX_NAME else name[:MAX_NAME] + "…", ensure_ascii=not name.isprintable())


def column_path(name: str) -> str:
    """Write the path of a column: `columns["alcohol"]`."""
    return f"columns[{quoted(name)}]"


def property_step(name: str) -> str:
    """Write the step to a property: `.age`, or `["first name"]` where the name is not plain."""
    return f".{name}" if len(name) <= MAX_NAME and _PLAIN_NAME.fullmatch(name) else f"[{quoted(name)}]"


def refusal(field: str, description: str) -> InvalidInput:
    """Return the error of a single violation."""
    return InvalidInput([Violation(field, description)])


class Violations:
    """The violations found so far: the first `MAX_VIOLATIONS` are reported, the others counted as omitted.

    The bounds are those of reading whatever they are found in.
    """

    __slots__ = ("bounds", "omitted", "reported")

    def __init__(self, bounds: ReadBounds | None = None) -> None:
        self.bounds = bounds or UNBOUNDED
        self.reported: list[Violation] = []
        self.omitted = 0

    def __len__(self) -> int:
        return len(self.reported) + self.omitted

    def add(self, field: str | Callable[[], str], description: str) -> None:
        """Add what is wrong with a field such as `columns["alcohol"][17]`, described without the caller's value.

        A function writes the field only where it is reported.
        """
        if len(self.reported) < MAX_VIOLATIONS:
            self.reported.append(Violation(field if isinstance(field, str) else field(), description))
        else:
            self.omitted += 1

    def raise_any(self) -> None:
        """Raise InvalidInput with all violations, if there are any."""
        if self.reported:
            raise InvalidInput(self.reported, omitted=self.omitted)


class FieldPath:
    """The path of an array, and of each of its values by their index, which is written only for those refused."""

    __slots__ = ("at", "violations", "whole")

    def __init__(self, whole: str, violations: Violations, at: Callable[[int], str] | None = None) -> None:
        self.whole = whole
        self.violations = violations
        self.at = at or (lambda index: f"{whole}[{index}]")

    def refuse(self, description: str) -> None:
        """Refuse the array as a whole."""
        self.violations.add(self.whole, description)

    def refuse_at(self, index: int, description: str) -> None:
        """Refuse one value."""
        self.violations.add(partial(self.at, index), description)

    def refuse_where(self, wrong: npt.NDArray[np.bool_], description: str | Callable[[int], str]) -> None:
        """Refuse each value that is marked in a mask of shape (length of the array,)."""
        indexes = np.flatnonzero(wrong)
        room = MAX_VIOLATIONS - len(self.violations.reported)
        for index in indexes[:room].tolist():
            self.refuse_at(index, description if isinstance(description, str) else description(index))
        self.violations.omitted += max(len(indexes) - room, 0)

    def elements(self, offsets: npt.NDArray[np.int64], keys: pa.Array | Sequence[str] | None = None) -> FieldPath:
        """Return the path of the elements of lists, or of the values of maps with these keys."""

        def at(index: int) -> str:
            row = int(np.searchsorted(offsets, index, side="right")) - 1
            step = str(index - int(offsets[row])) if keys is None else quoted(str(keys[index]))
            return f"{self.at(row)}[{step}]"

        return FieldPath(f"{self.whole}[*]", self.violations, at)

    def property(self, name: str) -> FieldPath:
        """Return the path of a property of records."""
        step = property_step(name)
        return FieldPath(self.whole + step, self.violations, lambda index: self.at(index) + step)

    def entry(self, name: str) -> FieldPath:
        """Return the path of an entry of records that are held as JSON."""
        step = f"[{quoted(name)}]"
        return FieldPath(self.whole + step, self.violations, lambda index: self.at(index) + step)

    def picked(self, indexes: npt.NDArray[np.intp]) -> FieldPath:
        """Return the path of values picked out of the array."""
        return FieldPath(self.whole, self.violations, lambda index: self.at(int(indexes[index])))
