"""The forms of rows, and what tells them apart."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from prinz_enricher.batch import batch_to_rows
from prinz_enricher.client.row_forms import one_record, to_batch
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import Field, ListOf, Scalar, ScalarKind, Signature

K = ScalarKind
SIGNATURE = Signature((Field("x", Scalar(K.DOUBLE)), Field("s", Scalar(K.STRING), required=False)), ())
TWO = [{"x": 1.0, "s": "a"}, {"x": 2.0, "s": None}]


@pytest.mark.parametrize(
    "rows",
    [
        TWO,
        {"x": [1.0, 2.0], "s": ["a", None]},
        {"x": np.array([1.0, 2.0]), "s": ("a", None)},
        {"x": pa.array([1, 2]), "s": pa.chunked_array([["a"], [None]])},
        {"x": pd.Series([1, 2]), "s": pd.Series(["a", None])},
        {"x": range(1, 3), "s": pd.Series(["a", np.nan], dtype=object)},
        MappingProxyType({"x": [1.0, 2.0], "s": ["a", None]}),
        pd.DataFrame({"x": [1.0, 2.0], "s": ["a", None]}, index=[7, 8]),
        pd.DataFrame({"x": [1, 2], "s": pd.Categorical(["a", None])}),
        pa.RecordBatch.from_pylist(TWO),
        pa.Table.from_pylist(TWO),
    ],
    ids=lambda rows: type(rows).__name__,
)
def test_every_form_is_the_same_rows(rows: Any) -> None:
    """Records, columns of any kind, pandas and Arrow are the same rows."""
    assert one_record(rows) is None
    assert batch_to_rows(to_batch(rows, SIGNATURE)) == TWO


@pytest.mark.parametrize(
    "rows",
    [{"x": 1.0, "s": "a"}, [{"x": 1.0, "s": "a"}], ({"x": 1.0, "s": "a"},), MappingProxyType({"x": 1.0, "s": "a"})],
    ids=lambda rows: type(rows).__name__,
)
def test_one_record(rows: Any) -> None:
    """A mapping of values is one record, and so is a list of one."""
    assert one_record(rows) == {"x": 1.0, "s": "a"}
    assert batch_to_rows(to_batch(rows, SIGNATURE)) == [{"x": 1.0, "s": "a"}]


@pytest.mark.parametrize(
    "value",
    [1.0, 1, True, None, "text", b"bytes", np.float32(1), np.str_("text"), {"a": [1]}, np.array(1.0), pa.scalar(1)],
)
def test_any_value_that_is_no_column_makes_a_record(value: object) -> None:
    """One value that is not a column is enough, even beside lists."""
    record = {"list": [1, 2], "value": value}
    assert one_record(record) is record


def test_lists_alone_are_columns() -> None:
    """A record of nothing but lists is taken for columns; in a list it is a record."""
    vector = Signature((Field("v", ListOf(Scalar(K.DOUBLE))),), ())
    record = {"v": [1.0, 2.0, 3.0]}
    assert one_record(record) is None
    with pytest.raises(InvalidInput, match=r'columns\["v"\]\[0\]'):
        to_batch(record, vector)
    assert one_record([record]) is record
    assert batch_to_rows(to_batch([record], vector)) == [record]
    assert to_batch({"v": [[1.0], []]}, vector).num_rows == 2


def test_nothing_is_no_rows() -> None:
    """An empty list has no rows, and neither has an empty mapping: it says of no column that it is there."""
    assert one_record([]) is None
    assert one_record({}) is None
    assert to_batch({"x": []}, SIGNATURE).num_rows == 0


def test_pandas_missing_values_are_nulls() -> None:
    """NaN among text, pandas' NA and NaT are nulls; each value of a mixed column is told by itself."""
    optional = Signature(
        tuple(Field(name, Scalar(kind), required=False) for name, kind in (("s", K.STRING), ("n", K.LONG))), ()
    )
    frame = pd.DataFrame({"s": ["a", np.nan, pd.NA], "n": pd.array([1, None, 3], dtype="Int64")})
    assert batch_to_rows(to_batch(frame, optional)) == [{"s": "a", "n": 1}, {"s": None, "n": None}, {"s": None, "n": 3}]

    mixed = pd.DataFrame({"s": ["a", 1.5, np.nan], "n": [1, 2, 3]})
    with pytest.raises(InvalidInput) as raised:
        to_batch(mixed, optional)
    assert [fault.field for fault in raised.value.violations] == ['columns["s"][1]']


def test_a_data_frame_with_a_column_twice() -> None:
    """Two columns of one name are refused: which is meant nobody can tell."""
    with pytest.raises(InvalidInput, match="is there twice"):
        to_batch(pd.DataFrame([[1.0, 2.0]], columns=["x", "x"]), SIGNATURE)
