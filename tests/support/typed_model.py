"""A model with a typed signature: it takes one required integer `n`, and gives twice as much."""

from collections.abc import Mapping
from pathlib import Path

from tests.support.script import run_script

NAME = "typed"

REGISTER = """
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

class Double(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["n"] * 2

signature = ModelSignature(Schema([ColSpec("integer", "n")]), Schema([ColSpec("integer")]))
parts = {"python_model": Double(), "signature": signature, "pip_requirements": ["mlflow"]}
if sys.argv[1] == "--folder":
    mlflow.pyfunc.save_model(sys.argv[2], **parts)
else:
    mlflow.set_tracking_uri(sys.argv[1])
    mlflow.pyfunc.log_model(name="double", registered_model_name="typed", **parts)
"""


def register_typed_model(registry: str, variables: Mapping[str, str] | None = None) -> None:
    """Register the model with MLflow's own client, with these environment variables too."""
    run_script(REGISTER, registry, variables=variables)


def save_typed_model(folder: Path) -> None:
    """Write the model's files into a new folder."""
    run_script(REGISTER, "--folder", str(folder))
