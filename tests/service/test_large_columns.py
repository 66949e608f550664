"""Columns and dense rows of large requests: viewed in the request, and judged exactly as protobuf judges them."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from prinz_enricher.batch import encode_columns, encode_dense
from prinz_enricher.batch.wire import Views
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import EnricherError, InvalidInput, InvalidRequest
from prinz_enricher.service.score.messages import Limits, parse_score_request, read_rows
from prinz_enricher.signature import AnyValue, Field, Scalar, ScalarKind, Signature
from tests.support.large_requests import MAX_ROWS, check, varint

MIXED = Signature(
    (
        Field("d", Scalar(ScalarKind.DOUBLE)),
        Field("f", Scalar(ScalarKind.FLOAT), required=False),
        Field("b", Scalar(ScalarKind.BOOLEAN), required=False),
        Field("n", Scalar(ScalarKind.LONG), required=False),
        Field("s", Scalar(ScalarKind.STRING), required=False),
        Field("a", AnyValue(), required=False),
    ),
    (),
)
NUMBERS = Signature(tuple(field for field in MIXED.inputs if field.name in "dfbn"), ())
LIMITS = Limits(1000, 1 << 20)
DOUBLES, FLOATS, BOOLS, STRINGS = 7, 6, 3, 8


def part(number: int, value: bytes) -> bytes:
    """Write a field with a length."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def doubles(*values: float) -> bytes:
    """Write values as their memory."""
    return struct.pack(f"<{len(values)}d", *values)


def column(name: str, kind: int, packed: bytes, validity: bytes = b"") -> bytes:
    """Write a column as protobuf does."""
    return part(1, name.encode()) + (part(2, validity) if validity else b"") + part(kind, part(1, packed))


def in_columns(rows: int, *columns: bytes) -> bytes:
    """Write a request in columns."""
    return part(2, b"\x08" + varint(rows) + b"".join(part(2, one) for one in columns))


def in_dense(rows: int, values: bytes) -> bytes:
    """Write a request in dense rows."""
    return part(4, b"\x08" + varint(rows) + part(2, values)) + part(7, b"digest")


FLOATING = st.floats().map(doubles)
NAMES = st.sampled_from([b"d", b"f", b"b", b"n", b"s", b"a", b"\xff", "é".encode()]) | st.binary(max_size=3)
CHUNKS = st.one_of(
    st.lists(FLOATING, max_size=4).map(lambda values: part(1, b"".join(values))),
    st.binary(max_size=17).map(lambda data: part(1, data)),
    st.lists(st.sampled_from([b"\0", b"\1", b"\1", b"\2", b"\x81\0", b"\x80"]), max_size=4).map(
        lambda values: part(1, b"".join(values))
    ),
    # One element that is not packed, of each width.
    FLOATING.map(lambda value: b"\x09" + value),
    st.binary(min_size=4, max_size=4).map(lambda value: b"\x0d" + value),
    st.integers(0, 2**64 - 1).map(lambda value: b"\x08" + varint(value)),
    # A packed field whose length, or whose tag, is written longer than it is; and one that protobuf does not know.
    FLOATING.map(lambda value: b"\x0a" + varint(8, 1) + value),
    FLOATING.map(lambda value: varint(10, 1) + varint(8) + value),
    FLOATING.map(lambda value: part(2, value)),
)
VALUES = st.one_of(
    CHUNKS,
    CHUNKS,
    st.lists(CHUNKS, max_size=3).map(b"".join),
)
MEMBERS = st.builds(part, st.sampled_from([DOUBLES, DOUBLES, FLOATS, BOOLS, STRINGS]) | st.integers(1, 13), VALUES)
COLUMN_PARTS = st.one_of(NAMES.map(lambda name: part(1, name)), st.binary(max_size=2).map(lambda bits: part(2, bits)))
COLUMNS = st.one_of(
    st.builds(lambda name, member: part(1, name) + member, NAMES, MEMBERS),
    st.lists(COLUMN_PARTS | MEMBERS | st.binary(max_size=4), max_size=5).map(b"".join),
)
BATCH_PARTS = st.one_of(
    st.integers(0, 4).map(lambda rows: b"\x08" + varint(rows)),
    COLUMNS.map(lambda one: part(2, one)),
    st.binary(max_size=3),
)
BATCHES = st.lists(st.one_of(COLUMNS.map(lambda one: part(2, one)), BATCH_PARTS), max_size=5).map(
    lambda parts: b"\x08\x01" + b"".join(parts)
)
DENSE = st.lists(
    st.one_of(
        st.integers(0, 4).map(lambda rows: b"\x08" + varint(rows)),
        st.lists(FLOATING, max_size=8).map(lambda values: part(2, b"".join(values))),
        st.binary(max_size=3),
    ),
    max_size=4,
).map(b"".join)
REQUESTS = st.lists(
    st.one_of(
        BATCHES.map(lambda batch: part(2, batch)),
        BATCHES.map(lambda batch: part(2, batch)),
        DENSE.map(lambda batch: part(4, batch)),
        st.just(part(7, b"digest")),
        st.binary(max_size=3).map(lambda data: part(3, data)),
    ),
    min_size=1,
    max_size=2,
).map(b"".join)


