"""The forms of rows, distinguished by their values alone, never by the model's signature."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from prinz_enricher.batch import Violations, batch_from_rows
from prinz_enricher.batch.violation import column_path
from prinz_enricher.signature import Signature


class DataFrame(Protocol):
    """A `pandas.DataFrame`, which this package does not import."""

    @property
    def columns(self) -> Any:
        """Names of the columns."""

    @property
    def dtypes(self) -> Any:
        """Types of the columns."""


Rows: TypeAlias = Sequence[Mapping[str, object]] | Mapping[str, object] | DataFrame | pa.RecordBatch | pa.Table
"""Rows to score: a list of records, one record, columns of values, a `pandas.DataFrame`, or Arrow.

A mapping whose every value is a column (a list, a tuple, a numpy array, an Arrow array, a pandas Series, …) is columns;
any other mapping is one record. Text, bytes and mappings are not columns. A record of lists alone must be in a list:
`[record]`.
"""


def one_record(rows: Rows) -> Mapping[str, object] | None:
    """Return the record of a single row; None where the rows are of another form, or not just one."""
    if isinstance(rows, list | tuple):
        record = rows[0] if len(rows) == 1 else None
        return record if isinstance(record, Mapping) else None
    return rows if isinstance(rows, Mapping) and not is_columns(rows) else None


def is_columns(rows: Mapping[str, object]) -> bool:
    """Return whether a mapping is columns; an empty one is, of no rows."""
    for value in rows.values():  # noqa: SIM110 - a generator costs more than the loop
        # The first value decides most calls, by its type alone.
        if value.__class__ in _NO_COLUMNS or not _is_column(value):
            return False
    return True


_NO_COLUMNS: Final = frozenset({float, int, str, bool, bytes, dict, type(None)})


def _is_column(value: object) -> bool:
    if value is None or isinstance(value, float | int | str | bytes | bytearray | memoryview | Mapping | pa.Scalar):
        return False
    return value.ndim > 0 if isinstance(value, np.ndarray) else hasattr(value, "__len__")


def to_batch(rows: Rows, signature: Signature) -> pa.RecordBatch:
    """Return rows of any form as a batch; all but Arrow's own are checked against the signature.

    Raises:
        InvalidInput: All violations, such as of `columns["alcohol"][17]`.
    """
    if isinstance(rows, pa.RecordBatch):
        return rows
    if isinstance(rows, pa.Table):
        return one_batch(rows)
    pandas = sys.modules.get("pandas")
    if pandas is not None:
        if isinstance(rows, pandas.DataFrame):
            rows = _columns_of(rows)
        elif isinstance(rows, Mapping):
            rows = {
                name: _from_pandas(values) if isinstance(values, pandas.Series) else values
                for name, values in rows.items()
            }
    if isinstance(rows, Mapping) and not is_columns(rows):
        rows = [rows]
    return batch_from_rows(rows, signature.inputs)  # type: ignore[arg-type]  # a list of records


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """Return the batches of a table as one."""
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)


def _columns_of(frame: Any) -> dict[str, Any]:
    """Return the columns of a pandas.DataFrame; its index is none."""
    faults = Violations()
    columns: dict[str, Any] = {}
    for place, name in enumerate(map(str, frame.columns)):
        if name in columns:
            faults.add(column_path(name), "is there twice")
        columns[name] = _from_pandas(frame.iloc[:, place])
    faults.raise_any()
    return columns


def _from_pandas(series: Any) -> Any:
    """Return a pandas.Series as a column, with nulls for what pandas calls missing, NaN among text too."""
    try:
        array = pa.Array.from_pandas(series)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        # Mixed types: value by value.
        array = None
    # Objects too, since Arrow would lose which properties they lack.
    if array is None or (series.dtype == object and pa.types.is_nested(array.type)):
        return [None if missing else value for value, missing in zip(series, series.isna(), strict=True)]
    return array
