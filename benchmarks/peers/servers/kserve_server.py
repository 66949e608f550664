"""KServe's Python server with the sample models: `kserve_server.py MODELS --grpc_port N --http_port N ...`."""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Served(Model):
    """A model of MLflow behind the Open Inference Protocol."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self._model = mlflow.pyfunc.load_model(str(folder))
        self.ready = True

    def predict(self, payload: InferRequest, headers: dict | None = None, response_headers: dict | None = None):  # noqa: ANN201 - KServe's own signature
        """Score the rows of one request."""
        # Quicker than its own as_dataframe(), which makes a frame of each column and joins them.
        columns = {}
        for column in payload.inputs:
            values = column.as_numpy()
            texts = column.datatype == "BYTES"
            columns[column.name] = [str(value, "utf-8") for value in values] if texts else values
        scores = np.asarray(self._model.predict(pd.DataFrame(columns)), dtype="float64")
        output = InferOutput("scores", list(scores.shape), "FP64")
        output.set_data_from_numpy(scores, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


if __name__ == "__main__":
    # KServe has read the command line when it was imported, and left what it did not know.
    models = Path(sys.argv[1])
    ModelServer().start([Served(name, models / name) for name in ("wine", "fraud")])
