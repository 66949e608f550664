"""Rows of Python values: what the client takes and gives."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from prinz_enricher.batch import batch_from_rows, batch_to_rows, decode_columns, encode_columns
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import AnyValue, Field, ListOf, MapOf, Record, Scalar, ScalarKind, Signature, Tensor, Type

K = ScalarKind


def one(value: Any, type: Type, *, required: bool = True) -> Any:
    """Send one value through a batch and the wire, and give what comes back."""
    fields = (Field("x", type, required),)
    batch = batch_from_rows([{"x": value}], fields)
    again = decode_columns(encode_columns(batch), Signature(fields, ()))
    assert str(batch_to_rows(again)) == str(batch_to_rows(batch))
    return batch_to_rows(batch)[0]["x"]


@pytest.mark.parametrize(
    ("value", "type", "want"),
    [
        (np.float32(0.5), Scalar(K.DOUBLE), 0.5),
        (np.int8(3), Scalar(K.LONG), 3),
        (np.bool_(True), Scalar(K.BOOLEAN), True),
        (Decimal("0.1"), Scalar(K.DOUBLE), 0.1),
        (Decimal(16777218), Scalar(K.FLOAT), 16777218.0),
        (Decimal("16777217.5"), Scalar(K.FLOAT), 16777218.0),
        (np.str_("a"), Scalar(K.STRING), "a"),
        (bytearray(b"a"), Scalar(K.BINARY), b"a"),
        (date(2026, 11, 23), Scalar(K.DATETIME), datetime(2026, 11, 23)),
        (datetime(2026, 11, 23, tzinfo=timezone(timedelta(hours=1))), Scalar(K.DATETIME), datetime(2026, 11, 22, 23)),
        (np.datetime64("2026-11-23"), Scalar(K.DATETIME), datetime(2026, 11, 23)),
        (pd.Timestamp("2026-11-23", tz="UTC"), Scalar(K.DATETIME), datetime(2026, 11, 23)),
        ("2026-11-23", Scalar(K.DATETIME), datetime(2026, 11, 23)),
        ((1, 2), ListOf(Scalar(K.LONG)), [1, 2]),
        (np.array([1.5, 2.5]), ListOf(Scalar(K.FLOAT)), [1.5, 2.5]),
        (np.array([[1, 2]], np.uint8), Tensor("uint8", (-1, -1, 2)), [[1, 2]]),
        ({"a": 1}, MapOf(Scalar(K.LONG)), {"a": 1}),
        ({"a": None}, Record((Field("a", Scalar(K.LONG), required=False),)), {"a": None}),
        ({"a": (1, np.float64(1.0)), "b": None}, AnyValue(), {"a": [1, 1.0], "b": None}),
        ({"a": [Decimal("1e23"), Decimal("0.10")]}, AnyValue(), {"a": [1e23, 0.1]}),
    ],
)
def test_python_values_are_taken(value: Any, type: Type, want: Any) -> None:
    """Values of Python, numpy and pandas come back as plain Python ones."""
    got = one(value, type)
    assert got == want
    assert repr(got) == repr(want)


@pytest.mark.parametrize("value", [None, pd.NaT, pd.NA, np.datetime64("NaT")])
def test_what_stands_for_nothing_is_a_null(value: Any) -> None:
    """Each library's own null is one."""
    assert one(value, Scalar(K.DATETIME), required=False) is None


@pytest.mark.parametrize(
    ("value", "type", "field"),
    [
        (pd.Timestamp(1), Scalar(K.DATETIME), ""),
        (np.datetime64(1, "ns"), Scalar(K.DATETIME), ""),
        (Decimal("1e400"), Scalar(K.LONG), ""),
        (Decimal("NaN"), Scalar(K.LONG), ""),
        (Decimal("0.12345678901234567890"), Scalar(K.DOUBLE), ""),
        (Decimal(16777217), Scalar(K.FLOAT), ""),
        (Decimal("1e39"), Scalar(K.FLOAT), ""),
        (Decimal(2**53 + 1), AnyValue(), ""),
        (10**400, Scalar(K.DOUBLE), ""),
        (object(), Scalar(K.DOUBLE), ""),
        ("\ud800", Scalar(K.STRING), ""),
        ({1: 1}, MapOf(Scalar(K.LONG)), ""),
        ({1: 1}, AnyValue(), ""),
        ([datetime(2026, 11, 23, tzinfo=UTC)], AnyValue(), "[0]"),
        ({"a": object()}, AnyValue(), '["a"]'),
        ([1, True], ListOf(Scalar(K.LONG)), "[1]"),
    ],
)
def test_what_does_not_fit_is_refused(value: Any, type: Type, field: str) -> None:
    """Nothing that Python has ends in another error than InvalidInput."""
    with pytest.raises(InvalidInput) as caught:
        batch_from_rows([{"x": value}], (Field("x", type),))
    assert [violation.field for violation in caught.value.violations] == [f'columns["x"][0]{field}']


def test_columns_are_taken_as_rows_are() -> None:
    """A mapping of columns may hold lists, numpy arrays and Arrow arrays."""
    fields = (Field("a", Scalar(K.DOUBLE)), Field("b", Scalar(K.LONG)), Field("c", Scalar(K.STRING), required=False))
    batch = batch_from_rows({"c": pa.array(["x", None]), "b": np.array([1, 2], np.int8), "a": [1, 2.5]}, fields)
    assert batch_to_rows(batch) == [{"a": 1.0, "b": 1, "c": "x"}, {"a": 2.5, "b": 2, "c": None}]
    with pytest.raises(InvalidInput) as caught:
        batch_from_rows({"a": [1.0], "b": [1, 2], "d": [1]}, fields)
    assert [violation.field for violation in caught.value.violations] == ['columns["d"]', 'columns["b"]']


def test_without_fields_each_value_is_of_any_type() -> None:
    """A model without a signature is sent what there is."""
    batch = batch_from_rows([{"a": 1, "b": [1.0]}, {"a": math.inf}])
    assert batch_to_rows(batch) == [{"a": 1, "b": [1.0]}, {"a": math.inf, "b": None}]
    assert batch_from_rows([{}, {}]).num_rows == 2
