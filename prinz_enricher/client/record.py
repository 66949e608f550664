"""Single records: checked against a signature value by value, and written together with those of other callers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

import numpy as np
import pyarrow as pa

from prinz_enricher.batch import Violations, encode_columns
from prinz_enricher.batch.coerce_values import ValueCoercer, is_unicode
from prinz_enricher.batch.layout import Layout, any_fields, record_batch
from prinz_enricher.batch.violation import column_path
from prinz_enricher.contract import value_pb2
from prinz_enricher.signature import Field, arrow_type

_INT32, _INT64 = np.iinfo(np.int32), np.iinfo(np.int64)
_LARGEST_FLOAT: Final = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]

_EXACT: Final[dict[str, tuple[type, Callable[[Any], bool] | None]]] = {
    "doubles": (float, None),
    "floats": (float, lambda value: -_LARGEST_FLOAT <= value <= _LARGEST_FLOAT or value != value),  # noqa: PLR0124
    "int64s": (int, lambda value: _INT64.min <= value <= _INT64.max),
    "int32s": (int, lambda value: _INT32.min <= value <= _INT32.max),
    "bools": (bool, None),
    "strings": (str, is_unicode),
    "binaries": (bytes, None),
}
"""By kind of wire column: the Python type whose values need no conversion, and a further check, if any."""


class _Never:
    """The type of no value."""


_NEVER: Final[tuple[type, Callable[[Any], bool] | None]] = (_Never, None)
"""For kinds that are not in `_EXACT`, whose values are always converted."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What rows must have in common, so that a model sees of each the same as if it came alone.

    A column of whole numbers is another one to a model as soon as one of them is missing.

    Attributes:
        names: The columns that are there; None for all of the signature.
        nulls: The places of null columns.
    """

    names: tuple[str, ...] | None = None
    nulls: tuple[int, ...] = ()


FULL: Final = Shape()
"""Every column is there, and none is null."""


class Records:
    """Checks single records, and writes those of one shape as columns of the wire.

    Args:
        fields: The inputs of a signature; empty for columns of any name and type.
    """

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self._fields = fields
        self._layout = Layout(fields)
        exact = [_EXACT.get(kind or "", _NEVER) for kind in self._layout.kinds]
        self._exact = dict(zip(self._layout.by_name, exact, strict=True))
        self._types = tuple(type for type, _ in exact)
        self._checks = [(place, check) for place, (_, check) in enumerate(exact) if check is not None]
        self._paths = {field.name: column_path(field.name) for field in fields}
        self._values_of = _getter([field.name for field in fields])

    def admit(self, record: Mapping[str, object]) -> tuple[Shape, tuple[object, ...]]:
        """Check a record, by the names of the fields, by the service's rules.

        Returns:
            Its shape, and a value for each of its columns, as Arrow and the wire take it.

        Raises:
            InvalidInput: All violations, such as of `columns["alcohol"][0]`.
        """
        if len(record) == len(self._types):
            try:
                values = self._values_of(record)
            except KeyError:
                return self._admit(record)
            # Nearly every record has values of the exact types.
            if tuple(map(type, values)) == self._types:
                for place, check in self._checks:
                    if not check(values[place]):
                        return self._admit(record)
                return FULL, values
        return self._admit(record)

    def _admit(self, record: Mapping[str, object]) -> tuple[Shape, tuple[object, ...]]:
        columns = {str(name): value for name, value in record.items()}
        fields = self._fields or any_fields(columns)
        paths = self._paths or {name: column_path(name) for name in columns}
        faults = Violations()
        for name in columns:
            if name not in paths:
                faults.add(column_path(name), "is no column of this model")
        names, values = [], []
        for field in fields:
            path = paths[field.name]
            if field.name in columns:
                names.append(field.name)
                value = columns[field.name]
                type, check = self._exact.get(field.name, _NEVER)
                if value.__class__ is not type or (check is not None and not check(value)):
                    value = ValueCoercer(path, faults).coerce(value, field.type, field.required, 0)
                values.append(value)
            elif field.required:
                faults.add(path, "is missing, but the column is required")
        faults.raise_any()
        nulls = tuple(place for place, value in enumerate(values) if value is None)
        if not nulls and len(names) == len(self._fields):
            return FULL, tuple(values)
        return Shape(tuple(names) if len(names) != len(self._fields) else None, nulls), tuple(values)

    def encode(self, shape: Shape, rows: Sequence[tuple[object, ...]]) -> value_pb2.ColumnBatch:
        """Return one or more rows of a shape, as `admit` returned them, as columns of the wire.

        Raises:
            InvalidInput: Values without a form on the wire.
        """
        if shape is FULL and self._fields and None not in self._layout.kinds:
            message = value_pb2.ColumnBatch(num_rows=len(rows))
            add = message.columns.add
            for field, kind, values in zip(self._fields, self._layout.kinds, zip(*rows, strict=True), strict=True):
                getattr(add(name=field.name), str(kind)).values.extend(values)
            return message
        if shape.names is None:
            layout, fields = self._layout, self._fields
        else:
            known = {field.name: field for field in self._fields}
            fields = tuple(known[name] for name in shape.names) if known else any_fields(shape.names)
            layout = Layout(fields)
        arrays = [
            pa.array(values, arrow_type(field.type))
            for field, values in zip(fields, zip(*rows, strict=True), strict=True)
        ]
        return encode_columns(record_batch(arrays, layout.schema, len(rows)), fields)


def _getter(names: list[str]) -> Callable[[Mapping[str, object]], tuple[object, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda record: tuple(record[name] for name in names)