def outcome(read: Callable[[], pa.RecordBatch]) -> object:
    """Give all that a caller can tell of how rows were read."""
    try:
        batch = read()
    except InvalidInput as error:
        return error.violations, error.omitted
    except EnricherError as error:
        return type(error), str(error)
    batch.validate(full=True)
    # By bytes, since NaN is never equal to itself; and written anew, so that none lies elsewhere or has other padding.
    return batch.schema, encode_columns(batch).SerializeToString(deterministic=True)


def check_rows(data: bytes, signature: Signature) -> Views:
    """Compare the rows, or their faults, with those of protobuf's own message; gives what was viewed."""
    views = check(data)
    try:
        expected = pb.ScoreRequest.FromString(data)
    except DecodeError:
        return views
    message, again = parse_score_request(data, MAX_ROWS)
    assert again == views
    assert outcome(lambda: read_rows(message, signature, LIMITS, views)) == outcome(
        lambda: read_rows(expected, signature, LIMITS, Views())
    )
    return views


@given(REQUESTS, st.sampled_from([MIXED, NUMBERS, Signature((), ())]))
@example(in_columns(1, part(DOUBLES, part(1, doubles(1)) + part(1, doubles(2))) + part(1, b"d")), MIXED)
@example(in_columns(1, part(DOUBLES, part(1, doubles(1))) + part(DOUBLES, part(1, doubles(2))) + part(1, b"d")), MIXED)
@example(in_columns(1, part(DOUBLES, part(1, doubles(1))) + part(FLOATS, b"") + part(1, b"d")), MIXED)
@example(in_columns(1, column("d", DOUBLES, doubles(1)), column("d", FLOATS, b"\0\0\0\0")), MIXED)
@example(in_columns(1, column("d", DOUBLES, doubles(1)), column("d", STRINGS, b"x")), MIXED)
@example(in_columns(1, column("d", DOUBLES, doubles(1)), column("b", BOOLS, b"\2")), MIXED)
@example(in_columns(1, column("d", DOUBLES, doubles(1))) + in_columns(1, column("d", DOUBLES, doubles(1))), MIXED)
def test_any_columns_are_judged_as_by_protobuf(data: bytes, signature: Signature) -> None:
    """Split, repeated, unpacked, overlong and unknown fields mean what they mean to protobuf."""
    check_rows(data, signature)


