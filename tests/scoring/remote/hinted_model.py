"""A model with type hints, for which MLflow takes no other form than `inputs`: MLflow reads it from this file."""

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from pydantic import BaseModel


class Row(BaseModel):  # type: ignore[misc,unused-ignore]
    """What it takes."""

    name: str
    numbers: list[float]
    count: int | None = None
    promo: float | None = 0.25


class Hinted(PythonModel):
    """Answers with what it sees."""

    def predict(self, model_input: list[Row]) -> list[str]:  # type: ignore[override]  # the context may be left out
        """Write each row as text."""
        return [repr(row) for row in model_input]


set_model(Hinted())
