"""A model that answers with a text of what it saw, and raises where it is told to: MLflow reads it from this file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

RAISE = "raise"
"""The text that it raises on."""


def text(value: Any) -> str:
    """Write a value with the types of all its parts; of what is missing, None or NaN, only that."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "missing"
    if isinstance(value, dict):
        # A record's properties have no order.
        return "{" + ", ".join(f"{key!r}: {text(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list | np.ndarray):
        return f"{type(value).__name__} [" + ", ".join(map(text, value)) + "]"
    return f"{type(value).__name__} {value!r}"


class Touchy(PythonModel):
    """Answers with what it sees."""

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - MLflow would take hints for the signature
        """Write each row as text."""
        if RAISE in set(model_input["a string"]):
            raise LookupError("hunter2 is the secret of this model")
        columns = [(name, model_input[name].tolist()) for name in model_input.columns]
        return ["; ".join(f"{name} {text(values[row])}" for name, values in columns) for row in range(len(model_input))]


set_model(Touchy())
