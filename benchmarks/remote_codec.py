"""µs per call of what a model server elsewhere costs beside its model: the forms of a request, and the answer.

For each form: to encode it here, and MLflow's own `invocations()` in this process on a model that does nothing; then
the answer of as many doubles, decoded here. Sizes are those of the request.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import timeit
import warnings
from collections.abc import Callable
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.models import ModelSignature
from mlflow.pyfunc.scoring_server import invocations
from mlflow.types import ColSpec, Schema

from prinz_enricher.batch import batch_from_rows
from prinz_enricher.scoring.remote.predictions import decode
from prinz_enricher.scoring.remote.request_body import BodyForm, choose, encode
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature

OUTPUT = (Field("output_0", Scalar(ScalarKind.DOUBLE)),)


class Zeros(mlflow.pyfunc.PythonModel):
    """Answers each row with zero."""

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - MLflow would take hints for the signature
        """Give as many zeros as there are rows."""
        return np.zeros(len(model_input))


def microseconds(call: Callable[[], object]) -> float:
    """Time a call: the best of five runs, each of about a tenth of a second."""
    timer = timeit.Timer(call)
    once = max(timer.timeit(1), 1e-6)
    number = max(1, min(20_000, int(0.1 / once)))
    return min(timer.repeat(5, number)) / number * 1e6


def doubles(rows: int) -> dict[str, object]:
    """Make eleven columns of doubles."""
    values = np.random.default_rng(7).random((11, rows))
    return {f"feature_{place}": values[place] for place in range(11)}


def texts(rows: int) -> dict[str, object]:
    """Make three columns of short texts and one of doubles."""
    words = np.random.default_rng(7).integers(0, 50, (3, rows))
    columns: dict[str, object] = {
        name: [f"value_{word}" for word in words[place].tolist()]
        for place, name in enumerate(("gender", "category", "merchant"))
    }
    return {**columns, "amount": words[0] + 0.25}


def serve(fields: tuple[Field, ...], folder: Path) -> mlflow.pyfunc.PyFuncModel:
    """Load a model of these inputs as MLflow's server does."""
    inputs = Schema([ColSpec(field.type.kind.value, field.name) for field in fields if isinstance(field.type, Scalar)])
    signature = ModelSignature(inputs, Schema([ColSpec("double")]))
    mlflow.pyfunc.save_model(folder, python_model=Zeros(), signature=signature, pip_requirements=["mlflow"])
    return mlflow.pyfunc.load_model(str(folder))


def measure(name: str, columns: Callable[[int], dict[str, object]], sizes: list[int], folder: Path) -> None:
    """Print a line for each number of rows and form."""
    fields = tuple(
        Field(one, Scalar(ScalarKind.STRING if isinstance(values, list) else ScalarKind.DOUBLE))
        for one, values in columns(1).items()
    )
    model = serve(fields, folder / name)
    signature = Signature(fields, OUTPUT)
    for rows in sizes:
        batch = batch_from_rows(columns(rows), fields)
        chosen = choose(batch, signature, parquet_works=True)
        for form in BodyForm:
            body = encode(batch, signature, {}, form)
            here = microseconds(lambda form=form, batch=batch: encode(batch, signature, {}, form))
            there = microseconds(
                lambda body=body: invocations(body.content, body.content_type, model, model.metadata.get_input_schema())
            )
            mark = "*" if form is chosen else " "
            print(
                f"{name:8} {rows:6} rows  {form.value:15}{mark} encode {here:9.0f}  server {there:9.0f}"
                f"  {len(body.content):9} bytes"
            )


def answers(sizes: list[int]) -> None:
    """Print what it costs to read answers: an array, and a Series."""
    signature = Signature((), OUTPUT)
    for rows in sizes:
        values = np.random.default_rng(7).random(rows).tolist()
        forms: dict[str, object] = {"array": values, "Series": [{"0": value} for value in values]}
        for name, predictions in forms.items():
            content = json.dumps({"predictions": predictions}).encode()
            here = microseconds(lambda content=content, rows=rows: decode(content, "m", "1", signature, rows))
            floor = microseconds(lambda content=content: json.loads(content))
            print(f"answer   {rows:6} rows  {name:16} decode {here:9.0f}  json.loads {floor:9.0f}")


def main() -> None:
    """Measure both kinds of columns, and answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 10, 100, 1_000, 10_000])
    sizes = parser.parse_args().rows
    warnings.simplefilter("ignore")
    print(f"pyarrow {pa.__version__}, pandas {pd.__version__}, MLflow {mlflow.__version__}; µs, * is what is chosen")
    with tempfile.TemporaryDirectory() as folder:
        measure("doubles", doubles, sizes, Path(folder))
        measure("texts", texts, sizes, Path(folder))
    answers(sizes)


if __name__ == "__main__":
    main()
