"""Record batches as the input of a model: the same as MLflow's own enforcement would hand over."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.ipc.faults import InvalidRows
from prinz_enricher.signature import input_schema, read_signature
from prinz_enricher.worker.model_inputs import InputBuilder

# MLflow's import warns of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


def column(kind: str | dict[str, Any], name: str | int | None, *, required: bool = True) -> dict[str, Any]:
    """Write a column of a signature as MLflow does."""
    written: dict[str, Any] = {"type": kind} if isinstance(kind, str) else dict(kind)
    if name is not None:
        written["name"] = name
    return {**written, "required": required}


def schema_of(*columns: dict[str, Any]) -> pa.Schema:
    """Give the Arrow schema of a signature's inputs."""
    return input_schema(read_signature({"signature": {"inputs": json.dumps(columns), "outputs": None, "params": None}}))


def build(values: dict[str, list[Any]], *columns: dict[str, Any]) -> Any:
    """Build the input for some columns of a signature."""
    schema = schema_of(*columns)
    names = None if "name" not in columns[0] else [one["name"] for one in columns]
    chosen = [field for field in schema if field.name in values]
    arrays = [pa.array(values[field.name], field.type) for field in chosen]
    return InputBuilder(schema, names).build(pa.RecordBatch.from_arrays(arrays, schema=pa.schema(chosen)))


def enforced(frame: Any, *columns: dict[str, Any]) -> Any:
    """Have MLflow enforce a signature."""
    from mlflow.models.utils import _enforce_schema
    from mlflow.types import Schema

    return _enforce_schema(frame.copy(deep=True), Schema.from_json(json.dumps(columns)))


ALL = [
    column("boolean", "boolean"),
    column("integer", "integer"),
    column("long", "long"),
    column("float", "float"),
    column("double", "double"),
    column("string", "string"),
    column("binary", "binary"),
    column("datetime", "datetime"),
]
VALUES: dict[str, list[Any]] = {
    "boolean": [True, False],
    "integer": [1, -(2**31)],
    "long": [2**53 + 1, -(2**63)],
    "float": [0.5, 1.5],
    "double": [0.1, float("nan")],
    "string": ["a", None],
    "binary": [b"\0a", b""],
    "datetime": [dt.datetime(2024, 1, 2, 3, 4, 5, 6), dt.datetime(1999, 1, 1)],
}


def test_every_scalar_type_has_the_dtype_that_mlflow_gives_it() -> None:
    """MLflow's enforcement takes the frame and changes nothing about it."""
    frame = build(VALUES, *ALL)
    pd.testing.assert_frame_equal(enforced(frame, *ALL), frame, check_exact=True)
    assert [str(kind) for kind in frame.dtypes[:5]] == ["bool", "int32", "int64", "float32", "float64"]
    assert str(frame["datetime"].dtype) == "datetime64[ns]"
    assert frame["long"].tolist() == VALUES["long"]
    assert frame["binary"].tolist() == VALUES["binary"]
    assert pd.isna(frame["string"][1])


@pytest.mark.parametrize("kind", ["double", "float"])
def test_columns_of_one_float_type_are_one_block(kind: str) -> None:
    """A single block is what makes a single row cheap; a null is NaN."""
    columns = [column(kind, f"c{i}") for i in range(3)]
    frame = build({"c0": [1.0, 2.0], "c1": [3.0, None], "c2": [5.0, 6.0]}, *columns)
    assert len(frame._mgr.blocks) == 1
    assert list(frame.columns) == ["c0", "c1", "c2"]
    assert np.isnan(frame["c1"][1])
    pd.testing.assert_frame_equal(enforced(frame, *columns), frame, check_exact=True)


def test_integer_names_stay_integers() -> None:
    """A model trained on a frame without column names has 0, 1 and so on."""
    frame = build({"0": [1.0], "1": [2]}, column("double", 0), column("long", 1))
    assert list(frame.columns) == [0, 1]
    assert frame[0].tolist() == [1.0]


def test_columns_without_names_are_counted() -> None:
    """Their position is all there is."""
    columns = [column("double", None), column("string", None)]
    names = schema_of(*columns).names
    frame = build({names[0]: [1.0], names[1]: ["a"]}, *columns)
    assert list(frame.columns) == [0, 1]
    assert frame[1].tolist() == ["a"]


