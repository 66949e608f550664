"""The models that everybody serves, from our own samples, and the rows that they are asked for."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

NAMES = {"wine": "MLF-ElasticnetWineModel-1", "fraud": "MLF-FraudDetection-3", "forest": "forest"}
"""The registered model behind each short name; the forest is the heavy one, and ours alone."""

TREES = 100


@dataclass(frozen=True)
class Models:
    """The models as folders, and rows with the scores that the models themselves give.

    Attributes:
        folder: A folder with MLflow's folder of each model, by its short name.
        frames: Rows to ask for.
        scores: What the model gave for them, loaded by MLflow in this process.
    """

    folder: Path
    frames: dict[str, pd.DataFrame]
    scores: dict[str, np.ndarray]

    def rows(self, model: str, count: int) -> pd.DataFrame:
        """Return so many rows; those that there are, again and again."""
        frame = self.frames[model]
        return frame.iloc[np.arange(count) % len(frame)].reset_index(drop=True)

    def expected(self, model: str, count: int) -> np.ndarray:
        """Return the scores of these rows."""
        scores = self.scores[model]
        return scores[np.arange(count) % len(scores)]


def make(registry: str, folder: Path) -> Models:
    """Train, register and fetch the models.

    Args:
        registry: URL of an MLflow server that runs.
        folder: Where the models' folders are put.
    """
    # Its telemetry changes the environment from a thread of its own, on which requests stumble.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    import mlflow
    from mlflow.models import infer_signature
    from sklearn.ensemble import RandomForestRegressor

    from samples import fraud, wine
    from samples.train import train

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    train(registry)
    data = wine.make_wine()
    inputs, labels = data[list(wine.COLUMNS)], data[wine.TARGET]
    # One thread: what is to be shown is what a second worker brings.
    forest = RandomForestRegressor(TREES, n_jobs=1, random_state=wine.SEED).fit(inputs, labels)
    mlflow.sklearn.log_model(
        forest,
        name="model",
        signature=infer_signature(inputs, forest.predict(inputs)),
        registered_model_name=NAMES["forest"],
        pip_requirements=["mlflow", "scikit-learn"],
        serialization_format="cloudpickle",
    )
    frames = {"wine": inputs, "forest": inputs, "fraud": fraud.make_fraud(2_000)[list(fraud.COLUMNS)]}
    scores = {}
    for short, name in NAMES.items():
        path = folder / short
        mlflow.artifacts.download_artifacts(f"models:/{name}/1", dst_path=str(path))
        scores[short] = np.asarray(mlflow.pyfunc.load_model(str(path)).predict(frames[short]), dtype="float64")
    return Models(folder, frames, scores)
