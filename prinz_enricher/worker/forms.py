"""The form in which a model is made to take its rows: a DataFrame, or the form of its input example.

MLflow makes a DataFrame of whatever a column signature describes. A model that was logged with a list of texts or with
one dict was tried by its author on that, and may do something else with a DataFrame: iterate over the names of its
columns, say.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
import pyarrow as pa

from prinz_enricher.ipc.faults import InvalidRows

from .fields import TYPE_KEY
from .trial import UnfitModel
from .values import column_values


class Form(Enum):
    """What a model takes."""

    FRAME = "a DataFrame"
    ARRAY = "an array"
    LIST = "a list of values"
    RECORDS = "a list of dicts"
    DICT = "one dict"
    VALUE = "one value"

    @property
    def single(self) -> bool:
        """Whether it has place for one row only."""
        return self in (Form.DICT, Form.VALUE)


_FRAME_LOADERS = frozenset(
    f"mlflow.{name}"
    for name in (
        *("sklearn", "xgboost", "lightgbm", "catboost", "h2o", "statsmodels", "prophet", "spark", "shap", "spacy"),
        *("onnx", "pytorch", "tensorflow", "keras", "paddle"),
    )
)
"""Flavours whose predict takes a DataFrame, as MLflow documents it."""

_NO_FORM = (
    "it has no signature and no input example, so that it is not known whether it takes a DataFrame; log it with an"
    " input example, or with a signature"
)


def form_of_example(example_type: str, example: Any) -> Form:
    """Return the form of an input example.

    Args:
        example_type: What MLflow says of it: `dataframe`, `ndarray`, `json_object`, `sparse_matrix_csr` or the like.
        example: The example itself.
    """
    if example_type == "dataframe":
        return Form.FRAME
    if example_type != "json_object":
        return Form.ARRAY
    if isinstance(example, dict):
        return Form.DICT
    if isinstance(example, list):
        return Form.RECORDS if example and all(isinstance(row, dict) for row in example) else Form.LIST
    return Form.VALUE


def undeclared_form(loader: str, example: Form | None) -> Form:
    """Return the form that a model without an input signature takes.

    Args:
        loader: The module that loads it.
        example: The form of its example; None where it has none.

    Raises:
        UnfitModel: It is not known.
    """
    if example is not None:
        return example
    if loader in _FRAME_LOADERS:
        return Form.FRAME
    raise UnfitModel(_NO_FORM)


def shaped(form: Form, batch: pa.RecordBatch, fields: dict[str, pa.Field], like: Any = None) -> Any:
    """Return rows in a form other than a DataFrame, as Python's own values.

    Args:
        form: LIST, RECORDS, ARRAY, or with one row DICT or VALUE.
        batch: The rows.
        fields: The field of each declared column; a column without one holds JSON.
        like: The example; of an array it tells the dtype, and the shape of a row.

    Raises:
        InvalidRows: The columns do not fit the form.
    """
    columns = {
        name: [bare(value) for value in column_values(column, fields.get(name, _JSON))]
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    if form in (Form.RECORDS, Form.DICT):
        rows: list[Any] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    elif len(columns) == 1:
        [rows] = columns.values()
    else:
        raise InvalidRows(f"the model takes {form.value}, by its input example: send one column, whose values it gets")
    if form.single:
        return rows[0]
    return _array_like(rows, np.asarray(like)) if form is Form.ARRAY else rows


def _array_like(rows: list[Any], like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # Texts may be longer than those of the example.
    dtype = like.dtype.type if like.dtype.kind in "US" else like.dtype
    try:
        array = np.array(rows, dtype=dtype)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    if array.shape != (len(rows), *like.shape[1:]) or not _holds(array.tolist(), rows):
        shape = f" of the shape {like.shape[1:]}" if like.ndim > 1 else ""
        raise InvalidRows(f"the model takes an array, by its input example: send {like.dtype.name} values{shape} a row")
    return array


def _holds(held: Any, given: Any) -> bool:
    """Tell whether an array has the values that were given, each unchanged: to Python 1 is True, and NaN is not NaN."""
    if isinstance(given, list):
        return isinstance(held, list) and all(map(_holds, held, given))
    both_nan = held != held and given != given  # noqa: PLR0124 - that is what tells a NaN
    return isinstance(held, bool) == isinstance(given, bool) and bool(held == given or both_nan)


_JSON = pa.field("", pa.utf8(), metadata={TYPE_KEY: b"any"})


def bare(value: Any) -> Any:
    """Return a value with Python's own in the place of numpy's and pandas', which is what strict type hints accept."""
    if isinstance(value, dict):
        return {name: bare(one) for name, one in value.items()}
    if isinstance(value, list):
        return [bare(one) for one in value]
    if hasattr(value, "to_pydatetime"):
        return value.to_pydatetime()
    return value.tolist() if hasattr(value, "tolist") else value
