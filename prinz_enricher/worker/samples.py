"""Rows to try a model with at load: its input example, or rows made from its signature."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from .fields import is_any, is_nested
from .outputs import output_column

_MOST_ROWS = 16


def input_example(pyfunc: Any, folder: str) -> tuple[str, Any] | None:
    """Return a model's input example: what MLflow calls its type, and the example; None where it has none.

    Args:
        pyfunc: The loaded model.
        folder: Its local folder.
    """
    info = pyfunc.metadata.saved_input_example_info
    if not info:
        return None
    try:
        # MLflow 3 has it at hand.
        example = getattr(pyfunc, "input_example", None)
        if example is None:
            example = pyfunc.metadata.load_input_example(folder)
    except Exception:  # noqa: BLE001 - its file can be anything
        return None
    return None if example is None else (str(info.get("type")), example)


def example_batch(example: Any, declared: Any, inputs: pa.Schema) -> pa.RecordBatch | None:
    """Return an input example as a record batch; None where it has no such form.

    Args:
        example: As MLflow loads it.
        declared: MLflow's schema of the inputs; None where there is none.
        inputs: The same as an Arrow schema.

    Raises:
        Exception: The example does not fit the signature.
    """
    if declared is None:
        return _undeclared(example)
    from mlflow.models.utils import _enforce_schema

    frame = _enforce_schema(example, declared)
    if isinstance(frame, np.ndarray):
        frame = pd.DataFrame({0: list(frame)})
    elif isinstance(frame, dict):
        frame = pd.DataFrame({name: list(values) for name, values in frame.items()})
    frame = frame.head(_MOST_ROWS)
    names = list(declared.input_names()) if declared.has_input_names() else list(frame.columns)
    arrays, fields = [], []
    for name, field in zip(names, inputs, strict=True):
        if name in frame.columns:
            values = [_plain(value) for value in frame[name].tolist()]
            if is_any(field):
                values = [None if value is None else json.dumps(value) for value in values]
            if is_nested(field.type):
                arrays.append(output_column(values, field))
            else:
                arrays.append(pa.array(values, field.type, from_pandas=True))
            fields.append(field)
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _undeclared(example: Any) -> pa.RecordBatch | None:
    """Return an example as columns of JSON, for a model without an input signature."""
    if isinstance(example, pd.DataFrame):
        columns = {str(name): example[name].tolist() for name in example.columns}
    elif isinstance(example, dict):
        columns = {str(name): [value] for name, value in example.items()}
    elif isinstance(example, list) and example and all(isinstance(row, dict) for row in example):
        columns = {str(name): [row.get(name) for row in example] for name in example[0]}
    else:
        columns = {"input": list(example) if isinstance(example, list | np.ndarray) else [example]}
    arrays = [pa.array([json.dumps(_plain(value)) for value in values[:_MOST_ROWS]]) for values in columns.values()]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns)) if arrays else None


def _plain(value: Any) -> Any:
    """Give numpy's arrays and scalars as Python's values, at any depth."""
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value.tolist()]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) and not isinstance(value, np.datetime64) else value
