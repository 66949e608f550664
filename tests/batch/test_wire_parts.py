"""Batches written in parts: byte for byte what protobuf writes, and without copies of doubles."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from prinz_enricher.batch import column_parts, dense_parts, encode_columns, encode_dense
from prinz_enricher.batch.wire import Part
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import AnyValue, Field

ROWS = 5_000
RANDOM = np.random.default_rng(5)
DOUBLES = RANDOM.random(ROWS)
DOUBLES[::7] = np.nan
DOUBLES[3] = -np.inf
HOLES = RANDOM.random(ROWS) < 0.3
WHOLES = RANDOM.integers(-(2**40), 2**40, ROWS)
ARRAYS = {
    "doubles": pa.array(DOUBLES),
    "no holes": pa.array(RANDOM.random(ROWS)),
    "holes": pa.array(DOUBLES, mask=HOLES),
    "floats": pa.array(DOUBLES.astype(np.float32), mask=HOLES),
    "halves": pa.array(DOUBLES.astype(np.float16), mask=HOLES),
    "longs": pa.array(WHOLES, mask=HOLES),
    "bytes": pa.array(WHOLES.astype(np.int8)),
    "booleans": pa.array(WHOLES < 0, mask=HOLES),
}
TEXTS = {"text": pa.array([f"é{number}" for number in WHOLES % 9], mask=HOLES), "nulls": pa.nulls(ROWS)}
SLICES = [(0, ROWS), (0, 4096), (0, 4095), (13, 4500), (5, 1), (0, 0)]


def joined(parts: list[Part] | None) -> bytes | None:
    """Join parts as a response does."""
    return None if parts is None else b"".join(memoryview(part) for part in parts)


@pytest.mark.parametrize(("start", "size"), SLICES)
def test_columns_are_what_protobuf_writes(start: int, size: int) -> None:
    """Floats between other columns, with nulls, NaN and offsets, are written as protobuf writes them."""
    batch = pa.record_batch(dict(reversed(ARRAYS.items())) | TEXTS | {"last": ARRAYS["doubles"]}).slice(start, size)

    assert joined(column_parts(batch)) == encode_columns(batch).SerializeToString()
    for name in (*ARRAYS, *TEXTS):
        alone = batch.select([name])
        assert joined(column_parts(alone)) == encode_columns(alone).SerializeToString()


@pytest.mark.parametrize("type", [pa.utf8(), pa.large_utf8(), pa.binary(), pa.large_binary()], ids=str)
@pytest.mark.parametrize(("start", "size"), [(0, 4), (1, 2), (2, 1), (3, 1), (0, 0)])
def test_long_texts_are_what_protobuf_writes(type: pa.DataType, start: int, size: int) -> None:
    """Long texts and binaries, with nulls and offsets, are their own memory on the wire, beside numbers and nulls."""
    long = pa.array(["é" * 50_000, "", None, "x" * 70_000], pa.utf8()).cast(type)
    batch = pa.record_batch({"a": [1, 2, 3, 4], "long": long, "b": [1.5, 2.5, None, 4.5], "n": pa.nulls(4)})
    batch = batch.slice(start, size)

    parts = column_parts(batch)
    assert joined(parts) == encode_columns(batch).SerializeToString()
    memory = batch["long"].buffers()[2]
    own = [part for part in parts if isinstance(part, pa.Buffer)]
    assert all(memory.address <= part.address <= memory.address + memory.size for part in own)
    assert sum(map(len, own)) == (170_000 if start == 0 and size else 70_000 if start + size == 4 else 0)


def test_long_text_that_is_no_utf8_is_refused() -> None:
    """Bytes of a text column that are no UTF-8 are refused however long they are."""
    broken = pa.array([b"\xff" * 10_000]).view(pa.utf8())

    with pytest.raises(UnicodeDecodeError):
        column_parts(pa.record_batch({"text": broken}))


def test_columns_of_one_name_are_told_apart() -> None:
    """Columns are taken by their places, also where two have one name."""
    batch = pa.record_batch([ARRAYS["doubles"], ARRAYS["longs"], ARRAYS["floats"]], names=["x", "x", "x"])

    assert joined(column_parts(batch)) == encode_columns(batch).SerializeToString()


def test_numbers_of_any_type_are_nested() -> None:
    """A column that is declared to be of any type is written as such, whatever its Arrow type is."""
    batch = pa.record_batch({"text": pa.array(["1.5"] * ROWS), "doubles": ARRAYS["no holes"]})
    fields = [Field("text", AnyValue()), Field("doubles", AnyValue())]

    expected = encode_columns(batch, fields)

    assert {one.WhichOneof("values") for one in expected.columns} == {"nested"}
    assert joined(column_parts(batch, fields)) == expected.SerializeToString()


def test_what_has_no_form_is_refused() -> None:
    """Beside doubles too, a column that the wire can't tell is refused."""
    batch = pa.record_batch({"x": ARRAYS["doubles"], "n": pa.array(np.full(ROWS, 2**63, np.uint64))})

    with pytest.raises(InvalidInput, match="long"):
        column_parts(batch)


@pytest.mark.parametrize(("start", "size"), SLICES)
def test_dense_rows_are_what_protobuf_writes(start: int, size: int) -> None:
    """One column, or many, of any numbers, are written densely as protobuf writes them, or not at all."""
    batch = pa.record_batch(ARRAYS | TEXTS).slice(start, size)

    for names in (list(ARRAYS), *([name] for name in batch.schema.names), ["doubles", "text"], []):
        message = encode_dense(batch.select(names))
        assert joined(dense_parts(batch.select(names))) == (message and message.SerializeToString())


def test_whole_numbers_beyond_doubles_are_not_dense() -> None:
    """Large batches, too, are sent in columns where the dense form would change a value."""
    assert dense_parts(pa.record_batch({"n": pa.array(np.full(ROWS, 2**53 + 1))})) is None


def test_doubles_are_not_copied() -> None:
    """The parts of doubles without nulls are the memory of the batch, also of a slice."""
    array = ARRAYS["no holes"].slice(100)
    memory = array.buffers()[1].address + 8 * 100
    batch = pa.record_batch({"x": array, "y": array})

    for parts in (column_parts(batch), dense_parts(batch.select(["x"])) or []):
        large = [part.address for part in parts if isinstance(part, pa.Buffer)]
        assert set(large) == {memory}
