"""Which value belongs to which row and output: right, or refused; never guessed."""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.ipc.faults import OutputDiffers
from prinz_enricher.signature import output_schema
from prinz_enricher.worker.model_outputs import OutputReader
from tests.worker.answer_matrix import (
    FORMS,
    OUTPUTS,
    PAGE,
    ROWS,
    answers,
    behind_server,
    in_worker,
    meant,
    page,
    read_of,
)

pytestmark = pytest.mark.filterwarnings("ignore")

ONE = (pa.field("y", pa.float64(), nullable=False),)
TWO = (pa.field("a", pa.float64(), nullable=False), pa.field("b", pa.float64(), nullable=False))
LISTS = (pa.field("y", pa.list_(pa.utf8()), nullable=False),)
ANY = (pa.field("output_0", pa.utf8(), metadata={b"prinz.type": b"any"}),)


def read(result: object, rows: int, *fields: pa.Field, trusted: bool = False) -> list[list[Any]]:
    """Read a result of named outputs, and give its columns."""
    reader = OutputReader(pa.schema(fields), named=fields[0].name != "output_0")
    reader.trusts_places = trusted
    return [column.to_pylist() for column in reader.read(result, rows).columns]


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("serve", [in_worker, behind_server])
def test_each_form_is_right_or_refused(serve: Any, form: str, outputs: str) -> None:
    """For one row, for two, which is as many as outputs, and for three; here and behind a model server."""
    for cell in serve(outputs, form).values():
        assert cell.read is None or cell.read == cell.right
        assert (cell.read is None) == bool(cell.why)


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_right_or_refused_where_nothing_was_seen_at_load(form: str, outputs: str) -> None:
    """A model that raises on all sample rows shows nothing, and its first answer may be of any size."""
    signature, names = OUTPUTS[outputs]
    for rows, answer in answers(outputs, form).items():
        reader = OutputReader(output_schema(signature), named=outputs != "not declared")
        try:
            found = read_of(reader.read(answer, rows))
        except OutputDiffers:
            continue
        assert found == meant(form, names, rows, declared=outputs != "not declared")


def test_the_page_has_the_table_as_it_is() -> None:
    """`make docs` writes it."""
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text
    assert ROWS[1] == len(OUTPUTS["two outputs"][1])


# Rows: by the input's index.


@given(st.permutations(range(5)))
def test_rows_in_any_order_are_found_by_the_index_of_the_input(order: list[int]) -> None:
    """Of a frame, of a Series, and of each Series of a dict."""
    values = pd.Series([10.0 * place for place in order], index=order)
    wanted = [0.0, 10.0, 20.0, 30.0, 40.0]
    assert read(values, 5, *ONE) == [wanted]
    assert read(pd.DataFrame({"y": values}), 5, *ONE) == [wanted]
    assert read({"a": values, "b": values + 1}, 5, *TWO) == [wanted, [one + 1 for one in wanted]]
    assert read((values, values + 1), 5, *TWO) == [wanted, [one + 1 for one in wanted]]
    assert read(values.astype("Int64"), 5, pa.field("y", pa.int64())) == [[0, 10, 20, 30, 40]]


@pytest.mark.parametrize(
    "index", [[0, 0, 1], [2, 2, 2], [0, 2, 0]], ids=["doubled at first", "one row alone", "first and last"]
)
def test_an_index_that_has_a_row_twice_is_refused_unless_the_order_was_shown(index: list[int]) -> None:
    """Such as that of frames of one row each, put together by pandas.concat, or of an exploded frame cut to length."""
    for result in (pd.Series([1.0, 2.0, 3.0], index=index), pd.DataFrame({"y": [1.0, 2.0, 3.0]}, index=index)):
        with pytest.raises(OutputDiffers, match="a row twice"):
            read(result, 3, *ONE)
        assert read(result, 3, *ONE, trusted=True) == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize(
    "index",
    [[7, 3, 5], [1, 2, 3], ["a", "b", "c"], [0.5, 1.5, 0.0], [-1, 0, 1], pd.Index([2, 0, 1], name="customer")],
    ids=str,
)
def test_an_index_of_the_model_s_own_says_nothing_of_the_rows(index: list[Any]) -> None:
    """Then their order counts, as it does for MLflow."""
    assert read(pd.Series([1.0, 2.0, 3.0], index=index), 3, *ONE) == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize(
    "result",
    [
        pd.DataFrame({"y": [1.0, 2.0, 3.0]})[lambda frame: frame["y"] > 1],
        pd.DataFrame({"y": [[1.0, 2.0], [3.0], [4.0]]}).explode("y"),
        pd.Series([1.0], index=[2]),
        pd.DataFrame({"y": [1.0, 2.0, 3.0, 4.0]}),
    ],
    ids=["filtered", "exploded", "one of them", "one more"],
)
def test_rows_without_an_answer_or_with_two_are_refused(result: object) -> None:
    """Nothing is filled in, nothing is left out."""
    with pytest.raises(OutputDiffers, match="rows came back"):
        read(result, 3, *ONE)


