"""A model that answers each row with a text of what it was given: MLflow reads it from this file.

Two ways to the same model hand over the same input exactly where the texts are equal: the dtype of each column, and of
each value its type and `repr`, so that None and NaN, 1 and 1.0, 0.0 and -0.0 all differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


def text(value: Any) -> str:
    """Write a value with the types of all its parts."""
    if isinstance(value, dict):
        # A record's properties have no order.
        return "{" + ", ".join(f"{key!r}: {text(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text, value)) + "]"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {text(value.tolist())}"
    return f"{type(value).__name__} {value!r}"


def rows(given: Any) -> list[str]:
    """Write each row of a frame, an array or a dict of arrays."""
    if isinstance(given, pd.DataFrame):
        named = [(name, str(given[name].dtype), given[name].tolist()) for name in given.columns]
        return [
            "; ".join(f"{name!r} {dtype} {text(values[row])}" for name, dtype, values in named)
            for row in range(len(given))
        ]
    if isinstance(given, dict):
        several = [[f"{name!r} {line}" for line in rows(array)] for name, array in given.items()]
        return ["; ".join(lines) for lines in zip(*several, strict=True)]
    return [f"{given.dtype} {text(row if isinstance(row, np.ndarray) else row.item())}" for row in given]


class Echo(PythonModel):
    """Answers with what it sees."""

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - MLflow would take hints for the signature
        """Write each row as text."""
        return rows(model_input)


set_model(Echo())
