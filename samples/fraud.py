"""Fraudulent card payments, on data like BankSim's (Lopez-Rojas and Axelsson, 2014)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from .csv_file import read_csv_file

SEED = 42
ROWS = 20_000
TARGET = "fraud"

TEXTS = ("age", "gender", "category")
COLUMNS = (*TEXTS, "amount")

_AGES = {"0": 0.004, "1": 0.098, "2": 0.315, "3": 0.247, "4": 0.183, "5": 0.105, "6": 0.046, "U": 0.002}
_GENDERS = {"F": 0.5455, "M": 0.4518, "E": 0.0020, "U": 0.0007}
# Of each category: its share of the payments, the mean amount, and how likely one of them is a fraud.
_CATEGORIES = {
    "es_transportation": (0.8495, 27.0, 0.0),
    "es_food": (0.0442, 37.0, 0.0),
    "es_health": (0.0271, 135.0, 0.105),
    "es_wellnessandbeauty": (0.0254, 66.0, 0.048),
    "es_fashion": (0.0108, 66.0, 0.018),
    "es_barsandrestaurants": (0.0107, 43.0, 0.019),
    "es_hyper": (0.0103, 46.0, 0.046),
    "es_sportsandtoys": (0.0067, 216.0, 0.495),
    "es_tech": (0.0040, 121.0, 0.067),
    "es_home": (0.0033, 166.0, 0.152),
    "es_hotelservices": (0.0029, 206.0, 0.314),
    "es_otherservices": (0.0015, 136.0, 0.250),
    "es_contents": (0.0015, 44.0, 0.0),
    "es_travel": (0.0012, 2250.0, 0.794),
    "es_leisure": (0.0009, 289.0, 0.950),
}
# A fraud costs its victim several times what others pay.
_FRAUD_FACTOR = 4.0


def make_fraud(rows: int = ROWS, seed: int = SEED) -> pd.DataFrame:
    """Make data shaped like BankSim's.

    Args:
        rows: How many payments.
        seed: The same seed makes the same data.

    Returns:
        The texts age (`0` to `6`, or `U`), gender (F, M, E or U) and category, the amount as a double, and the label
        fraud: 1 for about one payment in a hundred, else 0.
    """
    random = np.random.default_rng(seed)

    def draw(shares: dict[str, float]) -> np.ndarray:
        weights = np.array(list(shares.values()))
        return random.choice(list(shares), size=rows, p=weights / weights.sum())

    categories = draw({name: share for name, (share, _, _) in _CATEGORIES.items()})
    means = pd.Series({name: mean for name, (_, mean, _) in _CATEGORIES.items()}).loc[categories].to_numpy()
    risks = pd.Series({name: risk for name, (_, _, risk) in _CATEGORIES.items()}).loc[categories].to_numpy()
    fraud = random.random(rows) < risks
    amounts = random.gamma(shape=3.0, scale=means / 3.0) * np.where(fraud, _FRAUD_FACTOR, 1.0)
    return pd.DataFrame(
        {
            "age": draw(_AGES),
            "gender": draw(_GENDERS),
            "category": categories,
            "amount": np.round(amounts, 2),
            TARGET: fraud.astype("int64"),
        }
    )


def read_fraud(file: Path) -> pd.DataFrame:
    """Read BankSim's payments (`bs140513_032310.csv`), or a file like it."""
    data = read_csv_file(file, [*COLUMNS, TARGET])
    return data.astype({**dict.fromkeys(TEXTS, str), "amount": "float64", TARGET: "int64"})


def train_fraud(data: pd.DataFrame) -> Pipeline:
    """Train a logistic regression on scaled amounts and one column for each age, gender and category.

    A category that the data does not have counts as none; a missing amount as the median.
    """
    amount = Pipeline([("imputer", SimpleImputer(strategy="median")), ("scaler", StandardScaler())])
    features = ColumnTransformer(
        [("amount", amount, ["amount"]), ("texts", OneHotEncoder(handle_unknown="ignore"), list(TEXTS))]
    )
    model = Pipeline([("features", features), ("classifier", LogisticRegression(max_iter=1000, random_state=SEED))])
    return model.fit(data[list(COLUMNS)], data[TARGET])