# Outputs: by name, whatever the library.


class Interchange:
    """A frame of a library of which nothing is known but `__dataframe__`."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def __dataframe__(self, **options: Any) -> Any:
        """Give the frame by the interchange protocol."""
        return pa.table(self._frame).__dataframe__(**options)


class Stream:
    """A table of a library of which nothing is known but `__arrow_c_stream__`."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested: object = None) -> object:
        """Give the table by Arrow's protocol."""
        return self._table.__arrow_c_stream__(requested)


class Named(NamedTuple):
    """A row, or all of them, of named outputs in another order."""

    b: Any
    a: Any


@dataclass
class Row:
    """A row of named outputs, in another order."""

    b: float
    a: float


BY_NAME = {"b": [3.0, 4.0], "a": [1.0, 2.0]}


@pytest.mark.parametrize(
    "result",
    [
        pl.DataFrame(BY_NAME),
        pl.DataFrame(BY_NAME).with_columns(extra=pl.lit("x")),
        Interchange(pd.DataFrame(BY_NAME)),
        Stream(pa.table(BY_NAME)),
        pa.RecordBatch.from_pydict(BY_NAME),
        np.array([(3.0, 1.0), (4.0, 2.0)], dtype=[("b", float), ("a", float)]),
        [Named(3.0, 1.0), Named(4.0, 2.0)],
        [Row(3.0, 1.0), Row(4.0, 2.0)],
        [row for _, row in pd.DataFrame(BY_NAME).iterrows()],
        pd.DataFrame(BY_NAME).apply(lambda row: {"b": row["b"], "a": row["a"]}, axis=1),
        pd.Series([Row(4.0, 2.0), Row(3.0, 1.0)], index=[1, 0]),
        np.array([Named(3.0, 1.0), Named(4.0, 2.0), None], dtype=object)[:2],
        {"b": pl.Series([3.0, 4.0]), "a": pa.array([1.0, 2.0])},
        Named(np.array([3.0, 4.0]), np.array([1.0, 2.0])),
    ],
    ids=lambda result: f"{type(result).__name__} of {type(result[0]).__name__}" if type(result) is list else None,
)
def test_outputs_are_found_by_name_in_whatever_has_names(result: object) -> None:
    """In another order than declared, with as many rows as outputs."""
    assert read(result, 2, *TWO) == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("table", [pl.DataFrame, pd.DataFrame, pa.table, lambda columns: Stream(pa.table(columns))])
def test_a_table_without_the_declared_names_is_refused(table: Any) -> None:
    """Its columns are not taken by their place; but the only one is the only output."""
    with pytest.raises(OutputDiffers, match='lacks the outputs "b"'):
        read(table({"a": [1.0], "c": [2.0]}), 1, *TWO)
    assert read(table({"prediction": [1.0, 2.0]}), 2, *ONE) == [[1.0, 2.0]]


class AttrDict(dict[str, Any]):
    """A dict that answers to any name."""

    __getattr__ = dict.get


def test_an_object_that_answers_to_any_name_is_what_it_is() -> None:
    """Neither a table nor a matrix: a dict."""
    assert read([AttrDict(b=3.0, a=1.0), AttrDict(b=4.0, a=2.0)], 2, *TWO) == [[1.0, 2.0], [3.0, 4.0]]
    assert read(AttrDict(BY_NAME), 2, *TWO) == [[1.0, 2.0], [3.0, 4.0]]


def test_series_in_a_list_are_outputs_or_rows_by_their_labels() -> None:
    """By the input's index where they are outputs, as many of them as rows; by name where they are rows."""
    first, second = pd.Series([4.0, 2.0], index=[1, 0]), pd.Series([3.0, 4.0])
    assert read((first, second), 2, *TWO) == [[2.0, 4.0], [3.0, 4.0]]
    numbered = (pa.field("0", pa.float64()), pa.field("1", pa.float64()))
    rows = [row for _, row in pd.DataFrame({1: [3.0, 4.0, 5.0], 0: [0.0, 1.0, 2.0]}).iterrows()]
    assert read(rows, 3, *numbered) == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    labelled = pd.Series([1.0, 2.0, 3.0], index=["x", "y", "z"])
    assert read((labelled, labelled * 2), 3, *TWO) == [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]


def test_other_sequences_are_lists() -> None:
    """A deque, a range, and an array of Python's own."""
    for result in (deque([1.0, 2.0]), range(1, 3), array("d", [1.0, 2.0])):
        assert read(result, 2, *ONE) == [[1.0, 2.0]]


