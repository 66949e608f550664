"""Rows to try a model with at load: its input example, or rows made from its signature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from .fields import is_any

_MOST_ROWS = 16


def example_batch(pyfunc: Any, folder: str, declared: Any, inputs: pa.Schema) -> pa.RecordBatch | None:
    """Give a model's input example as a record batch; None where it has none.

    Args:
        pyfunc: The loaded model.
        folder: Its local folder.
        declared: MLflow's schema of its inputs.
        inputs: The same as an Arrow schema.

    Raises:
        Exception: The example does not fit the signature.
    """
    from mlflow.models.utils import _enforce_schema

    # MLflow 3 has it at hand.
    example = getattr(pyfunc, "input_example", None)
    if example is None:
        example = pyfunc.metadata.load_input_example(folder)
    if example is None:
        return None
    frame = _enforce_schema(example, declared)
    if not isinstance(frame, pd.DataFrame):
        return None
    frame = frame.head(_MOST_ROWS)
    names = list(declared.input_names()) if declared.has_input_names() else list(frame.columns)
    arrays, fields = [], []
    for name, field in zip(names, inputs, strict=True):
        if name in frame.columns:
            values = frame[name].tolist()
            if is_any(field):
                return None
            arrays.append(pa.array([_plain(value) for value in values], field.type, from_pandas=True))
            fields.append(field)
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _plain(value: Any) -> Any:
    """Give numpy's arrays and scalars as Python's values, which Arrow takes at any depth."""
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value.tolist()]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) and not isinstance(value, np.datetime64) else value
