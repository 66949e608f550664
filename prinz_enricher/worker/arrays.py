"""Which models may be given the bare array of a frame: scikit-learn's own, for which the two are the same.

An estimator of scikit-learn turns a frame of numbers of one type into an array before anything else; what it does more
with a frame is to compare the names of the columns with those it was fitted with, each time anew. That costs several
times as much as a small model's prediction. Here the names are compared once.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

_LOADER = "mlflow.sklearn"

_READ_NAMES = frozenset({"ColumnTransformer", "FunctionTransformer"})
"""Of scikit-learn's own, what chooses columns by name, or runs the code of others."""

_DATA = frozenset({"builtins", "numpy", "scipy"})
"""Whose objects that can't be called are data."""


def takes_array(pyfunc: Any, inputs: pa.Schema, names: Sequence[str | int]) -> Any:
    """Give the estimator of a model that predicts the same from the bare array of its frame.

    Args:
        pyfunc: The model, as MLflow loaded it.
        inputs: The schema of its batches.
        names: The columns' names as the model knows them.

    Returns:
        The estimator; None for any other model.
    """
    if len({*inputs.types}) != 1 or inputs.types[0] not in (pa.float64(), pa.float32()):
        return None
    flavour = pyfunc.metadata.flavors["python_function"]
    if flavour.get("loader_module") != _LOADER or flavour.get("predict_fn", "predict") != "predict":
        return None
    implementation = pyfunc._model_impl  # noqa: SLF001 - documented as a stable developer API
    estimator = getattr(implementation, "sklearn_model", None)
    if not hasattr(estimator, "get_params") or not _is_plain(estimator):
        return None
    fitted = getattr(estimator, "feature_names_in_", None)
    if fitted is not None and list(fitted) != list(names):
        return None
    # The names are compared by now.
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    return estimator


def _is_plain(value: Any) -> bool:
    """Tell whether an estimator, or a parameter of one, is scikit-learn's own or plain data, and looks at no names."""
    if isinstance(value, list | tuple | set | frozenset):
        # Such as the steps of a pipeline.
        return all(_is_plain(one) for one in value)
    if isinstance(value, dict):
        return all(_is_plain(one) for one in (*value, *value.values()))
    kind = type(value)
    if kind.__module__.startswith("sklearn."):
        return not hasattr(value, "get_params") or _is_plain_estimator(value)
    if isinstance(value, np.ndarray):
        return value.dtype != object or all(_is_plain(one) for one in value.flat)
    return value is None or (kind.__module__.partition(".")[0] in _DATA and not callable(value))


def _is_plain_estimator(estimator: Any) -> bool:
    if type(estimator).__name__ in _READ_NAMES:
        return False
    # What it was fitted to can hold others than its parameters: a search keeps the best one of its grid.
    fitted = vars(estimator)
    held = [value for value in fitted.values() if _holds_estimators(value)]
    # Code that was hung on it takes the place of its own.
    return not any(map(inspect.isroutine, fitted.values())) and all(
        map(_is_plain, (*estimator.get_params(deep=False).values(), *held))
    )


def _holds_estimators(value: Any) -> bool:
    """Tell whether what an estimator keeps is an estimator, or some of them."""
    if isinstance(value, dict):
        return any(_holds_estimators(one) for one in value.values())
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        return any(_holds_estimators(one) for one in (value.flat if isinstance(value, np.ndarray) else value))
    return hasattr(value, "get_params") or hasattr(value, "predict") or hasattr(value, "transform")