def test_an_absent_optional_column_stays_absent() -> None:
    """MLflow leaves it out too; the next batch may have it."""
    schema = schema_of(column("double", "a"), column("double", "b", required=False))
    builder = InputBuilder(schema, ["a", "b"])
    both = pa.RecordBatch.from_arrays([pa.array([1.0]), pa.array([2.0])], schema=schema)
    assert list(builder.build(both).columns) == ["a", "b"]
    assert list(builder.build(both.select(["a"])).columns) == ["a"]
    assert list(builder.build(both).columns) == ["a", "b"]


def test_missing_integers_and_booleans_change_no_other_value() -> None:
    """Never a float for a long: 2^53 + 1 would come out as 2^53."""
    frame = build(
        {"long": [2**53 + 1, None], "integer": [1, None], "boolean": [True, None]},
        column("long", "long", required=False),
        column("integer", "integer", required=False),
        column("boolean", "boolean", required=False),
    )
    assert str(frame["long"].dtype) == "Int64"
    assert frame["long"][0] == 2**53 + 1
    assert frame["long"][1] is pd.NA
    assert str(frame["integer"].dtype) == "Int32"
    assert frame["boolean"].tolist() == [True, None]


def test_a_datetime_that_pandas_can_not_hold_is_told() -> None:
    """It is not wrapped around into another century."""
    with pytest.raises(InvalidRows):
        build({"d": [dt.datetime(2500, 1, 1)]}, column("datetime", "d"))
    assert build({"d": [None, dt.datetime(2000, 1, 1)]}, column("datetime", "d", required=False))[
        "d"
    ].isna().tolist() == [
        True,
        False,
    ]


def test_a_model_may_write_into_its_input() -> None:
    """Feature engineering in place is common, and MLflow's own frames allow it."""
    frame = build(VALUES, *ALL)
    for name in ("boolean", "integer", "long", "float", "double", "datetime"):
        frame.loc[0, name] = frame.loc[1, name]
        frame[name].to_numpy()
    assert frame["long"].tolist() == [-(2**63)] * 2
    block = build({"a": [1.0], "b": [2.0]}, column("double", "a"), column("double", "b"))
    block["a"] *= 2
    assert block["a"].tolist() == [2.0]
    [spec] = tensors((None, "float32", [-1, 2]))
    schema = schema_of(spec)
    batch = pa.RecordBatch.from_arrays([pa.array([[1.0, 2.0]], schema.field(0).type)], schema=schema)
    tensor = InputBuilder(schema, None).build(batch)
    tensor += 1
    assert batch.column(0).to_pylist() == [[1.0, 2.0]]


def test_a_model_may_write_into_rows_that_came_in_memory_of_others() -> None:
    """Each column, and each array in a column, is the model's own."""
    lists = [column(array(kind), kind + "s") for kind in ("double", "float", "integer", "datetime")]
    values = {f"{kind}s": [VALUES[kind]] * 2 for kind in ("double", "float", "integer", "datetime")}
    schema = schema_of(*ALL, *lists)
    given = {**VALUES, **values}
    whole = pa.RecordBatch.from_arrays([pa.array(given[field.name], field.type) for field in schema], schema=schema)
    batch = pa.ipc.read_record_batch(pa.py_buffer(whole.serialize().to_pybytes()), schema)
    names = list(schema.names)
    for kept in (names, ["double"], ["float"]):
        frame = InputBuilder(schema, names).build(batch.select(kept))
        for name in kept:
            frame.loc[0, name] = frame[name][1]
            if isinstance(frame[name][1], np.ndarray):
                frame[name][1][0] = frame[name][1][1]
    assert batch.serialize().equals(whole.serialize())


def array(items: str | dict[str, Any]) -> dict[str, Any]:
    """Write an array type."""
    return {"type": "array", "items": {"type": items} if isinstance(items, str) else items}


NESTED: list[tuple[dict[str, Any], list[Any]]] = [
    (array("double"), [[1.5, 2.0], []]),
    (array("float"), [[1.5, 2.0], [0.5]]),
    (array("integer"), [[1, 2], [3]]),
    (array("long"), [[2**60], [1, 2]]),
    (array("string"), [["a", "b"], ["c"]]),
    (array("boolean"), [[True], [False, True]]),
    (array(array("double")), [[[1.0], [2.0, 3.0]], [[0.5]]]),
    ({"type": "map", "values": {"type": "long"}}, [[("a", 1)], [("b", 2), ("c", 3)]]),
    ({"type": "map", "values": array("string")}, [[("a", ["x"])], [("b", ["y"])]]),
    (
        {
            "type": "object",
            "properties": {
                "d": {"type": "double", "required": True},
                "f": {"type": "float", "required": True},
                "i": {"type": "integer", "required": True},
                "s": {"type": "string", "required": False},
                "tags": {**array("string"), "required": True},
            },
        },
        [
            {"d": 1.0, "f": 0.5, "i": 3, "s": None, "tags": ["a"]},
            {"d": 2.0, "f": 1.5, "i": 4, "s": {"value": "x"}, "tags": ["b", "c"]},
        ],
    ),
]


