"""A checked record batch as the JSON that MLflow's `/invocations` takes: the least that tests need."""

from __future__ import annotations

import base64
import math
from typing import Any

import pyarrow as pa

from prinz_enricher.batch.python_values import python_values
from prinz_enricher.ipc.fields import tensor_type
from prinz_enricher.signature import Micros


def request_of(batch: pa.RecordBatch) -> dict[str, Any]:
    """Write a batch as a request: tensors as `inputs`, all else as `dataframe_split`.

    Instants are ISO texts, binary is base64, and null is what is null or NaN. An infinity is written as Python's JSON
    does, and read so by the server.
    """
    columns = [
        [_plain(value) for value in python_values(column, field)]
        for field, column in zip(batch.schema, batch.columns, strict=True)
    ]
    if any(tensor_type(field) for field in batch.schema):
        return {"inputs": dict(zip(batch.schema.names, columns, strict=True))}
    rows = [list(row) for row in zip(*columns, strict=True)]
    return {"dataframe_split": {"columns": batch.schema.names, "data": rows}}


def _plain(value: Any) -> Any:
    match value:
        case Micros():
            # The server reads all instants of a column by the format of the first.
            return value.datetime().isoformat(timespec="microseconds")
        case bytes():
            return base64.b64encode(value).decode()
        case float() if math.isnan(value):
            return None
        case list():
            return [_plain(one) for one in value]
        case dict():
            return {name: _plain(one) for name, one in value.items()}
    return value
