"""Which code may load a model: the MLmodel file names a module, and that decides what runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from prinz_enricher.provision.errors import LoaderForbidden, ProvisionError
from prinz_enricher.registry.errors import MlmodelUnreadable
from prinz_enricher.registry.mlmodel import MAX_BYTES, read_mlmodel

DEFAULT_LOADERS = (
    *("mlflow.sklearn", "mlflow.xgboost", "mlflow.lightgbm", "mlflow.catboost", "mlflow.h2o", "mlflow.statsmodels"),
    *("mlflow.prophet", "mlflow.shap", "mlflow.spacy"),
    *("mlflow.onnx", "mlflow.pytorch", "mlflow.tensorflow", "mlflow.keras", "mlflow.paddle"),
    *("mlflow.pyfunc.model", "mlflow.pyfunc.loaders.code_model"),
)
"""The flavours of MLflow 3 that score rows of a table.

Not mlflow.spark, which needs a JVM and seconds for each call; not mlflow.pmdarima and mlflow.diviner, which answer a
span of time with a row for each of its steps; not those that chat, embed or draw; nor modules of the models themselves,
of any name.
"""


def allows(allowed: Sequence[str], loader: str) -> bool:
    """Tell whether a module may load a model.

    Args:
        allowed: Patterns of names, such as `mlflow.*`; one with `!` before it refuses what it matches, wherever it
            stands.
        loader: The module's name.
    """
    refused = [one[1:] for one in allowed if one.startswith("!")]
    return _matches(loader, (one for one in allowed if not one.startswith("!"))) and not _matches(loader, refused)


def check_loader(model_folder: Path, allowed: tuple[str, ...]) -> str:
    """Check that a model is loaded by a module that is allowed.

    Args:
        model_folder: The folder with the MLmodel file.
        allowed: As `allows` takes them.

    Returns:
        The module's name.

    Raises:
        LoaderForbidden: It is not allowed.
        ProvisionError: The MLmodel file can't be read, or names no module.
    """
    try:
        with (model_folder / "MLmodel").open("rb") as file:
            content = read_mlmodel(file.read(MAX_BYTES + 1))
    except OSError as exc:
        raise ProvisionError(f"the model's MLmodel file can't be read ({exc.strerror})") from exc
    except MlmodelUnreadable as exc:
        raise ProvisionError(f"the model can't be loaded: {exc}") from exc
    flavors = content.get("flavors")
    python = flavors.get("python_function") if isinstance(flavors, dict) else None
    loader = python.get("loader_module") if isinstance(python, dict) else None
    if not isinstance(loader, str) or not loader:
        raise ProvisionError("the model has no python_function flavour, by which models are loaded")
    if not allows(allowed, loader):
        raise LoaderForbidden(loader)
    return loader


def _matches(loader: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(loader, pattern) for pattern in patterns)
