"""The rows of the calls of a pool: made from the signature, or taken from a file."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from prinz_enricher.batch import Faults, conform
from prinz_enricher.loadtest.errors import LoadTestError
from prinz_enricher.loadtest.made_rows import make_rows
from prinz_enricher.loadtest.prepared import pool_size
from prinz_enricher.signature import Signature


def made_pool(signature: Signature, rows: int, seed: int) -> list[pa.RecordBatch]:
    """Make the rows of a pool's calls, of so many rows each.

    Raises:
        LoadTestError: The signature declares no inputs.
    """
    return cut(make_rows(signature, pool_size(rows) * rows, seed), rows)


def read_pool(batches: Iterable[pa.RecordBatch], signature: Signature, rows: int) -> list[pa.RecordBatch]:
    """Take the rows of a pool's calls from a file; what is not needed of it is not read.

    Args:
        batches: The file, in parts.
        signature: Of the model; columns that are none of its inputs are left out.
        rows: Of each call. A file of fewer is gone through again and again.

    Raises:
        LoadTestError: The file has no rows.
        InvalidInput: Rows do not fit the signature.
    """
    wanted = pool_size(rows) * rows
    parts: list[pa.RecordBatch] = []
    for batch in batches:
        parts.append(batch)
        wanted -= batch.num_rows
        if wanted <= 0:
            break
    table = pa.Table.from_batches(parts) if parts else None
    if table is None or not table.num_rows:
        raise LoadTestError("the file has no rows")
    if not signature.inputs:
        return cut(table.combine_chunks().to_batches()[0], rows)
    table = table.select([field.name for field in signature.inputs if field.name in table.schema.names])
    faults = Faults()
    fitting = conform(table, signature.inputs, faults)
    faults.raise_any()
    return cut(fitting, rows)


def cut(batch: pa.RecordBatch, rows: int) -> list[pa.RecordBatch]:
    """Cut a batch into calls of so many rows; the last one is filled up from the beginning.

    Args:
        batch: At least one row.
        rows: Of each call.

    Returns:
        At least one call, and at most `pool_size(rows)`.
    """
    calls = min(pool_size(rows), math.ceil(batch.num_rows / rows))
    if calls * rows > batch.num_rows:
        batch = batch.take(pa.array(np.arange(calls * rows) % batch.num_rows))
    return [batch.slice(start, rows) for start in range(0, calls * rows, rows)]
