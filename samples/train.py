"""Trains the sample models and registers them.

`python -m samples.train --registry http://127.0.0.1:5000` does it on data made in the code; `--wine-csv` and
`--fraud-csv` take the published sets instead. Models that are registered already are left alone without `--force`.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from sklearn.base import BaseEstimator

from . import fraud, wine

ALIAS = "champion"
EXPERIMENT = "prinz-samples"
EXAMPLE_ROWS = 2

_PACKAGES = ("mlflow", "scikit-learn", "pandas", "skops")

WINE_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("double", name) for name in wine.COLUMNS]), outputs=Schema([ColSpec("double")])
)
FRAUD_SIGNATURE = ModelSignature(
    inputs=Schema([*(ColSpec("string", name) for name in fraud.TEXTS), ColSpec("double", "amount")]),
    outputs=Schema([ColSpec("integer")]),
)


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of one sample model.

    Attributes:
        name: The registered model's name.
        version: The version that the alias `champion` points to.
        created: Whether it was trained now; it was there before otherwise.
    """

    name: str
    version: str
    created: bool


@dataclass(frozen=True)
class _Sample:
    """How one sample model is made."""

    name: str
    description: str
    columns: Sequence[str]
    signature: ModelSignature
    data: Callable[[], pd.DataFrame]
    train: Callable[[pd.DataFrame], BaseEstimator]
    params: dict[str, float]


def train(
    registry_url: str, *, wine_csv: Path | None = None, fraud_csv: Path | None = None, force: bool = False
) -> list[Registered]:
    """Train and register the sample models that the registry does not have yet.

    Args:
        registry_url: An MLflow server, such as `http://127.0.0.1:5000`, or any tracking URI.
        wine_csv: The published wine set; data made in the code by default.
        fraud_csv: The published payments; data made in the code by default.
        force: Make a new version of each model, even where it has one, and move the alias to it.

    Returns:
        What became of each model, in the order of their names.

    Raises:
        MlflowException: The registry can't be reached, or refuses.
        OSError: A CSV file can't be read.
        ValueError: A CSV file lacks a column.
    """
    client = MlflowClient(tracking_uri=registry_url, registry_uri=registry_url)
    registered = []
    for sample in _samples(wine_csv, fraud_csv):
        there = None if force else _champion(client, sample.name)
        number = there or _register(client, registry_url, sample)
        registered.append(Registered(sample.name, number, created=there is None))
    return registered


def _samples(wine_csv: Path | None, fraud_csv: Path | None) -> list[_Sample]:
    def wine_data() -> pd.DataFrame:
        return wine.read_wine(wine_csv) if wine_csv else wine.make_wine()

    def fraud_data() -> pd.DataFrame:
        return fraud.read_fraud(fraud_csv) if fraud_csv else fraud.make_fraud()

    def wine_sample(number: int, alpha: float) -> _Sample:
        return _Sample(
            name=f"MLF-ElasticnetWineModel-{number}",
            description=f"Quality of a red wine, by an elastic net of alpha {alpha} and l1_ratio 0.5.",
            columns=wine.COLUMNS,
            signature=WINE_SIGNATURE,
            data=wine_data,
            train=lambda data: wine.train_wine(data, alpha),
            params={"alpha": alpha, "l1_ratio": 0.5},
        )

    return [
        wine_sample(1, 0.42),
        wine_sample(2, 0.84),
        _Sample(
            name="MLF-FraudDetection-3",
            description="Whether a card payment is a fraud (1) or not (0), by a logistic regression.",
            columns=fraud.COLUMNS,
            signature=FRAUD_SIGNATURE,
            data=fraud_data,
            train=fraud.train_fraud,
            params={},
        ),
    ]


def _champion(client: MlflowClient, name: str) -> str | None:
    """Return the number of the version that is there; gives it the alias where a former run did not come so far."""
    try:
        return str(client.get_model_version_by_alias(name, ALIAS).version)
    except MlflowException as error:
        # No such model, or no such alias of it.
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise
        versions = client.search_model_versions(f"name = '{name}'")
    ready = [int(found.version) for found in versions if found.status == "READY"]
    if not ready:
        return None
    newest = str(max(ready))
    client.set_registered_model_alias(name, ALIAS, newest)
    return newest


def _register(client: MlflowClient, registry_url: str, sample: _Sample) -> str:
    """Train, log and register a new version and point the alias to it; return its number."""
    mlflow.set_tracking_uri(registry_url)
    mlflow.set_registry_uri(registry_url)
    mlflow.set_experiment(EXPERIMENT)
    data = sample.data()
    model = sample.train(data)
    with mlflow.start_run(run_name=sample.name):
        mlflow.log_params(sample.params)
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=sample.signature,
            input_example=data[list(sample.columns)].head(EXAMPLE_ROWS),
            registered_model_name=sample.name,
            # Named, because MLflow otherwise loads the model in a process of its own to find them out.
            pip_requirements=[f"{package}=={version(package)}" for package in _PACKAGES if find_spec(_module(package))],
            **_storage_options(),
        )
    number = str(info.registered_model_version)
    client.update_registered_model(sample.name, sample.description)
    client.set_registered_model_alias(sample.name, ALIAS, number)
    return number


def _storage_options() -> dict[str, list[str]]:
    """Name the types that a sample needs beyond scikit-learn's own, where MLflow stores models as skops files."""
    known = inspect.signature(mlflow.sklearn.log_model).parameters
    return {"skops_trusted_types": ["numpy.dtype"]} if "skops_trusted_types" in known else {}


def _module(package: str) -> str:
    return "sklearn" if package == "scikit-learn" else package


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and register the sample models, and print one line for each.

    Args:
        arguments: Those of the command line by default.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m samples.train", description="Trains and registers sample models.")
    parser.add_argument("--registry", required=True, metavar="URL", help="an MLflow server, such as http://mlflow:5000")
    parser.add_argument("--wine-csv", type=Path, metavar="FILE", help="winequality-red.csv; made in the code otherwise")
    parser.add_argument("--fraud-csv", type=Path, metavar="FILE", help="BankSim's payments; made in the code otherwise")
    parser.add_argument("--force", action="store_true", help="make new versions even where there are some")
    options = parser.parse_args(arguments)
    # Hints for authors of models; nothing that somebody who wants samples can act on.
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # MLflow otherwise tries for minutes to reach a server that is not there.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    try:
        registered = train(
            options.registry, wine_csv=options.wine_csv, fraud_csv=options.fraud_csv, force=options.force
        )
    except (MlflowException, OSError, ValueError) as error:
        print(f"The samples can't be registered: {error}", file=sys.stderr)
        return 1
    for model in registered:
        print(f"{model.name} version {model.version}: {'registered' if model.created else 'was there already'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
