"""Rows and parameters as Python values: checked into record batches and messages, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from prinz_enricher.batch import violation
from prinz_enricher.batch.coerce_arrays import coerce
from prinz_enricher.batch.coerce_values import BadValue, ValueCoercer, coerce_values, from_json, plain_tree, value_name
from prinz_enricher.batch.layout import Layout, any_fields, record_batch
from prinz_enricher.batch.python_values import python_values
from prinz_enricher.batch.read_bounds import NESTED, ReadBounds
from prinz_enricher.batch.violation import Violations, column_path, quoted, refusal
from prinz_enricher.contract import value_pb2
from prinz_enricher.ipc.fields import VALUE
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Micros,
    Param,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    Type,
    from_value,
    to_value,
)
from prinz_enricher.signature.value import TooDeep, to_python

PythonRows = Sequence[Mapping[str, object]] | Mapping[str, Any]

MAX_PARAMS: Final = 1_000
"""Parameters of a request, unless its model declares more."""

_FLOAT_LIMIT: Final = 3.4028235677973366e38
"""The least double that overflows as float32 when rounded to the nearest."""


def batch_from_rows(rows: PythonRows, fields: Sequence[Field] = ()) -> pa.RecordBatch:
    """Return a batch of Python values, checked by the policy of the service.

    They are a list of rows, each a mapping from column to value (a key that a row lacks is a null); or a mapping from
    column to its values, which may be a list, a numpy array or an Arrow array. The fields are the inputs of a
    signature; empty for columns of any name, as values of any type. The batch has the types of `fields_schema`, in
    their order, without optional columns that no row has.

    Raises InvalidInput with every violation, such as that of `columns["alcohol"][17]`.
    """
    violations = Violations()
    columns, count = _columns_of(rows)
    layout = Layout(tuple(fields) or any_fields(columns))
    for name in columns:
        if name not in layout.by_name:
            violations.add(column_path(name), violation.UNKNOWN_COLUMN)
    arrays, present = [], []
    for place, field in enumerate(layout.fields):
        path = column_path(field.name)
        if field.name in columns:
            values = columns[field.name]
            if len(values) != count:
                violations.add(path, f"has {len(values)} values, but the first column has {count}")
            arrays.append(_column(values, field, path, violations))
            present.append(place)
        elif field.required:
            violations.add(path, violation.MISSING_COLUMN)
    violations.raise_any()
    return record_batch(arrays, layout.schema_of(present), count)


def _columns_of(rows: PythonRows) -> tuple[dict[str, Any], int]:
    if isinstance(rows, Mapping):
        columns = {str(name): values for name, values in rows.items()}
        return columns, len(next(iter(columns.values()))) if columns else 0
    names = dict.fromkeys(name for row in rows for name in row)
    return {str(name): [row.get(name) for row in rows] for name in names}, len(rows)


def _column(values: Any, field: Field, path: str, violations: Violations) -> pa.Array:
    if not isinstance(field.type, AnyValue):
        if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf":
            values = pa.array(values)
        if isinstance(values, pa.Array | pa.ChunkedArray):
            return coerce(values, field.type, field.required, path, violations)
    values = python_values(values) if isinstance(values, pa.Array) else values
    return coerce_values(values, field.type, field.required, path, violations)


def batch_to_rows(batch: pa.RecordBatch) -> list[dict[str, object]]:
    """Return a dict for each row of a batch with the metadata that `arrow_field` returns.

    Its values are bool, int, float, str, bytes, `datetime` without a zone (or OverflowError), list, dict, or None; a
    value of any type is what its JSON text holds.
    """
    if batch.num_columns == 0:
        return [{} for _ in range(batch.num_rows)]
    held = zip(batch.columns, batch.schema, strict=True)
    columns = [[to_python(value) for value in python_values(array, field)] for array, field in held]
    names = batch.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def decode_params(
    params: Mapping[str, value_pb2.Value], signature: Signature, bounds: ReadBounds | None = None
) -> dict[str, object]:
    """Check the parameters of a call; those that are left out have their default.

    Each is a bool, int, float, str, `datetime` without a zone, a list of those, or a dict for an object; None where
    that is the default. One of type `float` is not rounded to float32; only its range is checked.

    Raises InvalidInput with every violation, such as that of `params["temperature"]`. A null is one, unless it is the
    default or its type is `any`. Raises as `bounds` do, too.
    """
    if len(params) > max(MAX_PARAMS, len(signature.params)):
        raise refusal("params", f"has more than {MAX_PARAMS} entries")
    violations = Violations(bounds)
    given: dict[str, object] = {}
    for name in params:
        violations.bounds.take(NESTED * params[name].ByteSize())
        try:
            given[name] = from_value(params[name])
        except TooDeep as exc:
            violations.add(_param_path(name), str(exc))
    checked = _check_params(given, signature, violations)
    return {param.name: checked.get(param.name, param.default) for param in signature.params}


def encode_params(params: Mapping[str, object], signature: Signature) -> dict[str, value_pb2.Value]:
    """Write the given parameters of a call, Python values as in rows, checked by the policy of `decode_params`."""
    checked = _check_params({str(name): value for name, value in params.items()}, signature, Violations())
    return {name: to_value(value) for name, value in checked.items()}


def _check_params(given: Mapping[str, object], signature: Signature, violations: Violations) -> dict[str, object]:
    by_name = {param.name: param for param in signature.params}
    checked = {}
    for name, value in given.items():
        if name in by_name:
            checked[name] = _check_param(value, by_name[name], violations)
        else:
            violations.add(_param_path(name), "is not a parameter of this model")
    violations.raise_any()
    return checked


def _param_path(name: str) -> str:
    return f"params[{quoted(name)}]"


def _check_param(given: object, param: Param, violations: Violations) -> object:
    path = _param_path(param.name)
    try:
        value = plain_tree(given)
    except BadValue as exc:
        violations.add(path, str(exc))
        return None
    if value is None and param.default is None:
        return None
    # MLflow's `_enforce_params_schema` passes a None of any scalar type to the model as it is. A model that declares a
    # number computes with it and fails; NaN, which pandas makes of it in a column, would be another value than given.
    coercer = ValueCoercer(path, violations, floats_and_text_take_null=False)
    # Floats are doubles, which Python's floats are.
    wide = Scalar(ScalarKind.DOUBLE) if param.type == Scalar(ScalarKind.FLOAT) else param.type
    if param.shape is None:
        return _param_value(coercer.coerce(value, wide, True), param.type, path, violations)
    if not isinstance(value, list):
        wrong = violation.WRONG_TYPE.format(value_name(value), "list")
        violations.add(path, violation.NULL if value is None else wrong)
        return None
    coerced = (coercer.coerce(one, wide, True, index) for index, one in enumerate(value))
    return [_param_value(one, param.type, f"{path}[{index}]", violations) for index, one in enumerate(coerced)]


def _param_value(value: object, type: Type, path: str, violations: Violations) -> object:
    if type == Scalar(ScalarKind.FLOAT) and isinstance(value, float) and _FLOAT_LIMIT <= abs(value) < math.inf:
        violations.add(path, violation.OUT_OF_RANGE.format("float"))
        return None
    try:
        return _coerced_to_python(value, type)
    except OverflowError:
        violations.add(path, "is a date and time outside the years 1 to 9999")
        return None


def _coerced_to_python(value: object, type: Type) -> object:
    """Bring what `ValueCoercer.coerce` returned to plain Python; raises OverflowError as `Micros.datetime` does."""
    match type, value:
        case Scalar(ScalarKind.DATETIME), int():
            return Micros(value).datetime()
        case ListOf(items), list():
            return [_coerced_to_python(one, items) for one in value]
        case MapOf(values), list():
            return {key: _coerced_to_python(one, values) for key, one in value}
        case Record(fields), dict():
            held = [(one, value[one.name]) for one in fields if one.name in value]
            return {one.name: _coerced_to_python(it if one.required else it[VALUE], one.type) for one, it in held}
        case AnyValue(), str():
            return from_json(value)
        case _:
            return value