@pytest.mark.parametrize(("kind", "values"), NESTED, ids=lambda one: str(one)[:40])
def test_nested_values_are_what_mlflow_hands_over(kind: dict[str, Any], values: list[Any]) -> None:
    """MLflow's enforcement accepts each of them, and gives the same values of the same Python types back."""
    spec = column(kind, "n")
    frame = build({"n": values}, spec)
    after = enforced(frame, spec)
    assert [describe(value) for value in after["n"]] == [describe(value) for value in frame["n"]]


def describe(value: Any) -> Any:
    """Tell a value with the types of all its parts."""
    if isinstance(value, dict):
        return {name: describe(one) for name, one in value.items()}
    if isinstance(value, list):
        return [describe(one) for one in value]
    if isinstance(value, np.ndarray):
        return ("ndarray", str(value.dtype), value.tolist())
    return (type(value).__name__, value)


def test_slices_of_nested_columns_are_minded() -> None:
    """A batch that is a part of a larger one has its own rows only."""
    for type_, values in NESTED:
        spec = column(type_, "n")
        schema = schema_of(spec)
        whole = pa.RecordBatch.from_arrays([pa.array(values * 3, schema.field(0).type)], schema=schema)
        part = InputBuilder(schema, ["n"]).build(whole.slice(3, 2))
        assert [describe(one) for one in part["n"]] == [describe(one) for one in build({"n": values}, spec)["n"]][::-1]


def test_any_columns_are_parsed() -> None:
    """JSON becomes Python's own values, each in its row."""
    frame = build({"x": ['{"a": [1, 2.5]}', "null", None, '"s"']}, column({"type": "any"}, "x"))
    assert frame["x"].tolist() == [{"a": [1, 2.5]}, None, None, "s"]
    assert frame["x"].dtype == object


@pytest.mark.parametrize(
    ("texts", "dtype", "values"),
    [
        (["1", "2"], "int64", [1, 2]),
        (["1", "2.5"], "float64", [1.0, 2.5]),
        (["1.5", "null"], "float64", None),
        (["true", "false"], "bool", [True, False]),
        ([str(2**53 + 1), "2.5"], "object", [2**53 + 1, 2.5]),
        ([str(2**64), "1"], "object", [2**64, 1]),
        (["1", "null"], "object", [1, None]),
        (["true", "1"], "object", [True, 1]),
        (['{"a": 1}', "[1]"], "object", [{"a": 1}, [1]]),
    ],
)
def test_a_model_without_signature_gets_plain_columns(texts: list[str], dtype: str, values: list[Any] | None) -> None:
    """What pandas would make of the values, save where it would change one."""
    builder = InputBuilder(pa.schema([]), [], declared=False)
    frame = builder.build(pa.RecordBatch.from_arrays([pa.array(texts)], names=["free"]))
    assert list(frame.columns) == ["free"]
    assert str(frame["free"].dtype) == dtype
    if values is not None:
        assert frame["free"].tolist() == values
        assert [type(one) for one in frame["free"].tolist()] == [type(one) for one in values]


def test_a_model_without_signature_gets_text_as_pandas_holds_it() -> None:
    """Strings with a null among them are text."""
    frame = InputBuilder(pa.schema([]), [], declared=False).build(
        pa.RecordBatch.from_arrays([pa.array(['"a"', "null"])], names=["t"])
    )
    assert frame["t"][0] == "a"
    assert pd.isna(frame["t"][1])
    assert frame["t"].dtype == pd.Series(["a"]).dtype


