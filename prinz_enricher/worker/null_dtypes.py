"""Which dtypes a model takes columns of booleans and integers in that have nulls.

numpy has no such dtype. MLflow's enforcement leaves booleans as objects, with None, and pandas has dtypes of its own,
with NA; some flavours refuse the one or the other (XGBoost takes no objects). What pandas reads integers with gaps as,
and many models were trained with, are doubles with NaN. A model is shown the rows at load, in these dtypes by turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from .blocks import NullDtypes
from .frame import InputBuilder

_CANDIDATES = [
    NullDtypes(boolean, integer) for integer in ("nullable", "float64") for boolean in ("object", "nullable", "float64")
]
"""MLflow's own first, and integers as doubles last: those are exact up to 2^53 alone."""


def choose_null_dtype(
    builder: InputBuilder,
    predict: Callable[[pa.RecordBatch], Any],
    samples: Sequence[pa.RecordBatch],
    inputs: pa.Schema,
) -> None:
    """Set the first dtypes of columns with nulls that a model does not raise on; MLflow's own where it does on all.

    Args:
        builder: Of the model's input; its `null_dtypes` are set.
        predict: Has the model predict rows, built by the builder; raises what the model does.
        samples: Rows to try, the best first.
        inputs: The schema of the batches.
    """
    optional = [field for field in inputs if field.nullable and field.metadata is None and _has_dtypes(field.type)]
    if not optional:
        return
    has_booleans = any(pa.types.is_boolean(field.type) for field in optional)
    has_integers = any(pa.types.is_integer(field.type) for field in optional)
    candidates = [
        one
        for one in _CANDIDATES
        if (has_booleans or one.boolean == NullDtypes().boolean)
        and (has_integers or one.integer == NullDtypes().integer)
    ]
    for sample in samples:
        present = [field.name for field in optional if field.name in sample.schema.names]
        if len(present) < len(optional) or not _takes(predict, sample):
            continue
        rows = _with_nulls(sample, present)
        for builder.null_dtypes in candidates:
            if _takes(predict, rows) and _takes(predict, rows.slice(0, 1)):
                return
        builder.null_dtypes = NullDtypes()
        return


def _has_dtypes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind))


def _with_nulls(rows: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """Put nulls into the first row."""
    columns = [
        pa.array([None, *column.to_pylist()[1:]], column.type) if name in names else column
        for name, column in zip(rows.schema.names, rows.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def _takes(predict: Callable[[pa.RecordBatch], Any], rows: pa.RecordBatch) -> bool:
    try:
        predict(rows)
    except Exception:  # noqa: BLE001 - a model raises what it likes
        return False
    return True
