"""Arrow streams: sound ones without a copy, all others refused."""

from __future__ import annotations

import decimal
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.batch import Violations, arrow_messages, batch_to_rows, coerce, decode_stream, encode_stream
from prinz_enricher.errors import BatchTooLarge, InvalidInput
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    Tensor,
    Type,
    input_schema,
    read_signature,
)

K = ScalarKind
DOUBLE, LONG, STRING = Scalar(K.DOUBLE), Scalar(K.LONG), Scalar(K.STRING)


def signature(**types: Type) -> Signature:
    """Make a signature of required inputs."""
    return Signature(tuple(Field(name, type) for name, type in types.items()), (Field("y", DOUBLE),))


def stream(*batches: pa.RecordBatch, schema: pa.Schema | None = None, **options: Any) -> bytes:
    """Write a stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema or batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def one(array: pa.Array, type: Type, *, required: bool = True) -> pa.Array:
    """Send one column `x`, and give what comes of it."""
    read = decode_stream(stream(pa.record_batch({"x": array})), Signature((Field("x", type, required),), ()))
    read.validate(full=True)
    assert read.schema.equals(input_schema(Signature((Field("x", type, required),), ())), check_metadata=True)
    return read.column(0)


def refused(data: bytes, wanted: Signature, **limits: Any) -> list[tuple[str, str]]:
    """Decode what is refused."""
    with pytest.raises(InvalidInput) as caught:
        decode_stream(data, wanted, **limits)
    return [(violation.field, violation.description) for violation in caught.value.violations]


def test_exact_columns_are_views_of_the_stream() -> None:
    """No fixed-width column is copied between the message and the batch."""
    data = stream(pa.record_batch({"a": pa.array(np.arange(1000.0)), "b": pa.array(np.arange(1000))}))
    start = pa.py_buffer(data).address
    batch = decode_stream(data, signature(b=LONG, a=DOUBLE))
    assert batch.schema.names == ["b", "a"]
    assert all(start <= array.buffers()[1].address < start + len(data) for array in batch.columns)


def test_batches_of_a_stream_are_one() -> None:
    """Record batches are joined in order; a stream without one has zero rows."""
    first, second = pa.record_batch({"x": [1.0, 2.0]}), pa.record_batch({"x": [3.0]})
    assert decode_stream(stream(first, second), signature(x=DOUBLE)).to_pydict() == {"x": [1.0, 2.0, 3.0]}
    empty = decode_stream(stream(schema=first.schema), signature(x=DOUBLE))
    assert (empty.num_rows, empty.schema.types) == (0, [pa.float64()])
    assert decode_stream(encode_stream(first), signature(x=DOUBLE)).equals(
        decode_stream(memoryview(stream(first)), signature(x=DOUBLE))
    )


@pytest.mark.parametrize(
    ("array", "type", "want"),
    [
        (pa.array(["a", None, "a"]).dictionary_encode(), STRING, ["a", None, "a"]),
        (pa.array(["a"], pa.large_utf8()), STRING, ["a"]),
        (
            pa.array(["a long text in a view of its own"], pa.string_view()),
            STRING,
            ["a long text in a view of its own"],
        ),
        (pa.array([b"ab"], pa.binary(2)), Scalar(K.BINARY), [b"ab"]),
        (pa.array([3], pa.uint64()), Scalar(K.INTEGER), [3]),
        (pa.array([2.0, 3.0], pa.float16()), LONG, [2, 3]),
        (pa.array([1, None], pa.int8()).slice(0, 1), Scalar(K.FLOAT), [1.0]),
        (pa.array([decimal.Decimal("0.1")]), DOUBLE, [0.1]),
        (pa.array([decimal.Decimal("12.00")]), LONG, [12]),
        (pa.array([date(2026, 11, 23)]), Scalar(K.DATETIME), [datetime(2026, 11, 23)]),
        (pa.array([date(2026, 11, 23)], pa.date64()), Scalar(K.DATETIME), [datetime(2026, 11, 23)]),
        (
            pa.array([5_000], pa.timestamp("ns", "Europe/Warsaw")),
            Scalar(K.DATETIME),
            [datetime(1970, 1, 1, 0, 0, 0, 5)],
        ),
        (pa.array([-5], pa.timestamp("s")), Scalar(K.DATETIME), [datetime(1969, 12, 31, 23, 59, 55)]),
        (pa.array(["2026-11-23T01:00:00+01:00"]), Scalar(K.DATETIME), [datetime(2026, 11, 23)]),
        (pa.array([[1, 2], []], pa.large_list(pa.int8())), ListOf(DOUBLE), [[1.0, 2.0], []]),
        (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), ListOf(LONG), [[1, 2]]),
        (pa.array([[0], [1, 2], [3]], pa.list_(pa.int32())).slice(1), ListOf(LONG), [[1, 2], [3]]),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.float32())), Tensor("float32", (-1, 2)), [[1.0, 2.0], [3.0, 4.0]]),
        (pa.array([[[1], [2, 3]]]), Tensor("uint8", (-1, 2, -1)), [[[1], [2, 3]]]),
        (pa.array([[("a", 1)], []], pa.map_(pa.utf8(), pa.int8())), MapOf(DOUBLE), [[("a", 1.0)], []]),
        (pa.array([{"b": "x", "a": 1}]), Record((Field("a", DOUBLE), Field("b", STRING))), [{"a": 1.0, "b": "x"}]),
        (
            pa.array([{"b": "x"}]),
            Record((Field("a", LONG, required=False), Field("b", STRING))),
            [{"a": None, "b": "x"}],
        ),
        (pa.array(['{"a":1.0}', None, "null"]), AnyValue(), ['{"a":1.0}', None, None]),
        (pa.array([[1, None]]), AnyValue(), ["[1,null]"]),
        (pa.array([None, None]), STRING, [None, None]),
    ],
)
def test_every_arrow_encoding_of_a_value_is_taken(array: pa.Array, type: Type, want: list[Any]) -> None:
    """Whatever Arrow calls it: what survives exactly comes out in the declared type."""
    assert one(array, type).to_pylist() == want


@pytest.mark.parametrize(
    ("array", "type", "field"),
    [
        (pa.array([2**53 + 1]), DOUBLE, "[0]"),
        (pa.array([0.0, 1e39]), Scalar(K.FLOAT), "[1]"),
        (pa.array([decimal.Decimal("0.12345678901234567890")]), DOUBLE, "[0]"),
        (pa.array([decimal.Decimal(16777218), decimal.Decimal(16777217)]), Scalar(K.FLOAT), "[1]"),
        (pa.array([1], pa.timestamp("ns")), Scalar(K.DATETIME), "[0]"),
        (pa.array([2**62], pa.timestamp("s")), Scalar(K.DATETIME), "[0]"),
        (pa.array([-(2**63)], pa.timestamp("us")), Scalar(K.DATETIME), "[0]"),
        (pa.array([1]), Scalar(K.DATETIME), ""),
        (pa.array([True]), LONG, ""),
        (pa.array([1]), Scalar(K.BOOLEAN), ""),
        (pa.array([None]), LONG, "[0]"),
        (pa.array(["a"]), Scalar(K.BINARY), ""),
        (pa.array([1], pa.duration("s")), LONG, ""),
        (pa.array([[0], [1.5]]), ListOf(LONG), "[1][0]"),
        (pa.array([[1], None]), ListOf(LONG), "[1]"),
        (pa.array([["a"]]), ListOf(LONG), "[*]"),
        (pa.array([[1, 2], [3]]), Tensor("int64", (-1, 2)), "[1]"),
        (pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.utf8(), pa.int8())), MapOf(LONG), "[0]"),
        (pa.array([[("a", 1)], [("b", 2), ("c", None)]], pa.map_(pa.utf8(), pa.int8())), MapOf(LONG), '[1]["c"]'),
        (pa.array([[(1, 1)]], pa.map_(pa.int8(), pa.int8())), MapOf(LONG), ""),
        (pa.array([{"a": 1, "b": 2}]), Record((Field("a", LONG),)), ".b"),
        (pa.array([{"b": 2}]), Record((Field("a", LONG), Field("b", LONG))), ".a"),
        (pa.array([{"a": 1}, {"a": None}]), Record((Field("a", LONG),)), "[1].a"),
        (pa.array([None, {"a": 1.5}]), Record((Field("a", LONG),)), "[0]"),
        (pa.array(["{"]), AnyValue(), "[0]"),
        (pa.array(['{"a":1,"a":2}']), AnyValue(), "[0]"),
        (pa.array(["1e999"]), AnyValue(), "[0]"),
        (pa.array(["[" * 50 + "]" * 50]), AnyValue(), "[0]"),
        (pa.array([b"x"]), AnyValue(), "[0]"),
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"x" * 16], pa.binary(16))), STRING, ""),
        (pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]), LONG, ""),
        (pa.RunEndEncodedArray.from_arrays([1], [1]), LONG, ""),
    ],
)
def test_what_does_not_fit_is_refused_at_its_path(array: pa.Array, type: Type, field: str) -> None:
    """A type that is never taken is a fault of the column, a value one of its place."""
    data = stream(pa.record_batch({"x": array}))
    assert 'columns["x"]' + field in dict(refused(data, signature(x=type)))


def test_what_is_under_a_null_is_nobodys_value() -> None:
    """Neither a null list's elements nor a null record's properties are looked at."""
    lists = pa.ListArray.from_arrays([0, 1, 2], pa.array([1.5, 2.0]), mask=pa.array([True, False]))
    records = pa.StructArray.from_arrays([pa.array([1.5, 2.0])], names=["a"], mask=pa.array([True, False]))
    assert one(lists, ListOf(LONG), required=False).to_pylist() == [None, [2]]
    assert one(records, Record((Field("a", LONG),)), required=False).to_pylist() == [None, {"a": 2}]


GOOD = stream(
    pa.record_batch({"x": pa.array([1.0, 2.0]), "s": pa.array(["a", "bc"]), "l": pa.array([[1], [2, 3]])}),
    pa.record_batch({"x": pa.array([3.0]), "s": pa.array([""]), "l": pa.array([[]], pa.list_(pa.int64()))}),
)
WANTED = signature(x=DOUBLE, s=STRING, l=ListOf(LONG))


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", GOOD + b"x", GOOD[:-8], GOOD[: len(GOOD) // 2], GOOD[8:], b"ARROW1\0\0" + GOOD, GOOD + GOOD],
)
def test_what_is_no_whole_stream_is_refused(data: bytes) -> None:
    """Also a stream that lost its end, and so perhaps its last rows."""
    assert refused(data, WANTED)[0][0] == "arrow_stream"


def test_big_endian_streams_are_refused() -> None:
    """The byte order is in the schema; the values of such a stream would need a swap."""
    data = bytearray(stream(pa.record_batch({"x": pa.array([1.0])})))
    # The schema table's first field, which is left out when little-endian: point it at a 1 in the vtable of the test.
    metadata = memoryview(data)[8:]
    root = arrow_messages._number("<I", metadata, 0)
    schema = arrow_messages._table(metadata, root, 2)
    assert schema is not None
    assert not arrow_messages.is_big_endian(metadata)
    vtable = schema - int.from_bytes(metadata[schema : schema + 4], "little", signed=True)
    # The fields' offset is 16 bits that are not 0, so as an endianness they are not little.
    metadata[vtable + 4 : vtable + 6] = metadata[vtable + 6 : vtable + 8]
    assert arrow_messages.is_big_endian(metadata)
    assert refused(bytes(data), signature(x=DOUBLE))[0][0] == "arrow_stream"


def test_rows_are_counted_before_they_are_read() -> None:
    """A batch of nulls takes no bytes on the wire, but would in memory."""
    nulls = pa.record_batch({"x": pa.nulls(10**9)})
    with pytest.raises(BatchTooLarge):
        decode_stream(stream(nulls), signature(x=DOUBLE), max_rows=1000)
    assert refused(stream(nulls), signature(x=DOUBLE))[0][0] == "arrow_stream"


def test_what_grows_when_decompressed_is_bounded() -> None:
    """Compression is taken, up to a size that is told beforehand."""
    batch = pa.record_batch({"x": pa.array(np.zeros(1_000_000))})
    for codec in ("zstd", "lz4"):
        data = stream(batch, compression=codec)
        assert len(data) < 1_000_000
        assert decode_stream(data, signature(x=DOUBLE)).num_rows == 1_000_000
        assert "once decompressed" in refused(data, signature(x=DOUBLE), max_bytes=7_000_000)[0][1]


def test_a_dictionary_that_grows_when_expanded_is_refused() -> None:
    """A few bytes of indices may stand for gigabytes of text."""
    array = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int8)), pa.array(["x" * 1_000_000]))
    assert refused(stream(pa.record_batch({"x": array})), signature(x=STRING)) == [
        ('columns["x"]', "is too large when its dictionary is expanded")
    ]


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_stream_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    """Whatever bytes are changed: a valid batch comes of it, or an error; nothing crashes."""
    data = bytearray(GOOD)
    for place, byte in changes:
        data[place] = byte
    try:
        batch = decode_stream(bytes(data), WANTED, max_rows=1000)
    except (InvalidInput, BatchTooLarge):
        return
    batch.validate(full=True)
    batch_to_rows(batch)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    """Random bytes are no stream."""
    assert refused(data, WANTED)[0][0] == "arrow_stream"


def test_columns_of_any_name_are_taken_without_a_signature() -> None:
    """Text is JSON, all else is written as JSON; a name may be there only once."""
    missing = read_signature({})
    batch = decode_stream(stream(pa.record_batch({"a": [1], "b": ["[1]"]})), missing)
    assert batch.to_pydict() == {"a": ["1"], "b": ["[1]"]}
    twice = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert refused(stream(twice), missing) == [('columns["a"]', "is there twice")]


@pytest.mark.parametrize(
    ("array", "type"),
    [
        (pa.FixedSizeListArray.from_arrays(pa.nulls(2**28), 2**28), ListOf(DOUBLE)),
        (pa.FixedSizeListArray.from_arrays(pa.nulls(2**28), 2**28), Tensor("float64", (-1, 2**28))),
        (pa.nulls(1_000_000), Tensor("float32", (-1, 1000, 1000))),
        (pa.array(["x"] * 100_000), Tensor("float32", (-1, 1000, 1000))),
    ],
)
def test_nulls_that_take_no_bytes_are_not_made_into_values(array: pa.Array, type: Type) -> None:
    """A small request never asks for much memory."""
    before = pa.total_allocated_bytes()
    assert refused(stream(pa.record_batch({"x": array})), signature(x=type))
    assert pa.total_allocated_bytes() - before < 10_000_000
    assert pa.default_memory_pool().max_memory() < 2**31


def test_text_whose_dictionary_is_of_lists_is_refused() -> None:
    """An Arrow type that Arrow itself has no kernel for is a fault of the column."""
    array = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int8()), pa.array([[1]]))
    faults = Violations()
    got = coerce(array, ListOf(LONG), True, "x", faults)
    assert faults or got.to_pylist() == [[1], [1]]
