"""Batches of a few rows, made of values that need no check any more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.batch.layout import Layout


def rows_of_doubles(layout: Layout, values: npt.NDArray[np.float64]) -> pa.RecordBatch:
    """Make a batch of doubles.

    Args:
        layout: All of whose columns are doubles.
        values: Of shape (rows, columns).

    Returns:
        Its rows; nothing is shared with the values.
    """
    return layout.doubles.batch(values)


def few_rows(layout: Layout, rows: Sequence[Sequence[object]]) -> pa.RecordBatch:
    """Make a batch of rows as `one_row_values` gives them.

    Args:
        layout: With a `one_row`.
        rows: One or more rows, each with a value for every column.

    Returns:
        Its rows.
    """
    if len(rows) == 1 and layout.one_row is not None and (batch := layout.one_row.batch(rows[0])) is not None:
        return batch
    if layout.all_doubles:
        return rows_of_doubles(layout, np.array(rows, np.float64))
    arrays = [pa.array(values, type) for values, type in zip(zip(*rows, strict=True), layout.schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=layout.schema)
