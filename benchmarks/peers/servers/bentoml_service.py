"""BentoML with the sample models: `bentoml serve bentoml_service:Scoring`, the models in BENCH_MODELS."""

from __future__ import annotations

import os
from pathlib import Path

import bentoml
import mlflow
import numpy as np
import pandas as pd

_MODELS = Path(os.environ["BENCH_MODELS"])


@bentoml.service(workers=1, traffic={"timeout": 300, "concurrency": 4096}, metrics={"enabled": False})
class Scoring:
    """Both models in one worker, with BentoML's own batching as it is by default."""

    def __init__(self) -> None:
        self._wine = mlflow.pyfunc.load_model(str(_MODELS / "wine"))
        self._fraud = mlflow.pyfunc.load_model(str(_MODELS / "fraud"))
        self._columns = {
            name: model.metadata.get_input_schema().input_names() for name, model in self._models().items()
        }

    def _models(self) -> dict[str, mlflow.pyfunc.PyFuncModel]:
        return {"wine": self._wine, "fraud": self._fraud}

    @bentoml.api(batchable=True)
    def wine(self, rows: np.ndarray) -> np.ndarray:
        """Score rows of numbers."""
        return self._wine.predict(pd.DataFrame(rows, columns=self._columns["wine"], dtype="float64"))

    # With batching a large request is cut into batches of 100 rows.
    @bentoml.api
    def wine_many(self, rows: np.ndarray) -> np.ndarray:
        """Score many rows of numbers."""
        return self._wine.predict(pd.DataFrame(rows, columns=self._columns["wine"], dtype="float64"))

    @bentoml.api(batchable=True)
    def fraud(self, rows: list[list]) -> list[int]:
        """Score rows of texts and numbers."""
        return [int(score) for score in self._fraud.predict(pd.DataFrame(rows, columns=self._columns["fraud"]))]
