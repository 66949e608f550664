"""One environment for all of its tests: made by an older MLflow, and upgraded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from deploy.processes.place import ROOT
from prinz_enricher.client import Client
from tests.environment.whole_environment import WholeEnvironment, whole_environment

OLDER_MLFLOW = "3.12.0"
"""Whose database is older than today's, and which still runs with today's other packages."""


@dataclass(frozen=True)
class Before:
    """What the environment was like with the older MLflow.

    Attributes:
        mlflow: Its version.
        scores: What each sample model answered.
        created: What the script printed.
    """

    mlflow: str
    scores: dict[str, list[float]]
    created: str


WINE_ROW = dict.fromkeys(
    (
        *("fixed acidity", "volatile acidity", "citric acid", "residual sugar", "chlorides", "free sulfur dioxide"),
        *("total sulfur dioxide", "density", "pH", "sulphates", "alcohol"),
    ),
    0.235,
)
"""Prinz's own row for the wine models."""

FRAUD_ROW = {"age": "4", "gender": "F", "category": "es_transportation", "amount": 800.0}
"""Prinz's own row for the fraud model."""

ROWS = {
    "MLF-ElasticnetWineModel-1": [WINE_ROW, {**WINE_ROW, "alcohol": 11.5}],
    "MLF-ElasticnetWineModel-2": [WINE_ROW, {**WINE_ROW, "alcohol": 11.5}],
    "MLF-FraudDetection-3": [FRAUD_ROW, {**FRAUD_ROW, "category": "es_travel", "amount": 7500.0}],
}


def newer_mlflow() -> str:
    """Return the version of MLflow in .env."""
    found = re.search(r"^MLFLOW_VERSION=(.+)$", (ROOT / ".env").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def scores(address: str) -> dict[str, list[float]]:
    """Score each sample model's rows."""
    with Client(address, timeout=120.0) as client:
        return {name: [row["output_0"] for row in client.score(name, rows).to_rows()] for name, rows in ROWS.items()}


@pytest.fixture(scope="session")
def upgraded() -> Iterator[tuple[WholeEnvironment, Before]]:
    """An environment that was created by an older MLflow and came up again with a newer one."""
    with whole_environment() as environment:
        created = environment.up(MLFLOW_VERSION=OLDER_MLFLOW)
        before = Before(environment.mlflow_version(), scores(environment.address), created)
        environment.up()
        yield environment, before


@pytest.fixture(scope="session")
def environment(upgraded: tuple[WholeEnvironment, Before]) -> WholeEnvironment:
    """The environment."""
    return upgraded[0]
