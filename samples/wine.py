"""The quality of red wine from eleven physico-chemical measures, after Cortez et al. (2009)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import ElasticNet

from .csv_file import read_csv_file

SEED = 42
ROWS = 1599
TARGET = "quality"

# Of each measure in the published set: mean, standard deviation, least, greatest, and correlation with the quality.
_MEASURES = {
    "fixed acidity": (8.32, 1.74, 4.6, 15.9, 0.12),
    "volatile acidity": (0.528, 0.179, 0.12, 1.58, -0.39),
    "citric acid": (0.271, 0.195, 0.0, 1.0, 0.23),
    "residual sugar": (2.54, 1.41, 0.9, 15.5, 0.01),
    "chlorides": (0.0875, 0.0471, 0.012, 0.611, -0.13),
    "free sulfur dioxide": (15.9, 10.5, 1.0, 72.0, -0.05),
    "total sulfur dioxide": (46.5, 32.9, 6.0, 289.0, -0.19),
    "density": (0.99675, 0.00189, 0.99007, 1.00369, -0.17),
    "pH": (3.31, 0.154, 2.74, 4.01, -0.06),
    "sulphates": (0.658, 0.170, 0.33, 2.0, 0.25),
    "alcohol": (10.42, 1.07, 8.4, 14.9, 0.48),
}
_QUALITY_MEAN, _QUALITY_DEVIATION, _QUALITY_LEAST, _QUALITY_GREATEST = 5.64, 0.81, 3, 8

COLUMNS = tuple(_MEASURES)


def make_wine(rows: int = ROWS, seed: int = SEED) -> pd.DataFrame:
    """Make data shaped like the published set.

    Args:
        rows: How many wines.
        seed: The same seed makes the same data.

    Returns:
        The columns of `COLUMNS` as doubles, and the quality, a whole number from 3 to 8.
    """
    random = np.random.default_rng(seed)
    quality = random.standard_normal(rows)
    columns: dict[str, object] = {}
    for name, (mean, deviation, least, greatest, correlation) in _MEASURES.items():
        spread = correlation * quality + np.sqrt(1 - correlation**2) * random.standard_normal(rows)
        columns[name] = np.clip(mean + deviation * spread, least, greatest)
    marks = np.clip(np.rint(_QUALITY_MEAN + _QUALITY_DEVIATION * quality), _QUALITY_LEAST, _QUALITY_GREATEST)
    return pd.DataFrame({**columns, TARGET: marks.astype("int64")})


def read_wine(file: Path) -> pd.DataFrame:
    """Read the published set (`winequality-red.csv`), or one like it."""
    return read_csv_file(file, [*COLUMNS, TARGET]).astype("float64")


def train_wine(data: pd.DataFrame, alpha: float) -> ElasticNet:
    """Train a linear model with both penalties.

    Args:
        data: As `make_wine` gives it.
        alpha: How strong the penalties are; both are of one half.
    """
    model = ElasticNet(alpha=alpha, l1_ratio=0.5, random_state=SEED)
    return model.fit(data[list(COLUMNS)].astype("float64"), data[TARGET])
