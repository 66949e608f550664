"""A model's input example: rows to try the model with, and the form in which it takes its rows.

MLflow makes a DataFrame of whatever a column signature describes. A model that was logged with a list of texts or with
one dict was tried by its author on that, and may do something else with a DataFrame: iterate over the names of its
columns, say.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from prinz_enricher.ipc.faults import InvalidRows
from prinz_enricher.ipc.fields import JSON, is_any, is_nested

from .model_inputs import column_values
from .model_outputs import output_column
from .trial import UnfitModel

_MOST_ROWS = 16


class InputForm(Enum):
    """What a model takes."""

    FRAME = "a DataFrame"
    ARRAY = "an array"
    LIST = "a list of values"
    RECORDS = "a list of dicts"
    DICT = "one dict"
    VALUE = "one value"

    @property
    def single(self) -> bool:
        """Whether it holds one row only."""
        return self in (InputForm.DICT, InputForm.VALUE)


# Flavours whose predict takes a DataFrame, as MLflow documents it.
_FRAME_FLAVOURS = (
    *("sklearn", "xgboost", "lightgbm", "catboost", "h2o", "statsmodels", "prophet", "spark", "shap", "spacy"),
    *("onnx", "pytorch", "tensorflow", "keras", "paddle"),
)


def input_example(pyfunc: Any, folder: str) -> tuple[InputForm, Any] | None:
    """Return the form of a loaded model's input example, and the example; None where the model has none."""
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
    return None if example is None else (_form_of(str(info.get("type")), example), example)


def _form_of(example_type: str, example: Any) -> InputForm:
    """Return the form of an example, by MLflow's type: `dataframe`, `json_object`, `ndarray`, `sparse_matrix_csr`."""
    if example_type == "dataframe":
        return InputForm.FRAME
    if example_type != "json_object":
        return InputForm.ARRAY
    if isinstance(example, dict):
        return InputForm.DICT
    if isinstance(example, list):
        return InputForm.RECORDS if example and all(isinstance(row, dict) for row in example) else InputForm.LIST
    return InputForm.VALUE


def undeclared_form(loader: str, example: InputForm | None) -> InputForm:
    """Return what a model without an input signature takes, by its loader and its example, or raise UnfitModel."""
    if example is not None:
        return example
    if loader in {f"mlflow.{flavour}" for flavour in _FRAME_FLAVOURS}:
        return InputForm.FRAME
    raise UnfitModel(
        "it has no signature and no input example, so that it is not known whether it takes a DataFrame; log it with an"
        " input example, or with a signature"
    )


def shaped(form: InputForm, batch: pa.RecordBatch, schema: pa.Schema, like: Any) -> Any:
    """Return rows in a form other than a DataFrame, as Python's own values; of a form for one row, the first.

    A column that is not declared in the schema holds JSON. An array has the dtype of the example, and its shape of a
    row. Raises InvalidRows where the columns do not fit the form.
    """
    fields = {field.name: field for field in schema}
    columns = {
        name: [bare(value) for value in column_values(column, fields.get(name, JSON))]
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    if form in (InputForm.RECORDS, InputForm.DICT):
        rows: list[Any] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    elif len(columns) == 1:
        [rows] = columns.values()
    else:
        raise InvalidRows(f"the model takes {form.value}, by its input example: send one column, whose values it gets")
    if form.single:
        return rows[0]
    return _array_like(rows, np.asarray(like)) if form is InputForm.ARRAY else rows


def _array_like(rows: list[Any], like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # Texts may be longer than those of the example.
    dtype = like.dtype.type if like.dtype.kind in "US" else like.dtype
    try:
        array = np.array(rows, dtype=dtype)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    if array.shape != (len(rows), *like.shape[1:]) or not _is_same(array.tolist(), rows):
        shape = f" of the shape {like.shape[1:]}" if like.ndim > 1 else ""
        raise InvalidRows(f"the model takes an array, by its input example: send {like.dtype.name} values{shape} a row")
    return array


def _is_same(held: Any, given: Any) -> bool:
    """Return whether an array holds values unchanged: to Python 1 equals True, and NaN does not equal NaN."""
    if isinstance(given, list):
        return isinstance(held, list) and all(map(_is_same, held, given))
    both_nan = held != held and given != given  # noqa: PLR0124 - only a NaN differs from itself
    return isinstance(held, bool) == isinstance(given, bool) and bool(held == given or both_nan)


def bare(value: Any) -> Any:
    """Return a value with Python's own in place of numpy's and pandas', which is what strict type hints accept."""
    if isinstance(value, dict):
        return {name: bare(one) for name, one in value.items()}
    if isinstance(value, list):
        return [bare(one) for one in value]
    if hasattr(value, "to_pydatetime"):
        return value.to_pydatetime()
    return value.tolist() if hasattr(value, "tolist") else value


def example_batch(example: Any, declared: Any, inputs: pa.Schema) -> pa.RecordBatch | None:
    """Return an input example, as MLflow loads it, as a record batch; None where it has no such form.

    `declared` is MLflow's schema of the inputs, None where there is none; `inputs` is the same as an Arrow schema.
    Raises whatever MLflow or Arrow raise where the example does not fit.
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
            nested = is_nested(field.type)
            arrays.append(output_column(values, field) if nested else pa.array(values, field.type, from_pandas=True))
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
    """Return numpy's arrays and scalars as Python's values, at any depth, but for times."""
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value.tolist()]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) and not isinstance(value, np.datetime64) else value
