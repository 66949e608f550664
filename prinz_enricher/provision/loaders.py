"""Which modules may load a model: the MLmodel file names one, and that decides what code runs."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from prinz_enricher.provision.provision_errors import LoaderForbidden, ProvisionError
from prinz_enricher.registry.mlmodel_yaml import MAX_BYTES, read_mlmodel
from prinz_enricher.registry.registry_errors import MlmodelUnreadable

DEFAULT_LOADERS = (
    *("mlflow.sklearn", "mlflow.xgboost", "mlflow.lightgbm", "mlflow.catboost", "mlflow.h2o", "mlflow.statsmodels"),
    *("mlflow.prophet", "mlflow.shap", "mlflow.spacy"),
    *("mlflow.onnx", "mlflow.pytorch", "mlflow.tensorflow", "mlflow.keras", "mlflow.paddle"),
    *("mlflow.pyfunc.model", "mlflow.pyfunc.loaders.code_model"),
)
"""The flavours of MLflow 3 that score rows of a table.

Without mlflow.spark, which needs a JVM and seconds for each call; mlflow.pmdarima and mlflow.diviner, which answer a
span of time with a row for each of its steps; those that chat, embed or draw; and modules of the models themselves.
"""


def allows(allowed: Sequence[str], loader: str) -> bool:
    """Return whether a module may load a model, by patterns; one that begins with `!` refuses, wherever it stands."""
    refused = any(fnmatchcase(loader, one[1:]) for one in allowed if one.startswith("!"))
    return not refused and any(fnmatchcase(loader, one) for one in allowed if not one.startswith("!"))


def check_loader(model_folder: Path, allowed: Sequence[str]) -> str:
    """Return the module that loads a folder's model; raises LoaderForbidden, or ProvisionError if it has none."""
    try:
        with (model_folder / "MLmodel").open("rb") as file:
            content = read_mlmodel(file.read(MAX_BYTES + 1))
    except OSError as exc:
        raise ProvisionError(f"the model's MLmodel file can't be read ({exc.strerror})") from exc
    except MlmodelUnreadable as exc:
        raise ProvisionError(f"the model can't be loaded: {exc}") from exc
    match content:
        case {"flavors": {"python_function": {"loader_module": str(loader)}}} if loader:
            if not allows(allowed, loader):
                raise LoaderForbidden(loader)
            return loader
    raise ProvisionError("the model has no python_function flavour")