def tensors(*specs: tuple[str | None, str, list[int]]) -> list[dict[str, Any]]:
    """Write tensors as MLflow does."""
    return [
        {**({} if name is None else {"name": name}), "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}
        for name, dtype, shape in specs
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint8", "int64", "uint64", "bool", "float16", "str"])
def test_tensors_have_their_dtype_and_shape(dtype: str) -> None:
    """One unnamed tensor is an array with the rows first."""
    [spec] = tensors((None, dtype, [-1, 2, 3]))
    schema = schema_of(spec)
    wanted = np.arange(12).reshape(2, 2, 3).astype(np.dtype(dtype))
    batch = pa.RecordBatch.from_arrays([pa.array(wanted.tolist(), schema.field(0).type)], schema=schema)
    got = InputBuilder(schema, None).build(batch)
    assert got.dtype.kind == wanted.dtype.kind
    assert got.shape == (2, 2, 3)
    assert (got == wanted).all()
    assert InputBuilder(schema, None).build(batch.slice(1, 1)).tolist() == wanted[1:].tolist()
    from mlflow.models.utils import _enforce_schema
    from mlflow.types import Schema

    _enforce_schema(got, Schema.from_json(json.dumps([spec])))


def test_named_tensors_are_a_dict_and_those_of_any_size_may_be_ragged() -> None:
    """MLflow takes arrays of arrays for rows of different sizes."""
    specs = tensors(("a", "float32", [-1]), ("b", "int64", [-1, -1]))
    schema = schema_of(*specs)
    batch = pa.RecordBatch.from_arrays(
        [pa.array([1.0, 2.0, 3.0], schema.field(0).type), pa.array([[1, 2], [3, 4], [5]], schema.field(1).type)],
        schema=schema,
    )
    builder = InputBuilder(schema, ["a", "b"])
    got = builder.build(batch)
    assert got["a"].dtype == np.float32
    assert got["b"].dtype == object
    assert [row.tolist() for row in got["b"]] == [[1, 2], [3, 4], [5]]
    assert builder.build(batch.slice(0, 2))["b"].tolist() == [[1, 2], [3, 4]]


@given(st.lists(st.one_of(st.none(), st.floats(width=64)), min_size=1, max_size=20), st.integers(1, 5))
def test_doubles_arrive_bit_by_bit(values: list[float | None], width: int) -> None:
    """NaN and the sign of zero too; a null is NaN."""
    columns = [column("double", f"c{i}") for i in range(width)]
    frame = build({f"c{i}": values for i in range(width)}, *columns)
    wanted = np.array([np.nan if value is None else value for value in values])
    for i in range(width):
        np.testing.assert_array_equal(frame[f"c{i}"].to_numpy(), wanted)
        np.testing.assert_array_equal(np.signbit(frame[f"c{i}"][wanted == 0]), np.signbit(wanted[wanted == 0]))


@pytest.mark.parametrize(
    ("texts", "dtype"), [(["1", "2"], "int64"), (["1.0", "null"], "float64"), (["true"], "bool"), (['"a"'], "str")]
)
def test_an_any_column_of_one_kind_has_the_dtype_that_mlflow_leaves_it_with(texts: list[str], dtype: str) -> None:
    """MLflow has pandas guess it, so that a model computes with numbers and not with objects."""
    spec = column({"type": "any"}, "x")
    frame = build({"x": texts}, spec)
    pd.testing.assert_frame_equal(enforced(frame, spec), frame, check_exact=True)
    assert frame["x"].dtype == (pd.Series(["a"]).dtype if dtype == "str" else dtype)


def test_an_any_column_is_never_rounded() -> None:
    """A whole number beyond 2^53 beside a fraction stays what it is."""
    frame = build({"x": [str(2**53 + 1), "2.5"]}, column({"type": "any"}, "x"))
    assert frame["x"].tolist() == [2**53 + 1, 2.5]


@pytest.mark.parametrize(
    ("dtype", "shape", "rows"),
    [
        ("uint8", [-1, 2, -1], [[[1, 2], [3]]]),
        ("str", [-1, -1, -1], [[["a", "b"], ["c"]]]),
        ("bytes", [-1], [b"a\0"]),
        ("bytes", [-1, -1], [[b"a\0"], [b"b"]]),
        ("str", [-1, 2], [["a", "b\0"]]),
    ],
)
def test_what_no_array_can_hold_is_the_caller_s_fault(dtype: str, shape: list[int], rows: list[Any]) -> None:
    """Rows ragged in themselves, and texts whose last NUL numpy would drop: refused, and never changed."""
    [spec] = tensors(("t", dtype, shape))
    with pytest.raises(InvalidRows):
        build({"t": rows}, spec)


@pytest.mark.parametrize("shape", [[-1], [-1, 2], [-1, -1]])
def test_a_null_among_the_texts_of_a_tensor_is_no_word(shape: list[int]) -> None:
    """Numpy would write None."""
    [spec] = tensors(("t", "str", shape))
    rows: list[Any] = ["a", None] if len(shape) == 1 else [["a", None], ["b", "c"]]
    assert build({"t": rows}, spec)["t"].tolist() == rows
