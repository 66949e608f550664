"""MLflow's scoring protocol, by which its clients, Databricks' and Prinz call models."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from prinz_enricher.batch import batch_from_rows
from prinz_enricher.scoring.ports import Target
from prinz_enricher.scoring.remote.predictions import decode
from prinz_enricher.scoring.remote.request_body import BodyForm, encode
from prinz_enricher.signature import AnyValue, Field, Scalar, ScalarKind, Signature, Tensor, output_schema
from tests.support.guarded_service import GuardedService, model_of
from tests.support.http_api import RunningApi, running_api

X = Field("x", Scalar(ScalarKind.DOUBLE))
N = Field("n", Scalar(ScalarKind.LONG), required=False)
S = Field("s", Scalar(ScalarKind.STRING), required=False)
ECHO = Signature((X, N, S), (X, N, S))
TENSOR = Signature((Field("input_0", Tensor("float64", (-1, 2))),), (Field("output_0", Tensor("float64", (-1, 2))),))
UNNAMED = Signature(
    (Field("input_0", Scalar(ScalarKind.LONG)), Field("input_1", Scalar(ScalarKind.LONG))),
    (Field("output_0", Scalar(ScalarKind.LONG)), Field("output_1", Scalar(ScalarKind.LONG))),
)
ANY = Signature((Field("a", AnyValue(), required=False),), (Field("output_0", AnyValue(), required=False),))
MODELS = {"echo": ECHO, "tensor": TENSOR, "unnamed": UNNAMED, "any": ANY}


class Echoes(GuardedService):
    """A service whose models answer with their inputs."""

    def __init__(self) -> None:
        super().__init__("wine")
        for name, signature in MODELS.items():
            model = model_of(name)
            [version] = model.versions
            self.catalog.change(replace(model, versions=(replace(version, signature=signature),)))

    def function_of(self, target: Target) -> Any:
        """Return what scores a model."""

        def score(batch: pa.RecordBatch, _: object) -> pa.RecordBatch:
            schema = output_schema(target.signature)
            held = dict(zip(batch.schema.names, batch.columns, strict=True))
            names = [field.name for field in target.signature.inputs]
            columns = [
                held.get(name, pa.nulls(batch.num_rows, type)) for name, type in zip(names, schema.types, strict=True)
            ]
            return pa.RecordBatch.from_arrays(columns, schema=schema)

        return score


@pytest.fixture(scope="module")
def api() -> Iterator[RunningApi]:
    """The API."""
    with Echoes() as service, running_api(service) as running:
        yield running


def invoke(api: RunningApi, model: str, content: Any, **headers: str) -> Any:
    """Return the answer to a body."""
    media = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    body = content if isinstance(content, str) else json.dumps(content)
    return api.client.post(f"/model/{model}/invocations", content=body, headers=media)


ROWS = [{"x": 1.5, "n": 2**53 + 1, "s": "a"}, {"x": 2.0, "n": None, "s": None}]


@pytest.mark.parametrize(
    "content",
    [
        {"dataframe_records": ROWS},
        {"instances": ROWS},
        {"dataframe_split": {"columns": ["s", "x", "n"], "data": [["a", 1.5, 2**53 + 1], [None, 2, None]]}},
        {"inputs": {"x": [1.5, 2], "n": [2**53 + 1, None], "s": ["a", None]}},
    ],
)  # fmt: skip
def test_forms_of_json(api: RunningApi, content: Any) -> None:
    """Each form of JSON is read exactly, and answered by an object for each row."""
    answer = invoke(api, "echo", content)

    assert answer.json() == {"predictions": ROWS}
    assert answer.headers["prinz-model-version"] == "1"
    assert "prinz-ignored-columns" not in answer.headers


def test_csv(api: RunningApi) -> None:
    """CSV is read by the types of the model."""
    text = 'x,n,s\r\n1.5,9007199254740993,"a, ""b"""\r\n2,,\r\n'

    answer = invoke(api, "echo", text, Content_Type="text/csv")

    assert answer.json() == {
        "predictions": [{"x": 1.5, "n": 2**53 + 1, "s": 'a, "b"'}, {"x": 2.0, "n": None, "s": None}]
    }
    for wrong in ("x\na\n", "x,x\n1,2\n", "x,n\n1\n", '"x\n', "x\n\xff"):
        assert invoke(api, "echo", wrong, Content_Type="text/csv; charset=utf-8").status_code in {400, 422}
    assert invoke(api, "echo", "x\n1\n", Content_Type="application/x-www-form-urlencoded").status_code == 415


@pytest.mark.parametrize("form", ["inputs", "instances"])
def test_tensors(api: RunningApi, form: str) -> None:
    """Values without names are those of the one input; an output without a name is a list of values."""
    assert invoke(api, "tensor", {form: [[1, 2.5], [3, 4]]}).json() == {"predictions": [[1.0, 2.5], [3.0, 4.0]]}
    assert invoke(api, "echo", {form: [[1, 2.5]]}).json()["reason"] == "INVALID_REQUEST"


