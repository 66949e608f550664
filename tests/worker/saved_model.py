"""A model that is saved with MLflow, and loaded as a worker does and as MLflow does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml

from prinz_enricher.signature import Signature, input_schema, output_schema, read_signature
from prinz_enricher.worker.loaded_model import LoadedModel

Save = Callable[..., "Saved"]


class Saved:
    """A saved model, loaded both ways."""

    def __init__(self, folder: Path) -> None:
        import mlflow

        written = yaml.safe_load((folder / "MLmodel").read_text())
        self.signature: Signature = read_signature(written)
        self.inputs = input_schema(self.signature)
        self.loaded = LoadedModel(str(folder), self.inputs, output_schema(self.signature))
        self.pyfunc = mlflow.pyfunc.load_model(str(folder))

    def batch(self, *columns: list[Any]) -> pa.RecordBatch:
        """Make a batch by the model's inputs."""
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self.inputs, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self.inputs)

    def score(self, *columns: list[Any], params: dict[str, Any] | None = None) -> list[Any]:
        """Score and give the first output."""
        return list(self.loaded.score(self.batch(*columns), params).column(0).to_pylist())


def signature_of(inputs: Any, outputs: Any = None, params: Any = None) -> Any:
    """Let MLflow infer a signature."""
    from mlflow.models import infer_signature

    return infer_signature(inputs, outputs, params)


def python_model(function: Callable[..., Any]) -> Any:
    """Make a PythonModel of a function of the input and the params."""
    from mlflow.pyfunc.model import PythonModel

    class Model(PythonModel):
        # MLflow would take hints for the signature.
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - as above
            return function(model_input, params)

    Model.__module__ = "__main__"
    return Model()


def declared(*outputs: tuple[str, str | None]) -> Any:
    """Make a signature of one double and some outputs."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec(*output) for output in outputs]))


def unsigned(save: Save, predict: Any, **options: Any) -> Saved:
    """Save a model without a signature."""
    return save("pyfunc", python_model(lambda data, _: predict(data)), signature=False, **options)


ONE = pd.DataFrame({"x": [1.0, 2.0]})
