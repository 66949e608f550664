"""LitServe with the sample models: `litserve_server.py MODELS PORT BATCH_ROWS BATCH_SECONDS`."""

from __future__ import annotations

import sys
from pathlib import Path

import litserve
import mlflow
import numpy as np
import pandas as pd


class Served(litserve.LitAPI):
    """A model of MLflow; a request is a list of rows."""

    def __init__(self, name: str, folder: Path, batch_rows: int, batch_seconds: float) -> None:
        super().__init__(max_batch_size=batch_rows, batch_timeout=batch_seconds, api_path=f"/{name}")
        self._folder = folder

    def setup(self, device: str) -> None:
        """Load the model, in the process that scores."""
        self._model = mlflow.pyfunc.load_model(str(self._folder))
        schema = self._model.metadata.get_input_schema()
        self._columns = schema.input_names()
        self._numbers = all(column.type.name == "double" for column in schema.inputs)

    def decode_request(self, request: dict) -> pd.DataFrame:
        """Return the rows of a request."""
        rows = request["rows"]
        # An array first where all are numbers: much quicker than a frame out of lists.
        return pd.DataFrame(np.asarray(rows, "float64") if self._numbers else rows, columns=self._columns)

    def batch(self, inputs: list[pd.DataFrame]) -> tuple[list[int], pd.DataFrame]:
        """Put the rows of several requests together."""
        return [len(rows) for rows in inputs], inputs[0] if len(inputs) == 1 else pd.concat(inputs, ignore_index=True)

    def predict(self, batch: tuple[list[int], pd.DataFrame]) -> tuple[list[int], np.ndarray]:
        """Score them."""
        counts, rows = batch
        return counts, np.asarray(self._model.predict(rows))

    def unbatch(self, output: tuple[list[int], np.ndarray]) -> list[np.ndarray]:
        """Return the scores of each request."""
        counts, scores = output
        return np.split(scores, np.cumsum(counts)[:-1])

    def encode_response(self, output: np.ndarray) -> dict:
        """Answer a request."""
        return {"scores": output.tolist()}


if __name__ == "__main__":
    models, port, rows, seconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    apis = [Served(name, models / name, rows, seconds) for name in ("wine", "fraud")]
    server = litserve.LitServer(apis, accelerator="cpu", timeout=300)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning", access_log=False)