# Arrays and lists.


@pytest.mark.parametrize("together", [tuple, list])
def test_arrays_are_outputs_unless_shapes_say_otherwise(together: Any) -> None:
    """As many rows as outputs is no exception."""
    assert read(together([np.array([1.0, 2.0]), np.array([3.0, 4.0])]), 2, *TWO) == [[1.0, 2.0], [3.0, 4.0]]
    rows = together([np.array([1.0, 4.0]), np.array([2.0, 5.0]), np.array([3.0, 6.0])])
    assert read(rows, 3, *TWO) == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert read(together([np.array([1.0, 2.0, 3.0])]), 3, *ONE) == [[1.0, 2.0, 3.0]]
    with pytest.raises(OutputDiffers):
        read(together([np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0])]), 3, *TWO)


def test_arrays_of_rows_are_known_from_another_number_of_rows() -> None:
    """What a model did with three rows, it does with two."""
    reader = OutputReader(pa.schema(TWO), named=True)
    reader.read([np.array([1.0, 4.0]), np.array([2.0, 5.0]), np.array([3.0, 6.0])], 3)
    square = [np.array([1.0, 4.0]), np.array([2.0, 5.0])]
    assert reader.read(square, 2).to_pydict() == {"a": [1.0, 2.0], "b": [4.0, 5.0]}


def test_columns_of_one_are_scalars() -> None:
    """Deep learning's outputs have two dimensions, whatever is in them."""
    columns = [np.array([[1.0], [2.0], [3.0]]), np.array([[4.0], [5.0], [6.0]])]
    wanted = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert read(columns, 3, *TWO) == wanted
    assert read(dict(zip("ab", columns, strict=True)), 3, *TWO) == wanted
    assert read([array[:2] for array in columns], 2, *TWO) == [one[:2] for one in wanted]
    assert read([array[:1] for array in columns], 1, *TWO) == [one[:1] for one in wanted]


def test_outputs_of_several_ranks_leave_no_doubt() -> None:
    """A label for each row, and a list of probabilities."""
    fields = (pa.field("a", pa.int64()), pa.field("b", pa.list_(pa.float64())))
    answer = (np.array([1, 0]), np.array([[0.1, 0.9], [0.8, 0.2]]))
    assert read(answer, 2, *fields) == [[1, 0], [[0.1, 0.9], [0.8, 0.2]]]
    assert read([[1, [0.1, 0.9]], [0, [0.8, 0.2]]], 2, *fields) == [[1, 0], [[0.1, 0.9], [0.8, 0.2]]]


def test_lists_of_as_many_rows_as_outputs_are_refused_where_nothing_tells_them_apart() -> None:
    """Tuples in a list are rows, as of a cursor; lists in a list can be either."""
    assert read([(1.0, 3.0), (2.0, 4.0)], 2, *TWO) == [[1.0, 2.0], [3.0, 4.0]]
    for result in ([[1.0, 3.0], [2.0, 4.0]], ([1.0, 2.0], [3.0, 4.0])):
        with pytest.raises(OutputDiffers, match="for each row or an entry for each output"):
            read(result, 2, *TWO)


def test_a_list_of_one_is_a_list() -> None:
    """It is unwrapped as the row of one output alone, never within a value."""
    assert read([["a"]], 1, *LISTS) == [[["a"]]]
    assert read({"y": ["a"]}, 1, *LISTS) == [[["a"]]]
    assert read({"y": [["a"]]}, 1, *LISTS) == [[["a"]]]
    assert read({"y": [["a"], ["b"]]}, 2, *LISTS) == [[["a"], ["b"]]]
    assert read([["a"]], 1, *ANY) == [['["a"]']]
    assert read([[1.5]], 1, *ONE) == [[1.5]]
    refused: list[tuple[Any, tuple[pa.Field, ...]]] = [
        ([[[1.5]]], ONE),
        (["a"], LISTS),
        ([[[["a"]]]], LISTS),
        ({"y": ["a", "b"]}, ONE),
        ([[[1.0]], [[2.0]]], (pa.field("y", pa.list_(pa.float64())),)),
    ]
    for result, fields in refused:
        with pytest.raises(OutputDiffers):
            read(result, len(result), *fields)


# Dicts.


@pytest.mark.parametrize(
    ("result", "rows", "wanted"),
    [
        ({"y": ["a", "b"]}, 1, [["a", "b"]]),
        ({"y": [["a", "b"]]}, 1, [["a", "b"]]),
        ({"y": [["a"], []]}, 2, [["a"], []]),
        ({"y": []}, 1, [[]]),
        ({"y": [[]]}, 1, [[]]),
        ({"y": np.array(["a", "b"])}, 1, [["a", "b"]]),
        ({"y": np.array([["a"], ["b"]])}, 2, [["a"], ["b"]]),
    ],
)
def test_a_dict_is_one_row_or_columns_by_the_declared_types(result: Any, rows: int, wanted: list[Any]) -> None:
    """A list where lists are declared is the value of a row; a list of lists has one for each row."""
    assert read(result, rows, *LISTS) == [wanted]