def test_inputs_without_names(api: RunningApi) -> None:
    """They are taken by their places, under numbers, other names, or none."""
    for columns in ([0, 1], ["a", "b"], ["input_0", "input_1"], None):
        split = {"data": [[1, 2]]} | ({} if columns is None else {"columns": columns})
        assert invoke(api, "unnamed", {"dataframe_split": split}).json() == {
            "predictions": [{"output_0": 1, "output_1": 2}]
        }


def test_inputs_without_names_under_their_own_at_other_places(api: RunningApi) -> None:
    """Whether a place or a name counts is not clear: MLflow takes the place, who knows our names means these."""
    for columns in (["input_1", "input_0"], ["input_1", "a"], ["a", "input_0"]):
        problem = invoke(api, "unnamed", {"dataframe_split": {"columns": columns, "data": [[1, 2]]}}).json()
        assert problem["reason"] == "INVALID_REQUEST"
        assert "not all at their places" in problem["detail"]


def test_extra_columns(api: RunningApi) -> None:
    """They are ignored, and named in a header."""
    answer = invoke(api, "echo", {"dataframe_records": [{"x": 1, "ü\r\nX": 2, "n": None, "s": None, "m": [1]}]})

    assert answer.json() == {"predictions": [{"x": 1.0, "n": None, "s": None}]}
    assert answer.headers["prinz-ignored-columns"] == "%C3%BC%0D%0AX, m"


def test_numbers_of_python(api: RunningApi) -> None:
    """NaN and infinities are tokens, as MLflow and Python read and write them."""
    answer = invoke(api, "echo", '{"inputs": {"x": [NaN, Infinity, -Infinity, "NaN"]}}')

    values = [row["x"] for row in answer.json()["predictions"]]
    assert values[1:3] == [math.inf, -math.inf]
    assert math.isnan(values[0])
    assert math.isnan(values[3])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"dataframe_records": [{"x": 1, "n": 3.7}]}, "INVALID_INPUT"),
        ({"dataframe_records": [{"x": 1, "n": True}]}, "INVALID_INPUT"),
        ({"dataframe_records": [{"x": 1, "s": 5}]}, "INVALID_INPUT"),
        ({"dataframe_records": [{"n": 1}]}, "INVALID_INPUT"),
        ({"dataframe_records": [{"x": 1}], "params": {"p": 1}}, "INVALID_INPUT"),
        ({"dataframe_records": [{"x": 1}], "params": []}, "INVALID_INPUT"),
        ({"dataframe_records": [{"x": 1}], "params": [1]}, "INVALID_REQUEST"),
        ({"dataframe_records": [], "inputs": []}, "INVALID_REQUEST"),
        ({"rows": []}, "INVALID_REQUEST"),
        ([], "INVALID_REQUEST"),
        ({"inputs": {"x": [1], "n": [1, 2]}}, "INVALID_REQUEST"),
        ({"inputs": {"x": 1}}, "INVALID_REQUEST"),
        ({"dataframe_split": {"columns": ["x"], "data": [[1, 2]]}}, "INVALID_REQUEST"),
        ({"dataframe_split": {"columns": ["x", "x"], "data": [[1, 2]]}}, "INVALID_REQUEST"),
        ('{"inputs": {"x": [1], "x": [2]}}', "INVALID_REQUEST"),
    ],
)
def test_refusals(api: RunningApi, content: Any, reason: str) -> None:
    """What the server of MLflow changes in silence, or can't be read, is refused, also under MLflow's names."""
    answer = invoke(api, "echo", content)

    if content == {"dataframe_records": [{"x": 1}], "params": []}:
        assert answer.status_code == 200
        return
    problem = answer.json()
    assert problem["reason"] == reason
    assert (problem["error_code"], problem["message"]) == ("BAD_REQUEST", problem["detail"])


def test_paths(api: RunningApi) -> None:
    """Prinz's and Databricks' paths score the default, or a version."""
    body = {"inputs": {"x": [1]}}
    for path in ("/model/echo/invocations", "/model/echo/1/invocations", "/serving-endpoints/echo/invocations"):
        assert api.client.post(path, json=body).json()["predictions"][0]["x"] == 1.0
    assert api.client.post("/model/echo/2/invocations", json=body).json()["reason"] == "VERSION_NOT_FOUND"
    assert api.client.post("/model/none/invocations", json=body).status_code == 404


@pytest.mark.parametrize("form", [BodyForm.SPLIT, BodyForm.INPUTS, BodyForm.PARQUET])
def test_our_own_remote_model(api: RunningApi, form: BodyForm) -> None:
    """What we send to model servers elsewhere comes back the same from ourselves."""
    rows = [{"x": 0.1, "n": 2**53 + 1, "s": "a"}, {"x": 5e-324, "n": -1, "s": ""}]
    batch = batch_from_rows(rows, ECHO.inputs)
    body = encode(batch, ECHO, {}, form)

    answer = api.client.post(
        "/model/echo/invocations", content=body.content, headers={"Content-Type": body.content_type}
    )

    back = decode(answer.content, "echo", "1", ECHO, 2)
    assert back.to_pylist() == rows
    assert np.array(back.column(0)).tobytes() == np.array(batch.column(0)).tobytes()
