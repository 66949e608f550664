"""Rows as Python values into record batches, and back: what the Python client takes and gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from prinz_enricher.batch.coerce import coerce
from prinz_enricher.batch.columns import any_fields
from prinz_enricher.batch.faults import Faults, column_path
from prinz_enricher.batch.layout import Layout, record_batch
from prinz_enricher.batch.nested import admitted_array
from prinz_enricher.batch.python_values import python_values
from prinz_enricher.signature import AnyValue, Field, Micros

Rows = Sequence[Mapping[str, object]] | Mapping[str, Any]


def batch_from_rows(rows: Rows, fields: Sequence[Field] = ()) -> pa.RecordBatch:
    """Make a batch of Python values, checked by the policy of the service.

    Args:
        rows: A list of rows, each a mapping from column to value; or a mapping from column to its values, which may be
            a list, a numpy array or an Arrow array. In a list of rows, a key that a row lacks is a null.
        fields: The inputs of a signature; empty for columns of any name, as values of any type.

    Returns:
        The columns in the order of the fields and with exactly the types of `fields_schema`; an optional column that no
        row has is left out.

    Raises:
        InvalidInput: With every fault, such as `columns["alcohol"][17]`.
    """
    faults = Faults()
    columns, count = _columns_of(rows)
    wanted = tuple(fields) or any_fields(columns)
    layout = Layout(wanted)
    for name in columns:
        if name not in layout.by_name:
            faults.add(column_path(name), "is no column of this model")
    arrays, present = [], []
    for place, field in enumerate(wanted):
        path = column_path(field.name)
        if field.name in columns:
            values = columns[field.name]
            if len(values) != count:
                faults.add(path, f"has {len(values)} values, but the first column has {count}")
            arrays.append(_array(values, field, path, faults))
            present.append(place)
        elif field.required:
            faults.add(path, "is missing, but the column is required")
    faults.raise_any()
    return record_batch(arrays, layout.schema_of(present), count)


def _columns_of(rows: Rows) -> tuple[dict[str, Any], int]:
    if isinstance(rows, Mapping):
        columns = {str(name): values for name, values in rows.items()}
        return columns, len(next(iter(columns.values()))) if columns else 0
    names = dict.fromkeys(name for row in rows for name in row)
    return {str(name): [row.get(name) for row in rows] for name in names}, len(rows)


def _array(values: Any, field: Field, path: str, faults: Faults) -> pa.Array:
    if not isinstance(field.type, AnyValue):
        if isinstance(values, pa.Array | pa.ChunkedArray):
            return coerce(values, field.type, field.required, path, faults)
        if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf":
            return coerce(pa.array(values), field.type, field.required, path, faults)
    return admitted_array(_iterable(values), field.type, field.required, path, faults)


def _iterable(values: Any) -> Iterable[object]:
    return python_values(values) if isinstance(values, pa.Array) else values


def batch_to_rows(batch: pa.RecordBatch) -> list[dict[str, object]]:
    """Read a batch as Python values.

    Args:
        batch: With the metadata that `arrow_field` gives.

    Returns:
        A dict for each row: bool, int, float, str, bytes, `datetime` without a zone, list, dict, or None. What JSON
        text holds for a value of any type.

    Raises:
        OverflowError: An instant is outside the range of `datetime`.
    """
    if batch.num_columns == 0:
        return [{} for _ in range(batch.num_rows)]
    columns = [
        [_python(value) for value in python_values(array, field)]
        for field, array in zip(batch.schema, batch.columns, strict=True)
    ]
    names = batch.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _python(value: object) -> object:
    match value:
        case Micros():
            return value.datetime()
        case list():
            return [_python(one) for one in value]
        case dict():
            return {key: _python(one) for key, one in value.items()}
        case _:
            return value