def test_a_dict_for_several_rows_is_refused() -> None:
    """One answer is never given to several rows."""
    for result, fields in (({"y": ["a", "b"]}, LISTS), ({"y": 1.0}, ONE), ({"y": "a"}, LISTS), ({"y": 1.0}, ANY)):
        with pytest.raises(OutputDiffers):
            read(result, 2, *fields)


def test_a_dict_of_anything_is_refused_where_it_can_be_one_row_or_columns() -> None:
    """Lists of one for one row; and a null in a list, which can be a list or a row's."""
    with pytest.raises(OutputDiffers, match="one row or columns"):
        read({"sources": ["a"]}, 1, *ANY)
    with pytest.raises(OutputDiffers, match="one row or columns"):
        read({"y": [None]}, 1, pa.field("y", pa.list_(pa.utf8())))
    assert read({"sources": ["a"], "answer": "42"}, 1, *ANY) == [['{"sources": ["a"], "answer": "42"}']]
    reader = OutputReader(pa.schema(ANY), named=False)
    with reader.trying():
        reader.read({"sources": ["a", "b"]}, 1)
    assert reader.read({"sources": ["a"]}, 1).to_pydict() == {"output_0": ['{"sources": ["a"]}']}
    with pytest.raises(OutputDiffers, match="one object came back for 2 rows"):
        reader.read({"sources": ["a", "b"]}, 2)


def test_keys_that_are_the_same_as_text_are_refused() -> None:
    """The outputs 1 and "1" would be one."""
    with pytest.raises(OutputDiffers, match="same as text"):
        read({1: [1.0], "1": [2.0]}, 1, pa.field("1", pa.float64()))


# Values.


class Label(str, Enum):  # noqa: UP042 - as models have them
    """Labels that are texts."""

    SPAM = "spam"
    HAM = "ham"


@pytest.mark.parametrize(
    ("result", "field", "wanted"),
    [
        ([Decimal("0.1"), Decimal("-2.50")], ONE[0], [0.1, -2.5]),
        ([Decimal(3), Decimal("4.0")], pa.field("y", pa.int64()), [3, 4]),
        (pd.Series([Decimal("0.5"), Decimal(2**53)]), ONE[0], [0.5, 2.0**53]),
        (pa.array([Decimal("1.25"), Decimal("2.00")]), ONE[0], [1.25, 2.0]),
        (np.array([1, 2], dtype=np.int8), ONE[0], [1.0, 2.0]),
        ([np.float16(0.5), 2], ONE[0], [0.5, 2.0]),
        ([Decimal("0.1"), None], ANY[0], ["0.1", None]),
        (np.ma.masked_array([1.0, 99.0], mask=[False, True]), pa.field("y", pa.int64()), [1, None]),
        ([Label.SPAM, Label.HAM], pa.field("y", pa.utf8()), ["spam", "ham"]),
        (pd.Series([Label.SPAM, Label.HAM]), pa.field("y", pa.utf8()), ["spam", "ham"]),
    ],
)
def test_exact_numbers_of_another_type_are_taken(result: Any, field: pa.Field, wanted: list[Any]) -> None:
    """Decimals that a double has as its shortest form, whole numbers, and no value of a mask."""
    fields = ANY if field is ANY[0] else (field,)
    assert read(result, 2, *fields) == [wanted]


@pytest.mark.parametrize(
    ("result", "field"),
    [
        ([Decimal("0.12345678901234567890")], ONE[0]),
        ([Decimal("1.5")], pa.field("y", pa.int64())),
        ([Decimal("1E+30")], pa.field("y", pa.int64())),
        ([True], ONE[0]),
        (["1.5"], ONE[0]),
        ([Decimal("0.12345678901234567890")], ANY[0]),
        (np.ma.masked_array([1], mask=[True]), pa.field("y", pa.int64(), nullable=False)),
        ([1 + 2j], ONE[0]),
    ],
)
def test_numbers_that_would_change_are_refused(result: Any, field: pa.Field) -> None:
    """Neither rounded nor parsed."""
    with pytest.raises(OutputDiffers):
        read(result, 1, *(ANY if field is ANY[0] else (field,)))


def test_a_generator_or_a_set_is_refused_with_what_to_do() -> None:
    """A generator can be read once, and a set has no order."""
    with pytest.raises(OutputDiffers, match="return a list"):
        read((one for one in [1.0]), 1, *ONE)
    with pytest.raises(OutputDiffers):
        read({1.0}, 1, *ONE)
