"""Frames made of blocks: the same to a model as frames that are made one column after the other."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prinz_enricher.worker import model_inputs
from prinz_enricher.worker.model_inputs import InputBuilder

TEXT: Any = "str" if int(pd.__version__.split(".")[0]) >= 3 else object

KINDS: dict[str, tuple[pa.DataType, Any, st.SearchStrategy[Any]]] = {
    "boolean": (pa.bool_(), bool, st.booleans()),
    "integer": (pa.int32(), np.int32, st.integers(-(2**31), 2**31 - 1)),
    "long": (pa.int64(), np.int64, st.integers(-(2**63), 2**63 - 1)),
    "float": (pa.float32(), np.float32, st.floats(width=32)),
    "double": (pa.float64(), np.float64, st.floats()),
    "string": (pa.utf8(), TEXT, st.text(max_size=5)),
    "binary": (pa.binary(), object, st.binary(max_size=5)),
    "datetime": (
        pa.timestamp("us"),
        "datetime64[ns]",
        st.datetimes(min_value=dt.datetime(1700, 1, 1), max_value=dt.datetime(2200, 1, 1)),
    ),
    "list": (pa.list_(pa.float64()), object, st.lists(st.floats(allow_nan=False), max_size=2)),
}
"""By kind: the Arrow type, the dtype in a frame without nulls, and values."""

WITH_NULLS = {"boolean": object, "integer": "Int32", "long": "Int64"}
"""The dtype of columns with nulls, where it is another one."""

WAYS: dict[str, dict[str, Any]] = {
    "of this pandas": {},
    "put together": {"create_dataframe_from_blocks": None, "_WIDE": 0},
    "column by column": {"create_dataframe_from_blocks": None, "_WIDE": 1000},
}


@contextmanager
def way(of: str) -> Iterator[None]:
    """Have frames put together in one of the ways that there are for one pandas or another."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WAYS[of].items():
            patch.setattr(model_inputs, name, value)
        yield


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    """Some rows of columns of any kinds in any order."""
    rows = draw(st.integers(1, 4))
    arrays, fields = [], []
    for place, kind in enumerate(draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=12))):
        type, _, values = KINDS[kind]
        held = draw(st.lists(draw(st.sampled_from([values, st.none() | values])), min_size=rows, max_size=rows))
        arrays.append(pa.array(held, type))
        fields.append(pa.field(f"{kind} {place}", type))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def column_by_column(batch: pa.RecordBatch) -> Any:
    """Make a frame in the plainest way: one Series after the other."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = name.split()[0]
        dtype = KINDS[kind][1]
        if column.null_count and kind in WITH_NULLS:
            dtype = WITH_NULLS[kind]
        columns[name] = pd.Series(column.to_pylist(), dtype=dtype)
    return pd.DataFrame(columns)


def build(batch: pa.RecordBatch) -> Any:
    """Build the frame of a batch as a worker does."""
    return InputBuilder(batch.schema, batch.schema.names).build(batch)


several = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


@pytest.mark.parametrize("of", WAYS)
@several
@given(batch=batches(), data=st.data())
def test_a_frame_is_the_same_as_one_of_a_column_after_the_other(of: str, batch: pa.RecordBatch, data: Any) -> None:
    """With the same dtypes, order, values and index, for a part of a batch as well."""
    some = batch.slice(data.draw(st.integers(0, batch.num_rows - 1)))
    with way(of):
        for one in (batch, some):
            pd.testing.assert_frame_equal(build(one), column_by_column(one), check_exact=True, check_freq=True)
            assert isinstance(build(one).index, pd.RangeIndex)


@pytest.mark.parametrize("of", WAYS)
@several
@given(batch=batches(), data=st.data())
def test_what_a_model_writes_is_in_its_own_frame_and_column_alone(of: str, batch: pa.RecordBatch, data: Any) -> None:
    """Neither another column, nor another frame, nor the batch changes with it."""
    place = data.draw(st.integers(0, batch.num_columns - 1))
    before = batch.serialize().to_pybytes()
    with way(of):
        frame, other = build(batch), build(batch)
    wanted = column_by_column(batch)
    frame.iat[0, place] = frame.iat[-1, place]  # noqa: PD009 - to iloc a list is several values
    wanted.iat[0, place] = wanted.iat[-1, place]  # noqa: PD009 - likewise
    pd.testing.assert_frame_equal(frame, wanted, check_exact=True)
    pd.testing.assert_frame_equal(other, column_by_column(batch), check_exact=True)
    frame["more"] = 1.5
    del frame[frame.columns[place]]
    assert list(frame.columns) == [*(name for name in wanted if name != wanted.columns[place]), "more"]
    assert batch.serialize().to_pybytes() == before


@pytest.mark.parametrize("of", WAYS)
@pytest.mark.parametrize("rows", [1, 64, 2000])
def test_hundreds_of_columns_of_several_types_are_a_frame(of: str, rows: int) -> None:
    """Of few rows and of many, with a null here and there."""
    random = np.random.default_rng(3)
    kinds = [("double", "long", "string", "boolean", "double")[place % 5] for place in range(200)]
    made: dict[str, Callable[[], Any]] = {
        "double": lambda: random.random(rows),
        "long": lambda: random.integers(-(2**63), 2**63 - 1, rows),
        "string": lambda: random.integers(0, 9, rows).astype(str).astype(object),
        "boolean": lambda: random.random(rows) < 0.5,
    }
    arrays = [
        pa.array(made[kind](), KINDS[kind][0], mask=random.random(rows) < 0.1 * (i % 3)) for i, kind in enumerate(kinds)
    ]
    batch = pa.RecordBatch.from_arrays(arrays, names=[f"{kind} {place}" for place, kind in enumerate(kinds)])
    with way(of):
        pd.testing.assert_frame_equal(build(batch), column_by_column(batch), check_exact=True)


def test_what_can_be_computed_with_frames_of_blocks() -> None:
    """Models select, join, group, sort and pickle them, and give them to numpy."""
    import pickle

    names = ["double 0", "string 1", "double 2", "long 3", "datetime 4", "boolean 5"]
    values: list[list[Any]] = [
        [1.0, 2.0, 3.0],
        ["a", None, "a"],
        [0.5, None, 1.5],
        [1, None, 2**60],
        [dt.datetime(2024, 1, 2), None, dt.datetime(1999, 1, 1)],
        [True, None, False],
    ]
    arrays = [pa.array(one, KINDS[name.split()[0]][0]) for name, one in zip(names, values, strict=True)]
    batch = pa.RecordBatch.from_arrays(arrays, names=names)
    frame, plain = build(batch), column_by_column(batch)
    computes: list[Callable[[Any], Any]] = [
        lambda one: one[["double 2", "string 1"]],
        lambda one: one.merge(one, on="double 0"),
        lambda one: one.groupby("string 1")["double 0"].sum().to_frame(),
        lambda one: one.sort_values("long 3", ascending=False),
        lambda one: one.assign(twice=one["double 0"] * 2).fillna({"double 2": 0.0}),
        lambda one: pd.concat([one, one], ignore_index=True).drop_duplicates(),
        lambda one: pickle.loads(pickle.dumps(one)),  # noqa: S301 - it is its own
        lambda one: one.select_dtypes("number").astype("float64"),
        lambda one: pd.DataFrame(one[["double 0", "double 2"]].to_numpy()),
        lambda one: one.set_index("datetime 4").reset_index(),
    ]
    for compute in computes:
        pd.testing.assert_frame_equal(compute(frame), compute(plain), check_exact=True)
