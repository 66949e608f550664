"""The model `touchy`, of many types, without a need of MLflow in this process: registered, and rows for it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.own_service import register

NAME = "touchy"
TAGGED = "tagged"
"""The same version again, under another name."""

RAISE = "raise"
"""The text that it raises on."""

EXCEPTION = "LookupError"
SECRET = "hunter2"  # noqa: S105 - made up
"""Is in the exception's text."""

_MODEL = Path(__file__).with_name("touchy_model.py")

_REGISTER = """
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, Object, Property

mlflow.set_tracking_uri(sys.argv[1])
scalars = ("double", "long", "integer", "float", "boolean", "string", "datetime", "binary")
inputs = [ColSpec(kind, f"a {kind}") for kind in scalars]
inputs += [ColSpec(kind, f"perhaps a {kind}", required=False) for kind in ("double", "string", "boolean")]
inputs += [
    ColSpec(Array("double"), "series"),
    ColSpec(Object([Property("id", "long"), Property("note", "string", required=False)]), "thing"),
]
mlflow.pyfunc.log_model(
    name="touchy", python_model=sys.argv[2], registered_model_name="touchy", pip_requirements=["mlflow"],
    signature=ModelSignature(Schema(inputs), Schema([ColSpec("string", "saw")])),
)
mlflow.MlflowClient().copy_model_version("models:/touchy/1", "tagged")
"""


def register_touchy(registry: str, folder: Path) -> None:
    """Register the model, under both names."""
    register(registry, _REGISTER, folder, str(_MODEL))


def rows(count: int, seed: int = 0, *, text: str | None = None) -> list[dict[str, Any]]:
    """Make rows by chance.

    Args:
        count: How many.
        seed: The same one gives the same rows.
        text: What `a string` is in all of them; by chance if left out.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    return [_row(chance, text) for _ in range(count)]


def _row(chance: random.Random, text: str | None) -> dict[str, Any]:
    return {
        "a double": chance.choice((chance.gauss(0.0, 1e6), 5e-324, -0.0, 1.7976931348623157e308, 0.1)),
        "a long": chance.choice((chance.randint(-(2**63), 2**63 - 1), 2**53 + 1)),
        "a integer": chance.randint(-(2**31), 2**31 - 1),
        "a float": chance.randint(-(2**20), 2**20) / 64,
        "a boolean": chance.random() < 0.5,
        "a string": chance.choice(("", "räksmörgås", '"\\', "nan", "null", "7", "🦀\n")) if text is None else text,
        "a datetime": datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=chance.randint(0, 9 * 10**15)),
        "a binary": chance.randbytes(chance.randint(0, 40)),
        "perhaps a double": chance.choice((None, 1.5)),
        "perhaps a string": chance.choice((None, "there")),
        "series": [chance.gauss(0.0, 1.0) for _ in range(chance.randint(1, 5))],
        "thing": {"id": chance.randint(-(2**53), 2**53), "note": chance.choice(("a", "b"))},
    }