@given(REQUESTS, st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=3), st.integers(0, 12))
def test_damaged_columns_are_judged_as_by_protobuf(data: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    """Changed bytes and a cut end are taken or refused as by protobuf."""
    written = bytearray(data)
    for place, byte in changes:
        written[place % len(written)] = byte
    check_rows(bytes(written[: max(0, len(written) - cut)]), MIXED)


ROWS = st.integers(1, 12)


@given(ROWS, st.randoms(use_true_random=False), st.integers(0, 9), st.booleans())
def test_plain_columns_are_viewed(rows: int, source: random.Random, padding: int, validity: bool) -> None:
    """Doubles, floats and booleans that protobuf wrote are views wherever they lie, and read as protobuf reads them."""
    values = np.random.default_rng(source.randrange(1000))
    batch = pa.record_batch(
        {
            "b": pa.array(values.random(rows) < 0.5),
            "d": pa.array(values.random(rows)),
            "s": pa.array(["x"] * rows),
            "n": pa.array([2.0] * rows),
            "f": pa.array(values.random(rows).astype(np.float32)),
            "a": pa.array(values.random(rows)),
        }
    )
    columns = encode_columns(batch)
    if validity:
        for one in columns.columns:
            one.validity = values.bytes((rows + 7) // 8)
    data = pb.ScoreRequest(columns=columns, outputs=["x" * padding]).SerializeToString()

    views = check_rows(data, MIXED)

    assert set(views.columns) == {0, 1, 3, 4, 5}


@given(st.lists(st.lists(st.floats(), min_size=4, max_size=4), min_size=1, max_size=5), st.integers(0, 9))
def test_dense_rows_are_viewed(rows: list[list[float]], padding: int) -> None:
    """Dense values are a view wherever they lie, and read as protobuf reads them."""
    data = part(6, b"x" * padding) + in_dense(len(rows), b"".join(doubles(*row) for row in rows))

    views = check_rows(data, NUMBERS)

    assert views.data is not None
    assert len(views.data) == 32 * len(rows)


@pytest.mark.parametrize(
    ("rows", "width"), [(511, 300), (512, 300), (513, 300), (43_690, 3), (43_691, 3), (100_000, 3)]
)
def test_many_dense_rows_become_their_columns(rows: int, width: int) -> None:
    """Each value of rows that are turned in several blocks stands in its column and row."""
    signature = Signature(tuple(Field(str(place), Scalar(ScalarKind.DOUBLE)) for place in range(width)), ())
    matrix = np.arange(float(width * rows)).reshape(rows, width)
    message, views = parse_score_request(b"\x3a\x01x" + in_dense(rows, matrix.tobytes()), MAX_ROWS)

    batch = read_rows(message, signature, Limits(rows, 0), views)

    assert all(np.array_equal(batch.column(place).to_numpy(), matrix[:, place]) for place in range(width))
    again = encode_dense(batch)
    assert again is not None
    assert again.values == matrix.tobytes()


@pytest.mark.parametrize("padding", range(8))
def test_columns_are_not_copied(padding: int) -> None:
    """What was viewed in a request is the memory of the batch, wherever it lies."""
    data = part(6, b"x" * padding) + in_columns(3, column("d", DOUBLES, doubles(1, 2, 3)))
    message, views = parse_score_request(data, MAX_ROWS)

    batch = read_rows(message, MIXED, LIMITS, views)

    assert batch.column("d").buffers()[1].address == pa.py_buffer(data).address + data.index(doubles(1, 2, 3))
    assert batch.column("d").to_pylist() == [1, 2, 3]


def test_what_is_changed_is_aligned() -> None:
    """Values that Arrow computes on are copied to where it may."""
    for padding in range(8):
        data = part(6, b"x" * padding) + in_columns(
            2, column("n", DOUBLES, doubles(1, 2)), column("a", DOUBLES, doubles(1, 2))
        )
        message, views = parse_score_request(data, MAX_ROWS)
        signature = Signature(tuple(field for field in MIXED.inputs if field.name in "na"), ())

        batch = read_rows(message, signature, LIMITS, views)

        assert batch.column("n").buffers()[1].address % 8 == 0
        assert batch.to_pydict() == {"n": [1, 2], "a": ["1.0", "2.0"]}


def test_text_that_is_no_utf8_is_refused() -> None:
    """A name that protobuf refuses is refused also beside values that it never sees."""
    good = column("d", DOUBLES, doubles(1))

    check(in_columns(1, good, part(1, b"\xff") + part(DOUBLES, part(1, doubles(1)))))
    with pytest.raises(DecodeError):
        pb.ScoreRequest.FromString(in_columns(1, part(1, b"\xff") + part(DOUBLES, part(1, doubles(1)))))


def test_nesting_is_as_deep_as_protobuf_takes() -> None:
    """A value nested at protobuf's limit is judged alike beside values that are viewed."""
    taken = set()
    for depth in range(40, 60):
        value = b"\x08\x00"
        for _ in range(depth):
            value = part(8, part(1, value))
        data = in_columns(1, column("d", DOUBLES, doubles(1)), part(1, b"a") + part(11, part(1, value)))
        taken.add(bool(check(data).columns))
    assert taken == {True, False}


def test_many_fields() -> None:
    """A column of thousands of fields is left to protobuf; more columns than any model takes are refused before it."""
    long = column("d", DOUBLES, doubles(1)) + b"\x78\x00" * 20_000
    assert check_rows(in_columns(1, long, column("f", FLOATS, b"\0\0\0\0")), MIXED).columns.keys() == {1}
    many = [column("d", DOUBLES, doubles(1))] * 10_001
    assert len(check_rows(in_columns(1, *many), MIXED).columns) == 10_001
    with pytest.raises(InvalidRequest, match="has more than 10000 columns"):
        parse_score_request(in_columns(1, *many, *[b""] * 20), MAX_ROWS)
