"""What reading a request may cost: bytes that its own bytes do not tell, and work for each value or fault."""

from __future__ import annotations

import sys
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from prinz_enricher.batch import decode_columns, decode_stream
from prinz_enricher.batch.read_bounds import CHUNK, ReadBounds
from prinz_enricher.contract import value_pb2
from prinz_enricher.errors import DeadlineExceeded, DecodedTooLarge, InvalidInput
from prinz_enricher.signature import AnyValue, Field, MapOf, Scalar, ScalarKind, Signature, Type, to_value

ROWS = 20_000
MIB = 1 << 20
ANY = AnyValue()
LONG = Scalar(ScalarKind.LONG)
NO_SIGNATURE = Signature((), ())


def signature(type: Type) -> Signature:
    """Declare the column `x`."""
    return Signature((Field("x", type),), (Field("y", ANY),))


def stream(array: pa.Array, compression: str | None = None, copies: int = 1) -> pa.Buffer:
    """Write a stream of the column `x`, and of others of the same values."""
    names = ["x", *(f"x{index}" for index in range(1, copies))]
    batch = pa.record_batch([array] * copies, names)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def peak(work: Callable[[], object]) -> int:
    """Return the bytes that Arrow held at the most during some work."""
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        work()
    finally:
        pa.set_memory_pool(before)
    return pool.max_memory() or 0


