"""Registers small models as other people write them; run in a process of its own, with the registry's URL."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import polars as pl
from mlflow.models import ModelSignature, infer_signature
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Object, Property

Predict = Callable[[Any, Any], Any]

ONE = Schema([ColSpec("double", "x")])
NOTE = Object([Property("text", DataType.string), Property("lang", DataType.string, required=False)])
NOTED = ModelSignature(Schema([ColSpec(NOTE, "note")]), Schema([ColSpec("string", "y")]))
SCALED = ModelSignature(
    ONE, Schema([ColSpec("double", "y")]), params=ParamSchema([ParamSpec("k", DataType.double, 2.0)])
)
ANSWER = {"reply": "yes", "sources": ["a"]}
OBSERVED = {"prinz.outputs": "observed"}


def model_of(predict: Predict) -> PythonModel:
    """Make a model of a function of its input and its parameters."""

    def call(_self: Any, _context: Any, data: Any, params: Any = None) -> Any:
        return predict(data, params)

    kind: type[PythonModel] = type("Model", (PythonModel,), {"predict": call})
    return kind()


def log(
    name: str, predict: Predict, signature: Any = None, tags: Mapping[str, str] | None = None, **options: Any
) -> None:
    """Log and register a model."""
    mlflow.pyfunc.log_model(
        name="m",
        python_model=model_of(predict),
        registered_model_name=name,
        signature=signature,
        pip_requirements=["mlflow"],
        **options,
    )
    for tag, value in (tags or {}).items():
        mlflow.MlflowClient().set_registered_model_tag(name, tag, value)


def gives(**types: Any) -> ModelSignature:
    """Make a signature of one double and some outputs."""
    return ModelSignature(ONE, Schema([ColSpec(kind, name) for name, kind in types.items()]))


def languages(frame: Any) -> list[str]:
    """Say of each note which language it has: none, one that is absent, or one that is null."""
    notes = frame["note"].tolist()
    return ["absent" if "lang" not in note else "null" if note["lang"] is None else note["lang"] for note in notes]


def main(registry: str) -> None:
    """Register them all."""
    mlflow.set_tracking_uri(registry)
    log(
        "ranked",
        lambda df, _: (df.sort_values("x", ascending=False) + 0.5).rename(columns={"x": "y"}),
        gives(y="double"),
    )
    log(
        "polars",
        lambda df, _: pl.DataFrame({"twice": df["x"].to_numpy() * 2, "same": df["x"].to_numpy()}),
        gives(same="double", twice="double"),
    )
    log("pair", lambda df, _: (df["x"].to_numpy(), -df["x"].to_numpy()), gives(plus="double", minus="double"))
    log("noted", lambda df, _: languages(df), NOTED)
    log(
        "one-answer",
        lambda df, _: {"reply": str(float(df["x"].iloc[0])), "sources": ["a"]},
        infer_signature(pd.DataFrame({"x": [1.0]}), ANSWER),
    )
    log(
        "shouting",
        lambda texts, _: [text.upper() for text in texts],
        infer_signature(["hey"], ["HEY"]),
        input_example=["hey"],
    )
    log("scaled", lambda df, params: df["x"] * params["k"], SCALED)
    log("halved", lambda df, _: df["x"].to_numpy() / 2, gives(y="long"))
    log("halved-observed", lambda df, _: pd.DataFrame({"half": df["x"] / 2}), gives(y="long"), OBSERVED)
    log("mixed-up", lambda df, _: np.sort(df["x"].to_numpy()), gives(y="double"))
    log(
        "fussy",
        lambda df, _: [{1.0: 1}[one] for one in df["x"]],
        gives(y="long"),
        input_example=pd.DataFrame({"x": [2.0]}),
    )
    with mlflow.start_run() as run:
        mlflow.pyfunc.log_model(
            name="deep",
            python_model=model_of(lambda df, _: df["x"] * 2),
            signature=gives(y="double"),
            pip_requirements=["mlflow"],
        )
    client = mlflow.MlflowClient()
    client.create_registered_model("by-run")
    client.create_model_version("by-run", f"runs:/{run.info.run_id}/deep", run.info.run_id)


if __name__ == "__main__":
    main(sys.argv[1])
