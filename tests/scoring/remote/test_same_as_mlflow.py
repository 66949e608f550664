"""The golden vectors through our codec and MLflow's own scoring server, against a worker of our own.

Two models stand behind both roads: one that answers with a text of what it saw, so that the requests are compared, and
one that gives back its input, so that the answers are. Where the server can't take what the worker can, the tables say
so and why, and the test fails as soon as that is not so any more.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import yaml

from prinz_enricher.batch import batch_from_rows, decode_columns
from prinz_enricher.contract import value_pb2
from prinz_enricher.errors import InvalidInput, OutputMismatch
from prinz_enricher.ipc.faults import InvalidRows, OutputDiffers
from prinz_enricher.scoring.remote.predictions import decode, decode_error
from prinz_enricher.scoring.remote.request_body import Body, BodyForm, choose, encode
from prinz_enricher.signature import Scalar, ScalarKind, Signature, Tensor, input_schema, output_schema, read_signature
from prinz_enricher.worker.loaded_model import LoadedModel
from tests.golden.write_vectors import PATH

# MLflow warns of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")

ACCEPTED = [one for one in json.loads(PATH.read_text(encoding="utf-8")) if one["accepted"]]
ECHO = Path(__file__).parent.parent.parent / "support" / "echo_model.py"
MIRROR = Path(__file__).with_name("mirror_model.py")

INVALID, MISMATCH = "invalid input", "output mismatch"

WHOLE = -1
"""Stands for all rows in one request, where a number is one row alone."""

Outcome = list[Any] | str
"""The rows of the answer, or what is told instead."""

# What the libraries of models can't hold is the caller's fault on both roads.
NEITHER = {
    # A day of the year 1: MLflow's datetime is nanoseconds since 1970 in 64 bits, which end at 1677 and 2262.
    ("datetime", WHOLE),
    ("datetime", 3),
    # Lists of several lengths within one row are no array of any dtype.
    ("tensor of images", WHOLE),
    ("tensor of images", 0),
}

# What only a worker takes: the server refuses it, or we do where the server would change it.
REFUSED = {
    # The server's astype(int32) knows no missing value.
    ("integer, optional", WHOLE),
    ("integer, optional", 1),
    # In a list the server takes text for text, and JSON has no instants.
    ("array of datetimes", WHOLE),
    ("array of datetimes", 0),
}

# What JSON alone does not hold: the server makes False of a null. Parquet does.
NEEDS_PARQUET = {("boolean, optional", WHOLE), ("boolean, optional", 1)}

# pandas, given nothing but nulls, can't guess text: the same null of another spelling. In Parquet it is text.
SPELLED = {("string", 3): (["'x' str float nan"], ["'x' object NoneType None"])}

# What comes back from the mirror as lists of several lengths within one row.
RAGGED = {("array of arrays", WHOLE), ("array of arrays", 0)}


class Road:
    """One model, scored here and by MLflow's scoring server."""

    def __init__(self, folder: Path, signature: Signature) -> None:
        import mlflow.pyfunc
        from mlflow.pyfunc.scoring_server import init

        self.signature = signature
        self.worker = LoadedModel(str(folder), input_schema(signature), output_schema(signature))
        self._app = httpx.ASGITransport(init(mlflow.pyfunc.load_model(str(folder))))

    def here(self, batch: pa.RecordBatch) -> Outcome:
        """Score as a worker does."""
        try:
            return rows_of(self.worker.score(batch, None))
        except InvalidRows:
            return INVALID
        except OutputDiffers:
            return MISMATCH

    def there(self, batch: pa.RecordBatch, form: BodyForm) -> Outcome:
        """Score as a pool of model servers does."""
        try:
            body = encode(batch, self.signature, {}, form)
        except InvalidInput:
            return INVALID
        answer = self.post(body)
        if answer[0] == 200:
            try:
                return rows_of(decode(answer[1], "m", "1", self.signature, batch.num_rows))
            except OutputMismatch:
                return MISMATCH
        kind, _ = decode_error(*answer)
        assert kind == "invalid_input", answer
        return INVALID

    def post(self, body: Body) -> tuple[int, bytes]:
        """Send a request; give the status and the content of the answer."""

        async def send() -> tuple[int, bytes]:
            async with httpx.AsyncClient(transport=self._app, base_url="http://model") as client:
                answer = await client.post(
                    "/invocations", content=body.content, headers={"content-type": body.content_type}
                )
                return answer.status_code, answer.content

        return asyncio.run(send())


