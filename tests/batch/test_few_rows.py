"""A few rows, made in a short way, and just as any number of rows is made."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.batch.layout import Layout
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature
from tests.batch.batch_strategies import fitting
from tests.batch.test_one_row import SIGNATURES, TEXTS

NAN_WITH_PAYLOAD = np.array([0x7FF8_0000_DEAD_BEEF, 0xFFF0_0000_0000_0001], np.uint64).view(np.float64)
SPECIAL = [*NAN_WITH_PAYLOAD, np.inf, -np.inf, -0.0, 5e-324, 1.7976931348623157e308]


def layout_of(width: int) -> Layout:
    """Make a layout of doubles, the first one optional."""
    return Layout(tuple(Field(f"x{place}", Scalar(ScalarKind.DOUBLE), required=place > 0) for place in range(width)))


def the_long_way(values: np.ndarray[tuple[int, int], np.dtype[np.float64]], schema: pa.Schema) -> pa.RecordBatch:
    """Make a batch column by column."""
    columns = [pa.array(np.ascontiguousarray(values[:, place])) for place in range(values.shape[1])]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def assert_the_same(made: pa.RecordBatch, wanted: pa.RecordBatch) -> None:
    """Compare schema, shape and every bit."""
    made.validate(full=True)
    assert made.schema.equals(wanted.schema, check_metadata=True)
    assert made.num_rows == wanted.num_rows
    assert [column.null_count for column in made.columns] == [0] * made.num_columns
    # A copy, since text may be padded in memory.
    every = pa.array(np.arange(wanted.num_rows))
    assert made.take(every).serialize().equals(wanted.take(every).serialize())


def some_doubles(rows: int, width: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Make doubles, with all that is special among them."""
    random = np.random.default_rng(seed)
    values: np.ndarray[tuple[int, int], np.dtype[np.float64]] = random.normal(size=(rows, width))
    flat = values.reshape(-1)
    places = random.integers(0, flat.size, min(flat.size, 7))
    flat[places] = np.array(SPECIAL)[: len(places)]
    return values


@given(st.integers(1, 600), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_rows_of_doubles_are_what_arrow_makes_of_them(rows: int, width: int, seed: int) -> None:
    """Whatever the values, to the bit; whatever has been made of the layout before."""
    layout = layout_of(width)
    for size in (rows, 1, rows):
        values = some_doubles(size, width, seed)
        assert_the_same(layout.batch_of_doubles(values), the_long_way(values, layout.schema))


def test_every_number_of_rows_is_made_right() -> None:
    """From one to more than are remembered."""
    layout = layout_of(3)
    for rows in range(1, 601):
        values = some_doubles(rows, 3, rows)
        assert_the_same(layout.batch_of_doubles(values), the_long_way(values, layout.schema))


def test_a_batch_shares_nothing_with_its_values() -> None:
    """What is written into them later does not change it, nor one row what another batch has."""
    layout = layout_of(2)
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    first = layout.batch_of_doubles(values)
    values[:] = 9.0
    second = layout.batch_of_doubles(values)
    assert first.to_pydict() == {"x0": [1.0, 3.0], "x1": [2.0, 4.0]}
    assert second.to_pydict() == {"x0": [9.0, 9.0], "x1": [9.0, 9.0]}


@pytest.mark.parametrize("order", ["C", "F"])
def test_values_in_any_layout_of_memory(order: str) -> None:
    """Row by row, column by column, and with gaps."""
    layout = layout_of(3)
    values = some_doubles(8, 3, 1)
    laid = np.array(values, order="F" if order == "F" else "C")
    assert_the_same(layout.batch_of_doubles(laid[::2]), the_long_way(values[::2], layout.schema))


def test_what_is_remembered_of_numbers_of_rows_is_bounded() -> None:
    """However many there were; what is not remembered is made as well."""
    layout = layout_of(1)
    for rows in range(1, 700):
        batch = layout.batch_of_doubles(np.full((rows, 1), float(rows)))
        assert batch.column(0).to_pylist() == [float(rows)] * rows
    assert len(layout._metadata) <= 512


@st.composite
def rows_of_any_signature(draw: st.DrawFn) -> tuple[Signature, list[list[object]]]:
    """Draw a signature and a few rows that fit it, as their wire columns hold them."""
    signature: Signature = draw(SIGNATURES)

    def value_of(field: Field) -> st.SearchStrategy[object]:
        assert isinstance(field.type, Scalar)
        return TEXTS if field.type.kind is ScalarKind.STRING else fitting(field.type, True)

    row = st.tuples(*map(value_of, signature.inputs)).map(list)
    return signature, draw(st.lists(row, min_size=1, max_size=8))


@given(rows_of_any_signature())
def test_few_rows_are_what_arrow_makes_of_their_columns(drawn: tuple[Signature, list[list[object]]]) -> None:
    """Of every type that has a short way, text of any length too."""
    signature, rows = drawn
    layout = Layout(signature.inputs)
    wanted = pa.RecordBatch.from_arrays(
        [
            pa.array(list(column), type)
            for column, type in zip(zip(*rows, strict=True), layout.schema.types, strict=True)
        ],
        schema=layout.schema,
    )
    assert_the_same(layout.batch_of_rows(rows), wanted)
