"""Batches as requests to `/invocations`: each value as it is, or a refusal."""

from __future__ import annotations

import base64
import io
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prinz_enricher.batch import batch_from_rows
from prinz_enricher.batch.python_values import python_values
from prinz_enricher.errors import InvalidInput
from prinz_enricher.scoring.remote.request_body import (
    INPUTS_VALUES,
    PARQUET_VALUES,
    BodyForm,
    choose,
    encode,
    row_bytes,
    texts,
)
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Micros,
    Param,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    Tensor,
    Type,
    arrow_type,
)
from tests.batch.batch_strategies import fitting, types

BOOLEAN, INTEGER, LONG, FLOAT, DOUBLE, STRING, BINARY, DATETIME = map(Scalar, ScalarKind)
OUTPUT = (Field("output_0", DOUBLE),)


def signature_of(columns: Mapping[str, Type], params: tuple[Param, ...] = (), *, required: bool = False) -> Signature:
    """Make a signature of these inputs."""
    return Signature(tuple(Field(name, type, required) for name, type in columns.items()), OUTPUT, params)


def written(
    batch: pa.RecordBatch, signature: Signature, form: BodyForm, params: Mapping[str, object] | None = None
) -> Any:
    """Encode a batch as JSON and read it again."""
    body = encode(batch, signature, params or {}, form)
    assert body.content_type == "application/json"
    return json.loads(body.content)


def expected(value: object, *, nested: bool = False) -> object:
    """Give what JSON tells of a value, in a form in which 1 and 1.0, 0.0 and -0.0 differ and NaN equals itself."""
    match value:
        case Micros():
            return repr(value.datetime().isoformat(timespec="microseconds"))
        case bytes():
            return repr(base64.b64encode(value).decode())
        case float() if math.isnan(value):
            return "nan" if nested else "None"
        case list():
            return [expected(one, nested=True) for one in value]
        case dict():
            return {key: expected(one, nested=True) for key, one in value.items()}
    return repr(value)