def rows_of(batch: pa.RecordBatch) -> list[Any]:
    """Give the rows of an only output in a form in which NaN equals itself, and 1 and 1.0 differ."""
    [column] = batch.columns
    if pa.types.is_string(column.type):
        return list(column.to_pylist())
    return [repr(value) for value in column.to_pylist()]


@pytest.fixture(scope="module", autouse=True)
def serving() -> Iterator[None]:
    """What MLflow's server says of itself in the environment ends with these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two models, without signatures."""
    import mlflow

    root = tmp_path_factory.mktemp("models")
    for name, code in (("echo", ECHO), ("mirror", MIRROR)):
        mlflow.pyfunc.save_model(path=root / name, python_model=str(code), pip_requirements=["mlflow"])
    return root


def signed(model: Path, folder: Path, inputs: list[Any], outputs: list[Any], params: list[Any] | None = None) -> Road:
    """Give a copy of a model a signature, and load it on both roads."""
    shutil.copytree(model, folder)
    written = yaml.safe_load((folder / "MLmodel").read_text())
    sections = {"inputs": inputs, "outputs": outputs, "params": params}
    written["signature"] = {name: json.dumps(section) for name, section in sections.items() if section}
    (folder / "MLmodel").write_text(yaml.safe_dump(written))
    return Road(folder, read_signature(written))


