"""What models return, as the outputs that were declared."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse  # type: ignore[import-untyped] # has no stubs

from prinz_enricher.ipc.faults import OutputDiffers
from prinz_enricher.signature import Field, ListOf, Record, Scalar, ScalarKind, arrow_field
from prinz_enricher.worker.model_outputs import OutputReader

DOUBLE = pa.field("output_0", pa.float64(), nullable=False)
INTEGER = pa.field("output_0", pa.int32(), nullable=False)
LONG = pa.field("output_0", pa.int64(), nullable=False)
ANY = pa.field("output_0", pa.utf8(), metadata={b"prinz.type": b"any"})


def read(result: object, rows: int, *fields: pa.Field, named: bool = False) -> list[list[Any]]:
    """Read a result and give its columns."""
    batch = OutputReader(pa.schema(fields), named=named).read(result, rows)
    batch.validate(full=True)
    assert batch.schema == pa.schema(fields)
    return [column.to_pylist() for column in batch.columns]


@pytest.mark.parametrize(
    "result",
    [
        np.array([1.5, 2.5]),
        np.array([[1.5], [2.5]]),
        np.array([1.5, 2.5], dtype=np.float32),
        np.array([1.5, 2.5], dtype=object),
        np.array([0.0, 1.5, 9.0, 2.5])[1::2],
        pd.Series([1.5, 2.5], index=[7, 3]),
        pd.Series([1.5, 2.5], dtype="Float64"),
        pd.DataFrame({"whatever": [1.5, 2.5]}),
        pd.DataFrame([[1.5], [2.5]]),
        [1.5, 2.5],
        (1.5, 2.5),
        [np.float64(1.5), np.float32(2.5)],
        [[1.5], [2.5]],
        [np.array([1.5]), np.array([2.5])],
        {"p": np.array([1.5, 2.5])},
        {"p": [1.5, 2.5]},
        sparse.csr_matrix([[1.5], [2.5]]),
        pa.table({"p": [1.5, 2.5]}),
        pd.array([1.5, 2.5], dtype="Float64"),
    ],
    ids=lambda result: type(result).__name__,
)
def test_one_unnamed_double_is_read_from_all_that_flavours_return(result: object) -> None:
    """The same two numbers, however they are wrapped."""
    assert read(result, 2, DOUBLE) == [[1.5, 2.5]]


@pytest.mark.parametrize("result", [1.5, np.float32(1.5), np.array(1.5), [1.5], {"p": 1.5}])
def test_a_bare_value_is_one_row(result: object) -> None:
    """A model that answers one row with a value and no list is understood."""
    assert read(result, 1, DOUBLE) == [[1.5]]


@pytest.mark.parametrize(
    ("result", "rows"),
    [
        ([1.5], 2),
        (np.zeros(3), 2),
        (1.5, 2),
        (pd.Series([1.0]), 2),
        ([], 1),
        (np.zeros((1, 2)), 1),
        ("text", 1),
        (None, 1),
    ],
)
def test_another_number_of_rows_or_another_form_is_refused(result: object, rows: int) -> None:
    """Rows out must equal rows in."""
    with pytest.raises(OutputDiffers):
        read(result, rows, INTEGER)


@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        (np.array([1, 2]), [1, 2]),
        (np.array([1.0, 2.0]), [1, 2]),
        (np.array([1, 2], dtype=np.uint8), [1, 2]),
        (np.array([2**31 - 1, -(2**31)]), [2**31 - 1, -(2**31)]),
        ([1.0, np.int64(2)], [1, 2]),
        (pd.Series([1, 2], dtype="Int64"), [1, 2]),
        (pd.Series([1, 2], dtype="category"), [1, 2]),
    ],
)
def test_integers_of_any_width_are_taken_where_they_fit(result: object, wanted: list[int]) -> None:
    """Sklearn returns int64 for labels that are declared as integer."""
    assert read(result, 2, INTEGER) == [wanted]


@pytest.mark.parametrize(
    "result",
    [
        np.array([2**31, 0]),
        np.array([1.5, 2.0]),
        np.array([np.nan, 2.0]),
        np.array([np.inf, 2.0]),
        np.array([3e9, 2.0]),
        np.array([True, False]),
        np.array(["1", "2"]),
        [1, None],
        [1, "2"],
        [True, 2],
        [1, 2**70],
        pd.Series([1, None], dtype="Int64"),
        [1, 1.5],
        [object(), 1],
        [pd.NA, 1],
    ],
)
def test_what_is_no_integer_is_refused(result: object) -> None:
    """No value is truncated, wrapped or made up; and the reason holds no data."""
    with pytest.raises(OutputDiffers) as caught:
        read(result, 2, INTEGER)
    assert "3000000000" not in str(caught.value)
    assert "1.5" not in str(caught.value)


def test_a_missing_integer_is_null_where_the_output_is_optional() -> None:
    """Pandas writes NaN for it, or its own NA."""
    optional = INTEGER.with_nullable(True)
    for result in (np.array([np.nan, 2.0]), [None, 2], pd.Series([None, 2], dtype="Int64"), [math.nan, 2]):
        assert read(result, 2, optional) == [[None, 2]]


def test_doubles_keep_nan_and_infinity() -> None:
    """They are values of a double; a missing one is NaN where the output is required."""
    [values] = read(np.array([np.nan, np.inf, -np.inf, -0.0]), 4, DOUBLE)
    assert math.isnan(values[0])
    assert values[1:3] == [math.inf, -math.inf]
    assert math.copysign(1, values[3]) == -1
    [values] = read([None, 1.0, pd.NA], 3, DOUBLE)
    assert math.isnan(values[0])
    assert math.isnan(values[2])


def test_whole_numbers_beyond_a_float_s_precision_are_refused() -> None:
    """2^53 + 1 has no double; 2^53 has."""
    assert read(np.array([2**53]), 1, DOUBLE) == [[2.0**53]]
    with pytest.raises(OutputDiffers):
        read(np.array([2**53 + 1]), 1, DOUBLE)
    with pytest.raises(OutputDiffers):
        read([2**53 + 1], 1, DOUBLE)
    with pytest.raises(OutputDiffers):
        read(np.array([2**24 + 1]), 1, pa.field("output_0", pa.float32()))


def test_a_double_for_a_float_is_rounded_and_too_large_a_one_refused() -> None:
    """The one stated exception of the coercion policy."""
    single = pa.field("output_0", pa.float32(), nullable=False)
    assert read(np.array([0.1]), 1, single) == [[float(np.float32(0.1))]]
    with pytest.raises(OutputDiffers):
        read(np.array([1e300]), 1, single)
    assert read(np.array([np.inf]), 1, single) == [[math.inf]]


@given(st.lists(st.integers(-(2**63), 2**64 - 1) | st.floats() | st.booleans(), min_size=1, max_size=6))
def test_a_long_is_exact_or_refused(values: list[Any]) -> None:
    """Whatever numbers come, none is changed."""
    try:
        [got] = read(values, len(values), LONG)
    except OutputDiffers:
        return
    assert got == values
    assert not any(isinstance(value, bool) for value in values)


@given(st.lists(st.integers(-(2**62), 2**63) | st.floats(allow_nan=False), min_size=1, max_size=6))
def test_a_numpy_array_and_a_list_give_the_same_decision(values: list[Any]) -> None:
    """The fast way for arrays and the slow one for objects have one policy."""
    array = np.array(values)
    # numpy rounds large integers beside floats; Python compares the two exactly.
    if array.dtype.kind not in "if" or array.tolist() != values:
        return

    def outcome(result: object) -> object:
        try:
            return read(result, len(values), INTEGER)
        except OutputDiffers:
            return "refused"

    assert outcome(array) == outcome(values)


def test_booleans_text_bytes_and_times() -> None:
    """The other scalars, from arrays and from objects."""
    boolean = pa.field("o", pa.bool_(), nullable=False)
    assert read(np.array([True, False]), 2, boolean) == [[True, False]]
    assert read([np.bool_(True), False], 2, boolean) == [[True, False]]
    text = pa.field("o", pa.utf8())
    assert read(np.array(["a", "é"]), 2, text) == [["a", "é"]]
    assert read(pd.Series(["a", None]), 2, text) == [["a", None]]
    assert read(np.array(["a", None], dtype=object), 2, text) == [["a", None]]
    assert read("a", 1, text) == [["a"]]
    binary = pa.field("o", pa.binary(), nullable=False)
    assert read([b"\0", bytearray(b"x")], 2, binary) == [[b"\0", b"x"]]
    assert read(b"ab", 1, binary) == [[b"ab"]]
    refused: list[tuple[pa.Field, Any]] = [
        (boolean, [1]),
        (boolean, np.array([1])),
        (text, [1]),
        (text, [b"a"]),
        (binary, ["a"]),
    ]
    for field, wrong in refused:
        with pytest.raises(OutputDiffers):
            read(wrong, 1, field)


def test_times_are_exact_to_the_microsecond_in_utc_or_refused() -> None:
    """Nanoseconds that would be lost are a mismatch; zones become UTC."""
    field = pa.field("o", pa.timestamp("us"), nullable=False)
    moment = dt.datetime(2024, 5, 6, 7, 8, 9, 10)
    zoned = moment.replace(tzinfo=dt.timezone(dt.timedelta(hours=2)))
    assert read([moment, zoned], 2, field) == [[moment, moment - dt.timedelta(hours=2)]]
    assert read(np.array([moment], dtype="datetime64[ns]"), 1, field) == [[moment]]
    assert read(pd.Series([moment]), 1, field) == [[moment]]
    assert read(pd.Series([zoned]), 1, field) == [[moment - dt.timedelta(hours=2)]]
    assert read([dt.date(2024, 1, 2)], 1, field) == [[dt.datetime(2024, 1, 2)]]
    refused: list[Any] = [
        np.array([1], dtype="datetime64[ns]"),
        [pd.Timestamp(1)],
        np.array(["NaT"], dtype="datetime64[us]"),
        [pd.NaT],
        ["2024-01-01"],
    ]
    for wrong in refused:
        with pytest.raises(OutputDiffers):
            read(wrong, 1, field)


TWO = (pa.field("label", pa.int64(), nullable=False), pa.field("p", pa.float64(), nullable=False))


@pytest.mark.parametrize(
    "result",
    [
        pd.DataFrame({"p": [0.5, 0.25], "extra": [0, 0], "label": [1, 2]}),
        {"p": np.array([0.5, 0.25]), "label": [1, 2]},
        [{"label": 1, "p": 0.5}, {"p": 0.25, "label": 2}],
        np.array([[1.0, 0.5], [2.0, 0.25]]),
        [(1, 0.5), (2, 0.25)],
        pd.DataFrame([[1, 0.5], [2, 0.25]]),
    ],
    ids=lambda result: type(result).__name__,
)
def test_named_outputs_are_found_by_name_else_by_position(result: object) -> None:
    """Names decide where there are any."""
    assert read(result, 2, *TWO, named=True) == [[1, 2], [0.5, 0.25]]


@pytest.mark.parametrize(
    "result",
    [
        pd.DataFrame({"p": [0.5], "other": [1]}),
        {"p": [0.5]},
        [{"p": 0.5}],
        np.zeros((1, 3)),
        np.zeros(1),
        [(1, 2, 3)],
        pd.DataFrame([[1, 2]], columns=["p", "p"]),
    ],
)
def test_an_output_that_is_missing_is_refused(result: object) -> None:
    """Nothing is filled in."""
    with pytest.raises(OutputDiffers):
        read(result, 1, *TWO, named=True)


def test_integer_names_are_found() -> None:
    """A frame with integer column names has them as text in the schema."""
    fields = (pa.field("0", pa.float64()), pa.field("1", pa.float64()))
    assert read(pd.DataFrame([[1.0, 2.0]]), 1, *fields, named=True) == [[1.0], [2.0]]
    assert read([{1: 2.0, 0: 1.0}], 1, *fields, named=True) == [[1.0], [2.0]]


def tensor(kind: pa.DataType, dtype: str, shape: str) -> pa.Field:
    """Make the field of an unnamed tensor output."""
    return pa.field("output_0", kind, nullable=False, metadata={b"prinz.type": f"tensor:{dtype}:{shape}".encode()})


def test_tensors_of_any_rank() -> None:
    """One scalar a row, a list a row, or nested lists; of fixed and of any size."""
    assert read(np.array([1, 2]), 2, tensor(pa.int64(), "int64", "[-1]")) == [[1, 2]]
    pairs = np.arange(6, dtype=np.float32).reshape(3, 2)
    fixed = tensor(pa.list_(pa.float32(), 2), "float32", "[-1,2]")
    assert read(pairs, 3, fixed) == [pairs.tolist()]
    assert read(pd.DataFrame(pairs), 3, fixed) == [pairs.tolist()]
    assert read(pairs.tolist(), 3, fixed) == [pairs.tolist()]
    assert read(np.asfortranarray(pairs), 3, fixed) == [pairs.tolist()]
    cube = np.arange(12.0).reshape(2, 3, 2)
    assert read(cube, 2, tensor(pa.list_(pa.list_(pa.float64(), 2), 3), "float64", "[-1,3,2]")) == [cube.tolist()]
    loose = tensor(pa.list_(pa.float64()), "float64", "[-1,-1]")
    assert read(np.ones((2, 3)), 2, loose) == [[[1.0] * 3] * 2]
    assert read([[1.0], [1.0, 2.0]], 2, loose) == [[[1.0], [1.0, 2.0]]]
    with pytest.raises(OutputDiffers):
        read(np.ones((3, 3)), 3, fixed)
    with pytest.raises(OutputDiffers):
        read([[1.0]] * 3, 3, fixed)


def test_lists_records_and_maps() -> None:
    """Nested values are converted at every depth, and refused at every depth."""
    numbers = pa.field("o", pa.list_(pa.int64()), nullable=False)
    assert read([[1, 2], np.array([3.0])], 2, numbers) == [[[1, 2], [3]]]
    assert read(np.array([[1, 2], [3, 4]]), 2, numbers) == [[[1, 2], [3, 4]]]
    with pytest.raises(OutputDiffers):
        read([[1, 2.5]], 1, numbers)
    doubles, texts = Scalar(ScalarKind.DOUBLE), ListOf(Scalar(ScalarKind.STRING))
    record = arrow_field(Field("o", Record((Field("x", doubles), Field("tags", texts, required=False)))))

    @dataclasses.dataclass
    class Point:
        x: float
        tags: list[str] | None

    # An optional property is held as a struct of its value, which is null where the model's answer is without it.
    first = {"x": 1.0, "tags": {"value": ["a"]}}
    absent, null = {"x": 2.0, "tags": None}, {"x": 2.0, "tags": {"value": None}}
    assert read([{"x": 1.0, "tags": ["a"]}, {"x": np.float32(2)}], 2, record) == [[first, absent]]
    assert read([Point(1.0, ["a"]), Point(2, None)], 2, record) == [[first, null]]
    assert read(pd.Series([{"x": 1.0, "tags": ("a",)}, {"x": 2}]), 2, record) == [[first, absent]]
    assert read({"x": 1.0}, 1, record) == [[{"x": 1.0, "tags": None}]]
    refused: list[Any] = [[{"tags": []}], [{"x": 1.0, "y": 1}], ["x"], [{"x": "1"}]]
    for wrong in refused:
        with pytest.raises(OutputDiffers):
            read(wrong, 1, record)
    mapped = pa.field("o", pa.map_(pa.utf8(), pa.int32()), nullable=False)
    assert read([{"a": 1, "b": 2.0}, {}], 2, mapped) == [[[("a", 1), ("b", 2)], []]]
    with pytest.raises(OutputDiffers):
        read([{1: 1}], 1, mapped)


@pytest.mark.parametrize(
    ("result", "rows", "wanted"),
    [
        (np.array([1.5, np.nan]), 2, ["1.5", "NaN"]),
        ([{"a": np.int64(1)}, None], 2, ['{"a": 1}', None]),
        (pd.DataFrame({"a": [1, 2], "b": ["x", None]}), 2, None),
        ({"a": np.array([1, 2]), "b": ["x", "y"]}, 2, ['{"a": 1, "b": "x"}', '{"a": 2, "b": "y"}']),
        ({"answer": "yes"}, 1, ['{"answer": "yes"}']),
        ("text", 1, ['"text"']),
        (np.array([[1, 2], [3, 4]]), 2, ["[1, 2]", "[3, 4]"]),
        ([np.float32(0.1), math.inf], 2, ["0.10000000149011612", "Infinity"]),
        ([2**63 + 1], 1, ["9223372036854775809"]),
        (pd.Series(["a", "é"]), 2, ['"a"', '"é"']),
        ([b"\xff"], 1, ['"/w=="']),
        (pd.DataFrame([[1.5], [2.5]]), 2, ["1.5", "2.5"]),
        ([pd.Timestamp("2024-01-02")], 1, ['"2024-01-02T00:00:00"']),
    ],
)
def test_values_of_any_type_become_json(result: object, rows: int, wanted: list[str | None] | None) -> None:
    """Numbers keep every bit; NaN and infinities are the tokens that Python writes."""
    [got] = read(result, rows, ANY)
    if wanted is None:
        assert [json.loads(text)["a"] for text in got] == [1, 2]
    else:
        assert got == wanted


@pytest.mark.parametrize("result", [[object()], [{1, 2}], [1, 2], {"a": [1, 2]}.keys()])
def test_what_has_no_json_or_another_number_of_rows_is_refused(result: object) -> None:
    """An unknown object is not turned into its text."""
    with pytest.raises(OutputDiffers):
        read(result, 1, ANY)


def test_a_required_output_that_a_row_lacks_is_a_mismatch() -> None:
    """Text may be null, but a row without a declared output is not what was declared."""
    schema = pa.schema([pa.field("a", pa.utf8()), pa.field("b", pa.utf8())])
    rows = [{"a": "x", "b": "y"}, {"a": "z"}]
    optional = OutputReader(schema, named=True, required=["a"]).read(rows, 2)
    assert optional.to_pydict() == {"a": ["x", "z"], "b": ["y", None]}
    with pytest.raises(OutputDiffers, match='lacks the outputs "b"'):
        OutputReader(schema, named=True, required=["a", "b"]).read(rows, 2)


def test_ragged_lists_are_read() -> None:
    """Lists of lists of other lengths, which numpy makes no array of."""
    schema = pa.schema([pa.field("a", pa.list_(pa.list_(pa.utf8())))])
    rows = [[["a"], []], [["b", "c"], ["d"]]]
    assert OutputReader(schema, named=True).read({"a": rows}, 2).to_pydict() == {"a": rows}
