"""A model that answers with its input, as it is, or with its parameters: MLflow reads it from this file."""

from __future__ import annotations

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class Mirror(PythonModel):
    """Answers with what it is given, and fails on a column called `fail`."""

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - MLflow would take hints for the signature
        """Give the parameters as text where there are any, else the input."""
        if "fail" in getattr(model_input, "columns", ()):
            raise LookupError("secret")
        if params:
            return [repr(sorted(params.items()))] * len(model_input)
        return model_input


set_model(Mirror())