def parts(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Give a batch as a whole, and each of its rows alone."""
    yield WHOLE, batch
    for row in range(batch.num_rows):
        yield row, batch.slice(row, 1)


def decoded(vector: dict[str, Any], signature: Signature) -> pa.RecordBatch:
    """Decode the columns of a vector."""
    return decode_columns(value_pb2.ColumnBatch.FromString(bytes.fromhex(vector["column_batch"])), signature)


def forms(batch: pa.RecordBatch, signature: Signature) -> Iterator[BodyForm]:
    """Give each form in which a batch may be sent."""
    chosen = choose(batch, signature, parquet_works=False)
    yield chosen
    if chosen is BodyForm.INPUTS and not any(isinstance(one.type, Tensor) for one in signature.inputs):
        yield BodyForm.SPLIT
    many = pa.concat_batches([batch] * 1000)
    if choose(many, signature, parquet_works=True) is BodyForm.PARQUET:
        yield BodyForm.PARQUET


@pytest.mark.parametrize("vector", ACCEPTED, ids=[one["name"] for one in ACCEPTED])
def test_a_model_sees_the_same_values_on_both_roads(vector: dict[str, Any], plain: Path, tmp_path: Path) -> None:
    """Columns, dtypes and values, whole and row by row, in each form; or nothing, where the tables say so."""
    name = vector["name"]
    road = signed(plain / "echo", tmp_path / "m", vector["mlflow_inputs"], [{"type": "string"}])
    for row, batch in parts(decoded(vector, road.signature)):
        here = road.here(batch)
        assert (here == INVALID) == ((name, row) in NEITHER)
        for form in forms(batch, road.signature):
            there = road.there(batch, form)
            if (name, row) in REFUSED or ((name, row) in NEEDS_PARQUET and form is not BodyForm.PARQUET):
                assert (here != INVALID, there) == (True, INVALID), form
            elif (name, row) in SPELLED and form is not BodyForm.PARQUET:
                assert (here, there) == SPELLED[name, row], form
            else:
                assert there == here, form


@pytest.mark.parametrize("vector", ACCEPTED, ids=[one["name"] for one in ACCEPTED])
def test_answers_are_read_alike_on_both_roads(vector: dict[str, Any], plain: Path, tmp_path: Path) -> None:
    """A model that gives back its input answers with every type; each value comes back the same, or refused alike."""
    name = vector["name"]
    road = signed(plain / "mirror", tmp_path / "m", vector["mlflow_inputs"], vector["mlflow_inputs"])
    for row, batch in parts(decoded(vector, road.signature)):
        if (name, row) in REFUSED | NEITHER | NEEDS_PARQUET:
            continue
        there = road.there(batch, choose(batch, road.signature, parquet_works=False))
        assert there == (rows_of(batch) if (name, row) in RAGGED else road.here(batch))


X, Y = {"type": "double", "required": True}, {"type": "string", "required": True}
UNNAMED = [{"type": "double"}, {"type": "string"}]


@pytest.mark.parametrize(
    "inputs",
    [
        [{**X, "name": 0}, {**Y, "name": 1}],
        [{**X, "name": "0"}, {**Y, "name": "1"}],
        [{**X, "name": 7}, {**Y, "name": "a"}],
        [{**X, "name": "input_0"}, {**Y, "name": "input_1"}],
        UNNAMED,
        UNNAMED[:1],
        UNNAMED[1:],
        [{**X, "name": "input_0"}],
        [{**Y, "name": "input_0"}],
    ],
    ids=str,
)
def test_columns_are_found_by_whatever_name(inputs: list[Any], plain: Path, tmp_path: Path) -> None:
    """Numbers, text that looks like them, none at all, and the names that we give those without."""
    road = signed(plain / "echo", tmp_path / "m", inputs, [{"type": "string"}])
    columns = {
        field.name: [0.5, 1.0] if field.type == Scalar(ScalarKind.DOUBLE) else ["a", "b"]
        for field in road.signature.inputs
    }
    batch = batch_from_rows(columns, road.signature.inputs)
    here = road.here(batch)
    assert len(here) == 2
    for form in forms(batch, road.signature):
        assert road.there(batch, form) == here, form


def test_parameters_are_seen_alike(plain: Path, tmp_path: Path) -> None:
    """Of each type, in a list, and missing."""
    params = [
        {"name": "a", "type": "long", "default": 1, "shape": None},
        {"name": "b", "type": "float", "default": 0.5, "shape": None},
        {"name": "c", "type": "datetime", "default": "2024-01-01T00:00:00", "shape": None},
        {"name": "d", "type": "string", "default": None, "shape": None},
        {"name": "e", "type": "double", "default": [1.0], "shape": [-1]},
        {"name": "f", "type": "boolean", "default": True, "shape": None},
    ]
    road = signed(plain / "mirror", tmp_path / "m", [{**X, "name": "x"}], [{"type": "string"}], params)
    batch = batch_from_rows({"x": [1.0]}, road.signature.inputs)
    given = {
        "a": 2**53 + 1,
        "b": 0.1,
        "c": datetime(2026, 11, 23, 14, 5, 6, 7),
        "d": None,
        "e": [float("inf"), 2.0],
        "f": False,
    }
    here = rows_of(road.worker.score(batch, given))
    for form in (BodyForm.SPLIT, BodyForm.INPUTS):
        status, content = road.post(encode(batch, road.signature, given, form))
        assert status == 200
        assert rows_of(decode(content, "m", "1", road.signature, 1)) == here


def test_a_model_with_type_hints_is_scored_alike(tmp_path: Path) -> None:
    """It takes its rows bare."""
    import mlflow

    code = Path(__file__).with_name("hinted_model.py")
    mlflow.pyfunc.save_model(path=tmp_path / "m", python_model=str(code), pip_requirements=["mlflow"])
    road = Road(tmp_path / "m", read_signature(yaml.safe_load((tmp_path / "m" / "MLmodel").read_text())))
    [field] = road.signature.inputs
    rows = [
        {"name": "a", "numbers": [0.5, 1.0], "count": 2**53 + 1, "promo": 0.5},
        {"name": 'é"', "numbers": []},
        {"name": "c", "numbers": [], "promo": None},
    ]
    batch = batch_from_rows({field.name: rows}, road.signature.inputs)
    here = road.here(batch)
    assert ["promo=0.25" in here[1], "promo=None" in here[2]] == [True, True], here
    assert road.there(batch, choose(batch, road.signature, parquet_works=True)) == here


def test_what_a_model_raises_is_told_by_its_type(plain: Path, tmp_path: Path) -> None:
    """Apart from what the server refuses."""
    road = signed(plain / "mirror", tmp_path / "m", [{**X, "name": "fail"}], [{"type": "double"}])
    batch = batch_from_rows({"fail": [1.0]}, road.signature.inputs)
    for form in BodyForm:
        assert decode_error(*road.post(encode(batch, road.signature, {}, form))) == ("model_error", "LookupError")
    other = pa.record_batch({"other": ["1.0"]})
    for form in BodyForm:
        assert decode_error(*road.post(encode(other, road.signature, {}, form))) == ("invalid_input", "unknown")
    broken = Body(b"no parquet", encode(batch, road.signature, {}, BodyForm.PARQUET).content_type)
    assert decode_error(*road.post(broken)) == ("unknown", "unknown")


def test_the_tables_name_vectors_that_are() -> None:
    """A difference of a vector that was renamed would never be looked at."""
    named = {name for name, _ in {*NEITHER, *REFUSED, *NEEDS_PARQUET, *SPELLED, *RAGGED}}
    assert named <= {one["name"] for one in ACCEPTED}