def tensor_free_of_nan(value: Any) -> Any:
    """Give a tensor's row as it is written: NaN is null at any depth."""
    if isinstance(value, list):
        return [tensor_free_of_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


@given(st.data(), types)
def test_json_holds_each_value_of_a_batch(data: st.DataObject, type: Type) -> None:
    """Whatever the type, few rows and many: the values that are read are those of the batch, save what is refused."""
    required = data.draw(st.booleans())
    rows = data.draw(st.lists(fitting(type, required), min_size=1, max_size=40))
    field = Field("x", type, required)
    signature = Signature((field,), OUTPUT)
    try:
        batch = batch_from_rows({"x": rows}, signature.inputs)
        got = written(batch, signature, BodyForm.SPLIT)
    except InvalidInput:
        assume(False)
    read = got["inputs"] if isinstance(type, Tensor) else [row[0] for row in got["dataframe_split"]["data"]]
    values = python_values(batch.column(0), batch.schema.field(0))
    if isinstance(type, Tensor):
        values = [tensor_free_of_nan(value) for value in values]
    assert [expected(one, nested=True) for one in read] == [
        expected(value, nested=isinstance(type, AnyValue)) for value in values
    ]


@given(st.lists(st.floats() | st.integers(-(2**53), 2**53).map(float), min_size=1, max_size=80))
def test_doubles_are_read_back_to_the_bit(values: list[float]) -> None:
    """By Python for a few and by Arrow for many, as floating point numbers, -0.0 and whole ones too."""
    for array in (pa.array(values), pa.array(values * 25)):
        read = [json.loads(one) for one in texts(array, DOUBLE)]
        wanted = array.to_pylist()
        assert [repr(one) for one in read] == ["None" if math.isnan(one) else repr(one) for one in wanted]


@pytest.mark.parametrize("count", [3, 300])
def test_a_float32_is_written_as_its_own_value(count: int) -> None:
    """Not as the decimal that it was rounded from."""
    array = pa.array([0.1] * count, pa.float32())
    assert {json.loads(one) for one in texts(array, FLOAT)} == {float(np.float32(0.1))}


@pytest.mark.parametrize("count", [3, 300])
def test_every_escape_is_written(count: int) -> None:
    """Control characters, quotes, backslashes, and what is outside the first plane."""
    text = "".join(map(chr, range(0x20))) + '"\\/\x7f\u2028é𝄞'
    array = pa.array([text, None, "plain"] * count)
    assert [json.loads(one) for one in texts(array, STRING)] == [text, None, "plain"] * count


def test_slices_are_written_as_what_they_are() -> None:
    """Nested arrays keep what is around a slice; it is not sent."""
    type = Record((Field("a", ListOf(LONG)), Field("m", MapOf(STRING), False)))
    rows: list[dict[str, Any]] = [{"a": [place, place + 1], "m": {"k": str(place)}} for place in range(6)]
    rows.append({"a": [], "m": None})
    signature = signature_of({"x": type, "y": DOUBLE})
    batch = batch_from_rows({"x": rows, "y": [float(place) for place in range(7)]}, signature.inputs).slice(2, 5)
    got = written(batch, signature, BodyForm.SPLIT)["dataframe_split"]["data"]
    assert got == [[row, float(place)] for place, row in list(enumerate(rows))[2:]]


def test_rows_and_columns_are_named() -> None:
    """By rows and by columns; an optional column that is absent is left out."""
    signature = signature_of({"a": DOUBLE, 'quo"te': LONG, "c": STRING})
    batch = batch_from_rows({"a": [1.0, 2.5], 'quo"te': [2**53 + 1, -1]}, signature.inputs)
    assert written(batch, signature, BodyForm.SPLIT) == {
        "dataframe_split": {"columns": ["a", 'quo"te'], "data": [[1.0, 2**53 + 1], [2.5, -1]]}
    }
    assert written(batch, signature, BodyForm.INPUTS) == {"inputs": {"a": [1.0, 2.5], 'quo"te': [2**53 + 1, -1]}}


def test_batches_without_rows_or_columns_are_written() -> None:
    """A frame of no rows, and one of rows without columns."""
    signature = signature_of({"a": DOUBLE, "b": STRING})
    empty = batch_from_rows({"a": [], "b": []}, signature.inputs)
    assert written(empty, signature, BodyForm.SPLIT)["dataframe_split"] == {"columns": ["a", "b"], "data": []}
    bare = batch_from_rows([{}, {}], signature.inputs)
    assert choose(bare, signature, parquet_works=True) is BodyForm.SPLIT
    assert written(bare, signature, BodyForm.SPLIT)["dataframe_split"] == {"columns": [], "data": [[], []]}


def test_names_that_may_be_numbers_are_sent_as_both() -> None:
    """The signature does not tell 0 from "0", and MLflow takes no other than its own."""
    signature = signature_of({"0": DOUBLE, "a": DOUBLE, "01": DOUBLE})
    batch = batch_from_rows({"0": [1.0], "a": [2.0], "01": [3.0]}, signature.inputs)
    form = choose(batch, signature, parquet_works=True)
    assert written(batch, signature, form)["dataframe_split"] == {
        "columns": [0, "0", "a", "01"],
        "data": [[1.0, 1.0, 2.0, 3.0]],
    }


def test_inputs_without_names_come_first_by_their_place() -> None:
    """Or by the name, where a model has columns of just these names."""
    signature = signature_of({"input_0": DOUBLE, "input_1": DOUBLE})
    batch = batch_from_rows({"input_0": [1.0], "input_1": [2.0]}, signature.inputs)
    form = choose(batch, signature, parquet_works=True)
    assert written(batch, signature, form)["dataframe_split"]["columns"] == [0, 1, "input_0", "input_1"]


@pytest.mark.parametrize("type", [STRING, Record((Field("a", LONG),)), AnyValue()])
def test_the_one_input_without_a_name_is_sent_bare(type: Type) -> None:
    """As a model with type hints wants it."""
    rows: Any = ["x", "y"] if type is STRING else [{"a": 1}, {"a": 2}]
    signature = signature_of({"input_0": type})
    batch = batch_from_rows({"input_0": rows}, signature.inputs)
    assert written(batch, signature, choose(batch, signature, parquet_works=True)) == {"inputs": rows}


def test_columns_of_a_model_without_a_signature_hold_their_json() -> None:
    """Each value as it was written; a null is null."""
    signature = Signature((), OUTPUT)
    batch = batch_from_rows({"a": [1, 1.5, None], "b": ["x", {"k": [math.inf]}, True]}, ())
    assert written(batch, signature, choose(batch, signature, parquet_works=True))["dataframe_split"] == {
        "columns": ["a", "b"],
        "data": [[1, "x"], [1.5, {"k": [math.inf]}], [None, True]],
    }


def test_tensors_are_inputs() -> None:
    """One alone, several by name."""
    one = signature_of({"input_0": Tensor("float32", (-1, 2))})
    batch = batch_from_rows({"input_0": [[1, 2], [0.5, math.nan]]}, one.inputs)
    assert written(batch, one, choose(batch, one, parquet_works=True)) == {"inputs": [[1.0, 2.0], [0.5, None]]}
    two = signature_of({"a": Tensor("int64", (-1,)), "b": Tensor("uint64", (-1, -1))})
    batch = batch_from_rows({"a": [2**53 + 1], "b": [[2**64 - 1]]}, two.inputs)
    assert written(batch, two, choose(batch, two, parquet_works=True)) == {
        "inputs": {"a": [2**53 + 1], "b": [[2**64 - 1]]}
    }


def test_parameters_are_sent_with_their_values() -> None:
    """Instants as ISO-8601; what has no value is left to the server's default."""
    params = (
        Param("when", DATETIME, None),
        Param("how", FLOAT, 0.5),
        Param("which", LONG, [1], (-1,)),
        Param("none", STRING, None),
    )
    signature = signature_of({"a": DOUBLE}, params)
    batch = batch_from_rows({"a": [1.0]}, signature.inputs)
    given: dict[str, object] = {"when": datetime(2026, 11, 23, 14, 5), "how": math.inf, "which": [2**60], "none": None}
    for form in (BodyForm.SPLIT, BodyForm.INPUTS):
        assert written(batch, signature, form, given)["params"] == {
            "when": "2026-11-23T14:05:00",
            "how": math.inf,
            "which": [2**60],
        }


def scalars(rows: int) -> dict[str, list[Any]]:
    """Make a column of each scalar type."""
    return {
        "boolean": [True, False] * rows,
        "integer": [2**31 - 1, -(2**31)] * rows,
        "long": [2**53 + 1, -(2**63)] * rows,
        "float": [0.1, math.nan] * rows,
        "double": [0.1, -math.inf] * rows,
        "string": ["é\0", None] * rows,
        "binary": [b"\x00\xff", None] * rows,
        "datetime": [datetime(2026, 11, 23, 14, 5, 6, 7), datetime(1700, 1, 1)] * rows,
    }


def test_parquet_holds_each_scalar() -> None:
    """With its own types, nulls, and without metadata of ours."""
    signature = signature_of({kind.value: Scalar(kind) for kind in ScalarKind})
    batch = batch_from_rows(scalars(200), signature.inputs)
    body = encode(batch, signature, {}, choose(batch, signature, parquet_works=True))
    assert body.content_type == "application/vnd.apache.parquet"
    table = pq.read_table(io.BytesIO(body.content))
    assert table.schema == pa.schema([pa.field(one.name, one.type) for one in batch.schema])
    assert [repr(row) for row in table.to_pylist()] == [repr(row) for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("columns", "rows", "parquet_works", "form"),
    [
        ({"a": DOUBLE}, [{"a": 1.0}], True, BodyForm.INPUTS),
        ({"a": DOUBLE}, [{"a": 1.0}] * PARQUET_VALUES, True, BodyForm.PARQUET),
        ({"a": DOUBLE}, [{"a": 1.0}] * PARQUET_VALUES, False, BodyForm.INPUTS),
        ({"a": DOUBLE}, [{"a": 1.0}] * (INPUTS_VALUES + 1), False, BodyForm.SPLIT),
        ({"a": ListOf(DOUBLE)}, [{"a": [1.0]}] * PARQUET_VALUES, True, BodyForm.SPLIT),
        ({"a": AnyValue()}, [{"a": 1}] * PARQUET_VALUES, True, BodyForm.SPLIT),
        ({"a": STRING}, [{"a": "x"}], True, BodyForm.INPUTS),
        ({"a": STRING}, [{"a": None}, {"a": "x"}], True, BodyForm.SPLIT),
        ({"a": STRING}, [{"a": "x\0"}], True, BodyForm.SPLIT),
        ({"a": BINARY}, [{"a": b"x"}], True, BodyForm.SPLIT),
        ({"a": BINARY}, [{"a": None}], True, BodyForm.PARQUET),
        ({"a": BOOLEAN}, [{"a": None}], True, BodyForm.PARQUET),
        ({"a": BOOLEAN}, [{"a": True}], True, BodyForm.INPUTS),
        ({"a": LONG}, [{"a": None}], True, BodyForm.SPLIT),
        ({"a": Tensor("float64", (-1,))}, [{"a": 1.0}] * PARQUET_VALUES, True, BodyForm.INPUTS),
        ({"input_0": STRING}, [{"input_0": None}], True, BodyForm.SPLIT),
    ],
)
def test_the_cheapest_form_that_changes_no_value_is_chosen(
    columns: dict[str, Type], rows: list[dict[str, object]], parquet_works: bool, form: BodyForm
) -> None:
    """Parquet for many scalars, columns for few, rows for what numpy does not read right."""
    signature = signature_of(columns)
    assert choose(batch_from_rows(rows, signature.inputs), signature, parquet_works) is form


def test_parquet_is_not_chosen_with_parameters() -> None:
    """It has no place for them."""
    signature = signature_of({"a": DOUBLE}, (Param("p", DOUBLE, 1.0),))
    batch = batch_from_rows({"a": [1.0] * PARQUET_VALUES}, signature.inputs)
    assert choose(batch, signature, parquet_works=True) is BodyForm.INPUTS


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (BOOLEAN, None),
        (ListOf(BINARY), [b"secret"]),
        (MapOf(BINARY), {"k": b"secret"}),
        (Record((Field("p", BINARY, False),)), {"p": b"secret"}),
        (ListOf(STRING), ["secret", None]),
        (Record((Field("p", ListOf(STRING)),)), {"p": ["secret\0"]}),
        (DATETIME, datetime(1500, 1, 1)),
        (ListOf(DATETIME), [datetime(2300, 1, 1)]),
        (Tensor("str", (-1,)), None),
        (Tensor("str", (-1, 1)), ["secret\0"]),
        (Tensor("bytes", (-1,)), b"\xff"),
        (Tensor("datetime64[us]", (-1,)), Micros(2**62)),
        (AnyValue(), 2**53 + 1),
    ],
)
def test_what_the_server_would_change_in_silence_is_refused(type: Type, value: object) -> None:
    """With the column, and without the data; rows are not told, as they may be of several callers."""
    signature = signature_of({"free sulfur": type})
    rows = [value, None] if isinstance(type, AnyValue) else [value]
    batch = batch_from_rows({"free sulfur": rows}, signature.inputs)
    with pytest.raises(InvalidInput) as caught:
        encode(batch, signature, {}, BodyForm.SPLIT)
    [violation] = caught.value.violations
    assert violation.field == 'columns["free sulfur"]'
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [[2**53 + 1, 1], [2**53, 0.5], [2**53 + 1, "x", None], [2**53 + 1, True, 0.5], [[2**53 + 1, 0.5], 1.5], [10**30]],
)
def test_whole_numbers_that_pandas_does_not_round_are_sent(values: list[Any]) -> None:
    """Alone, beside values that are no numbers, or within lists."""
    signature = signature_of({"x": AnyValue()})
    batch = pa.record_batch({"x": pa.array([json.dumps(one) for one in values])})
    assert [row[0] for row in written(batch, signature, BodyForm.SPLIT)["dataframe_split"]["data"]] == values


