"""Predictions as MLflow writes them, and what comes of them."""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

from prinz_enricher.scoring.remote.predictions import decode
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature, Type, output_schema

BOOLEAN, INTEGER, LONG, FLOAT, DOUBLE, STRING, BINARY, DATETIME = map(Scalar, ScalarKind)


def only(type: Type, name: str = "output_0", *, required: bool = True) -> Signature:
    """Make a signature of one output."""
    return Signature((), (Field(name, type, required),))


def named(*, required: bool = True, **types: Type) -> Signature:
    """Make a signature of some outputs."""
    return Signature((), tuple(Field(name, type, required) for name, type in types.items()))


def read(predictions: str | bytes, signature: Signature, rows: int) -> list[list[Any]]:
    """Decode predictions that are written as JSON, and give the columns."""
    text = predictions if isinstance(predictions, str) else predictions.decode()
    batch = decode(f'{{"predictions": {text}}}'.encode(), "wine", "3", signature, rows)
    batch.validate(full=True)
    assert batch.schema.equals(output_schema(signature), check_metadata=True)
    return [column.to_pylist() for column in batch.columns]


def as_mlflow_writes(result: object) -> str:
    """Write what a model returned."""
    with warnings.catch_warnings():
        # MLflow warns of what is not ours when it is imported.
        warnings.simplefilter("ignore")
        from mlflow.pyfunc.scoring_server import predictions_to_json
    out = io.StringIO()
    predictions_to_json(result, out)  # type: ignore[no-untyped-call]
    return json.dumps(json.loads(out.getvalue())["predictions"])