def steps(work: Callable[[], object]) -> int:
    """Return how many functions, of Python and of C, some work calls."""
    count = 0

    def note(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def coded(rows: int, *values: object) -> pa.Array:
    """Return the first of some values again and again, as a dictionary."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array(values))


LAID_OUT: dict[str, Callable[[], pa.Array]] = {
    "a dictionary of one long text": lambda: coded(MIB, "a" * 2000),
    "a dictionary of numbers": lambda: coded(9 * MIB, 1.5),
    "a dictionary of lists": lambda: coded(MIB, list(range(100))),
    "zeros": lambda: pa.array(np.zeros(9 * MIB)),
    "empty records": lambda: pa.StructArray.from_buffers(pa.struct([]), 1 << 27, [None]),
    "nulls": lambda: pa.nulls(1 << 27),
}


@pytest.mark.parametrize("what", LAID_OUT)
def test_what_a_few_bytes_become_is_counted_before_it_is_made(what: str) -> None:
    """A stream of a few kilobytes that takes more than it may is refused, and next to nothing is allocated for it."""
    data = stream(LAID_OUT[what](), "zstd")
    assert len(data) < MIB // 64

    def read() -> None:
        with pytest.raises(DecodedTooLarge) as raised:
            decode_stream(data, NO_SIGNATURE, bounds=ReadBounds(64 * MIB))
        assert [fault.field for fault in raised.value.violations] == ["input"]

    assert peak(read) < 48 * MIB


def test_all_columns_count_together() -> None:
    """Ten columns that would each be small enough are refused together."""
    one = coded(MIB // 64, '"' + "a" * 1000 + '"')
    decode_stream(stream(one, "zstd"), NO_SIGNATURE, bounds=ReadBounds(32 * MIB))
    data = stream(one, "zstd", copies=10)
    with pytest.raises(DecodedTooLarge):
        decode_stream(data, NO_SIGNATURE, bounds=ReadBounds(32 * MIB))


def test_a_dictionary_counts_as_what_its_values_have() -> None:
    """One long text among many short ones counts where it is used."""
    array = coded(MIB, "", "a" * 2000)
    batch = decode_stream(stream(array, "zstd"), signature(Scalar(ScalarKind.STRING)), bounds=ReadBounds(32 * MIB))
    assert batch.num_rows == len(array)


def test_what_is_reserved_is_what_is_counted() -> None:
    """Bytes are held for all requests before they are made."""
    held: list[int] = []
    decode_stream(
        stream(coded(1000, "a" * 2000)), signature(Scalar(ScalarKind.STRING)), bounds=ReadBounds(hold=held.append)
    )
    assert 2_000_000 <= sum(held) < 2_100_000


def nested(value: object, rows: int = ROWS) -> value_pb2.ColumnBatch:
    """Write a column of the same nested value in each row."""
    message = value_pb2.ColumnBatch(num_rows=rows)
    message.columns.add(name="x").nested.values.extend([to_value(value)] * rows)
    return message


FAULTS: dict[str, tuple[pa.Array, Type]] = {
    "empty texts that are not JSON": (pa.array([""] * ROWS), ANY),
    "texts that are no date": (pa.array(["x"] * ROWS), Scalar(ScalarKind.DATETIME)),
    "numbers that are not whole": (pa.array(np.full(ROWS, 0.5)), LONG),
    "maps with a key twice": (
        pa.MapArray.from_arrays(np.arange(0, 2 * ROWS + 1, 2, dtype=np.int32), ["a"] * 2 * ROWS, np.zeros(2 * ROWS)),
        MapOf(Scalar(ScalarKind.DOUBLE)),
    ),
    "records with binary": (pa.StructArray.from_arrays([pa.array([b""] * ROWS)], ["a"]), ANY),
}


@pytest.mark.parametrize("what", FAULTS)
def test_faults_are_counted_all_at_once(what: str) -> None:
    """A fault in each of many rows costs no work for each row; the first hundred are written, the others counted."""
    array, type = FAULTS[what]
    data = stream(array)
    errors: list[InvalidInput] = []

    def read() -> None:
        with pytest.raises(InvalidInput) as raised:
            decode_stream(data, signature(type))
        errors.append(raised.value)

    assert steps(read) < ROWS // 2
    assert len(errors[0].violations) == 100
    assert errors[0].omitted == ROWS - 100


def test_the_path_of_a_fault_is_written_only_where_it_is_reported() -> None:
    """Faults of nested values beyond the first hundred are counted without a text."""

    def read(rows: int) -> None:
        message = nested({"a": b""}, rows)
        with pytest.raises(InvalidInput, match=r'columns\["x"\]\[0\]\["a"\]: is binary'):
            decode_columns(message, NO_SIGNATURE)

    assert steps(lambda: read(2000)) - steps(lambda: read(1000)) < 48 * 1000


VALUES = {
    "empty records": pa.StructArray.from_buffers(pa.struct([]), ROWS, [None]),
    "records": pa.StructArray.from_arrays([pa.array(range(ROWS)), pa.array(["a"] * ROWS)], ["a", "b"]),
    "lists": pa.ListArray.from_arrays(
        np.arange(0, 2 * ROWS + 1, 2, dtype=np.int32), np.random.default_rng(1).random(2 * ROWS)
    ),
    "numbers": pa.array(np.random.default_rng(1).random(ROWS)),
    "JSON": pa.array(['{"a": [1, 2]}'] * ROWS),
    "texts of a dictionary": coded(ROWS, '"a"'),
}


@pytest.mark.parametrize("what", VALUES)
def test_values_of_any_type_are_written_all_at_once(what: str) -> None:
    """A model without a signature gets JSON, which is written without work for each row."""
    data = stream(VALUES[what])
    assert steps(lambda: decode_stream(data, NO_SIGNATURE)) < ROWS // 2


@pytest.mark.parametrize("type", [Scalar(ScalarKind.DATETIME), Scalar(ScalarKind.DOUBLE), ANY])
def test_reading_stops_when_nobody_waits(type: Type) -> None:
    """Values that are read one by one are read no further once the caller has gone."""
    values: list[object] = [f"2020-01-01T00:00:{row % 60:02d}.{row:06d}Z" for row in range(ROWS)]
    if type == ANY:
        values = [f'"\\u0041{row}"' for row in range(ROWS)]
    elif type == Scalar(ScalarKind.DOUBLE):
        values = [Decimal(row) for row in range(ROWS)]
    data = stream(pa.array(values))
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks == 4:
            raise DeadlineExceeded("queue")

    def read() -> None:
        with pytest.raises(DeadlineExceeded):
            decode_stream(data, signature(type), bounds=ReadBounds(check=check))

    assert steps(read) < 30 * 4 * CHUNK


def test_columns_are_bounded() -> None:
    """Columns that no model declares are refused by their number, before one of them is read."""
    many = 10_001
    message = value_pb2.ColumnBatch(columns=[value_pb2.Column()] * many)
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([pa.nulls(0)] * many, [str(place) for place in range(many)])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(InvalidInput, match="columns: has more than 10000 columns"):
        decode_columns(message, NO_SIGNATURE)
    with pytest.raises(InvalidInput, match="arrow_stream: has more than 10000 columns"):
        decode_stream(sink.getvalue(), NO_SIGNATURE)
    declared = Signature(tuple(Field(str(place), LONG) for place in range(many)), (Field("y", ANY),))
    with pytest.raises(InvalidInput, match="is there twice"):
        decode_columns(message, declared)