def test_the_size_of_a_row_is_estimated() -> None:
    """Close enough to split a batch by."""
    types: dict[str, Type] = {
        **{kind.value: Scalar(kind) for kind in ScalarKind},
        "list": ListOf(DOUBLE),
        "map": MapOf(STRING),
        "record": Record((Field("a", LONG), Field("b", STRING))),
        "tensor": ListOf(ListOf(FLOAT)),
    }
    signature = signature_of(types)
    rng = np.random.default_rng(7)
    count = 50
    columns: dict[str, Any] = {
        **{name: values[:1] * count for name, values in scalars(1).items()},
        "float": rng.random(count),
        "double": rng.random(count),
        "list": rng.random((count, 8)).tolist(),
        "map": [{"key": "value" * place} for place in range(count)],
        "record": [{"a": 2**60, "b": "text"}] * count,
        "tensor": rng.random((count, 2, 2)).astype(np.float32).astype(float).tolist(),
    }
    batch = batch_from_rows(columns, signature.inputs)
    estimate, size = row_bytes(batch), len(encode(batch, signature, {}, BodyForm.SPLIT).content) / count
    assert 0.7 * size < estimate < 1.5 * size
    assert row_bytes(batch.slice(0, 0)) == 1
    assert row_bytes(batch.slice(10, 5)) > 1


WITHOUT_PANDAS = '''
import sys
from prinz_enricher.cli.process_setup import block_imports
block_imports("pandas", "mlflow", "sklearn")
import pyarrow as pa
from prinz_enricher.batch import batch_from_rows
from prinz_enricher.scoring.remote.predictions import decode
from prinz_enricher.scoring.remote.request_body import BodyForm, encode
from prinz_enricher.signature import Field, ListOf, Scalar, ScalarKind, Signature
fields = *(Field(kind.value, Scalar(kind), False) for kind in ScalarKind), Field("l", ListOf(Scalar(ScalarKind.LONG)))
signature = Signature(fields, fields[3:6] + fields[8:])
rows = [{"float": 0.5, "double": place + 0.5, "string": str(place), "l": [place]} for place in range(100)]
batch = batch_from_rows(rows, signature.inputs)
for form in (BodyForm.SPLIT, BodyForm.PARQUET):
    assert encode(batch, signature, {}, form).content
answer = b"""{"predictions": [
    {"float": 1, "double": 0.5, "string": "a", "l": [1]}, {"float": 0.5, "double": 2, "string": null, "l": []}
]}"""
assert decode(answer, "m", "1", signature, 2).num_rows == 2
assert not {"pandas", "mlflow", "sklearn"} & set(sys.modules)
'''


def test_neither_pandas_nor_mlflow_is_needed() -> None:
    """The service keeps them out of its process."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_PANDAS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_arrow_types_are_those_that_are_written() -> None:
    """Each type of a signature has a text, also where there are no rows."""
    for type in (BOOLEAN, BINARY, ListOf(DOUBLE), MapOf(LONG), Record((Field("a", STRING),)), AnyValue()):
        assert texts(pa.nulls(0, arrow_type(type)), type) == []
