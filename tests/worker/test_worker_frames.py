"""The frames between a front and its workers."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.ipc.batches import BatchReader, BatchWriter, has_at_most
from prinz_enricher.ipc.faults import FrameError
from prinz_enricher.ipc.frames import Frame, FrameKind, FrameSocket, decode_value, encode_value

HEADER = struct.Struct("<4sB3xQIIQ")


@contextmanager
def pair(**limits: Any) -> Iterator[tuple[FrameSocket, FrameSocket, socket.socket]]:
    """Connect two ends; the third is the raw socket of the first."""
    left, right = socket.socketpair()
    right.settimeout(20)
    with left, right:
        yield FrameSocket(left), FrameSocket(right, **limits), left


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(
    st.sampled_from(FrameKind),
    st.integers(0, 2**64 - 1),
    st.dictionaries(st.text(), JSON, max_size=5),
    st.lists(st.binary(max_size=200), max_size=5),
)
def test_a_frame_arrives_as_it_was_sent(
    kind: FrameKind, number: int, meta: dict[str, object], parts: list[bytes]
) -> None:
    """Kind, id, meta and body are the same on the other side."""
    with pair() as (sender, receiver, _):
        sender.send(kind, meta, id=number, body=parts)
        frame = receiver.receive()
        assert frame is not None
        assert (frame.kind, frame.id, frame.meta) == (kind, number, meta)
        assert frame.body.to_pybytes() == b"".join(parts)


def test_a_body_larger_than_the_sockets_buffers_arrives_whole() -> None:
    """Parts beyond what one system call takes are sent on."""
    parts = [bytes([i % 256]) * 5000 for i in range(1500)]
    with pair() as (sender, receiver, _):
        thread = threading.Thread(target=sender.send, args=(FrameKind.SCORE, {}), kwargs={"body": parts})
        thread.start()
        frame = receiver.receive()
        thread.join()
        assert frame is not None
        assert frame.body.to_pybytes() == b"".join(parts)


def test_the_end_between_frames_is_no_fault() -> None:
    """The other side may leave when nothing is under way."""
    with pair() as (sender, receiver, _):
        sender.send(FrameKind.READY, {})
        sender.close()
        assert receiver.receive() is not None
        assert receiver.receive() is None


@given(st.integers(1, 60))
def test_a_stream_that_ends_within_a_frame_is_an_error(missing: int) -> None:
    """However much is missing, the receiver neither hangs nor gives half a frame."""
    meta, body = b'{"a":1}', b"x" * 30
    whole = HEADER.pack(b"PRZ1", 4, 1, len(meta), 0, len(body)) + meta + body
    with pair() as (sender, receiver, raw):
        raw.sendall(whole[:-missing])
        sender.close()
        with pytest.raises(FrameError):
            receiver.receive()


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(b"HTTP", 4, 1, 2, 0, 0),
        HEADER.pack(b"PRZ1", 99, 1, 2, 0, 0),
        HEADER.pack(b"PRZ1", 4, 1, 2**32 - 1, 0, 0),
        HEADER.pack(b"PRZ1", 4, 1, 2, 0, 2**63),
        HEADER.pack(b"PRZ1", 4, 1, 2, 50, 10),
    ],
    ids=["magic", "kind", "meta too large", "body too large", "schema beyond body"],
)
def test_a_header_that_lies_is_an_error_before_anything_is_allocated(header: bytes) -> None:
    """A length beyond the limits is refused, not believed."""
    with pair(max_meta=1000, max_body=1000) as (_, receiver, raw):
        raw.sendall(header + b"{}")
        with pytest.raises(FrameError):
            receiver.receive()


@pytest.mark.parametrize("meta", [b"{", b"[]", b"\xff\xff", b"[" * 5000])
def test_meta_that_is_no_json_object_is_an_error(meta: bytes) -> None:
    """Nothing else than a JSON object is meta."""
    with pair() as (_, receiver, raw):
        raw.sendall(HEADER.pack(b"PRZ1", 4, 1, len(meta), 0, 0) + meta)
        with pytest.raises(FrameError):
            receiver.receive()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_an_error(noise: bytes) -> None:
    """Noise never hangs the receiver or raises anything else."""
    with pair(max_meta=100, max_body=100) as (sender, receiver, raw):
        raw.sendall(noise)
        sender.close()
        try:
            while receiver.receive() is not None:
                continue
        except FrameError:
            return


def test_a_frame_beyond_the_limits_is_not_sent() -> None:
    """The sender learns it, and the stream stays whole."""
    left, right = socket.socketpair()
    with left, right:
        sender = FrameSocket(left, max_meta=100, max_body=10)
        with pytest.raises(FrameError):
            sender.send(FrameKind.SCORE, {}, body=[b"x" * 11])
        sender.send(FrameKind.SCORE, {}, body=[b"x" * 10])
        assert FrameSocket(right).receive() is not None


def travel(writer: BatchWriter, reader: BatchReader, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Frame]:
    """Send a batch through a socket."""
    with pair() as (sender, receiver, _):
        parts, schema_size = writer.parts(batch)
        sender.send(FrameKind.SCORE, {}, body=parts, schema_size=schema_size)
        frame = receiver.receive()
        assert frame is not None
        return reader.read(frame), frame


def test_a_schema_travels_only_when_it_changes() -> None:
    """The first batch brings its schema, the next of the same schema don't, metadata counting as part of it."""
    writer, reader = BatchWriter(), BatchReader()
    plain = pa.schema([pa.field("a", pa.int64())])
    marked = pa.schema([pa.field("a", pa.int64(), metadata={b"prinz.type": b"any"})])
    sizes = []
    for schema in (plain, plain, marked, pa.schema(marked), plain):
        batch = pa.RecordBatch.from_arrays([pa.array([1, 2, 3])], schema=schema)
        back, frame = travel(writer, reader, batch)
        assert back.equals(batch, check_metadata=True)
        sizes.append(frame.schema_size > 0)
    assert sizes == [True, False, True, False, True]


def test_a_batch_uses_the_memory_it_was_received_in() -> None:
    """No copy is made of fixed-width columns, and they are aligned as Arrow wants."""
    batch = pa.RecordBatch.from_arrays([pa.array(np.arange(1000.0))], names=["a"])
    back, frame = travel(BatchWriter(), BatchReader(), batch)
    address = back.column(0).buffers()[1].address
    assert frame.body.address <= address < frame.body.address + frame.body.size
    assert address % 8 == 0


def test_sliced_batches_travel_as_their_slice() -> None:
    """Offsets of a slice are minded."""
    batch = pa.RecordBatch.from_arrays(
        [pa.array(["a", None, "ccc", "d"]), pa.array([[1], [2, 3], None, []])], names=list("ab")
    )
    back, _ = travel(BatchWriter(), BatchReader(), batch.slice(1, 2))
    assert back.to_pylist() == batch.slice(1, 2).to_pylist()


def bits(rows: int, columns: int) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Doubles of any bits: NaN of every kind among them."""
    return st.binary(min_size=8 * rows * columns, max_size=8 * rows * columns).map(
        lambda data: np.frombuffer(data, np.float64).reshape(rows, columns)
    )


@given(st.data(), st.integers(1, 5), st.integers(1, 4))
def test_doubles_are_read_without_arrow_as_arrow_reads_them(data: st.DataObject, rows: int, columns: int) -> None:
    """Once a batch of as many rows was read: the same bits, in an array of its own that the model may change."""
    writer, reader = BatchWriter(), BatchReader()
    names = [str(place) for place in range(columns)]
    arrays: list[Any] = []
    batches = []
    for _ in range(3):
        values = data.draw(bits(rows, columns))
        batches.append(pa.RecordBatch.from_arrays([pa.array(column) for column in values.T], names=names))
        with pair() as (sender, receiver, _):
            parts, schema_size = writer.parts(batches[-1])
            sender.send(FrameKind.SCORE, {}, body=parts, schema_size=schema_size)
            frame = receiver.receive()
        assert frame is not None
        arrays.append(reader.array(frame))
        assert reader.read(frame).serialize().equals(batches[-1].serialize())
    assert arrays[0] is None
    for array, batch in zip(arrays[1:], batches[1:], strict=True):
        wanted = batch.to_tensor(row_major=False).to_numpy()
        assert (array.tobytes("F"), array.shape, array.strides) == (
            wanted.tobytes("F"),
            wanted.shape,
            wanted.strides,
        )
        array[:] = 1.0


@pytest.mark.parametrize(
    "batch",
    [
        pa.RecordBatch.from_arrays([pa.array([1.0, None])], names=["a"]),
        pa.RecordBatch.from_arrays([pa.array([1.0, 2.0]), pa.array([1, 2])], names=["a", "b"]),
        pa.RecordBatch.from_arrays([pa.array([1.0, 2.0], pa.float32())], names=["a"]),
        pa.RecordBatch.from_arrays([pa.array([], pa.float64())], names=["a"]),
        pa.RecordBatch.from_arrays([pa.array(["one", "two"])], names=["a"]),
    ],
    ids=["a null", "whole numbers too", "shorter floats", "no rows", "text"],
)
def test_other_batches_are_never_read_without_arrow(batch: pa.RecordBatch) -> None:
    """However often they come."""
    writer, reader = BatchWriter(), BatchReader()
    for _ in range(3):
        _, frame = travel(writer, reader, batch)
        assert reader.array(frame) is None


def test_wide_batches_are_remembered_within_bounds() -> None:
    """Metadata of many columns take much memory: those that there is no room for are read by Arrow, each time."""
    writer, reader = BatchWriter(), BatchReader()
    remembered = []
    for rows in range(1, 13):
        values = np.full((rows, 5000), float(rows))
        batch = pa.RecordBatch.from_arrays([pa.array(one) for one in values.T], names=[str(i) for i in range(5000)])
        for _ in range(2):
            body, schema_size = joined(writer.parts(batch))
            frame = Frame(FrameKind.SCORE, 1, {}, pa.py_buffer(body), schema_size)
            assert reader.read(frame).num_rows == rows
        array = reader.array(frame)
        remembered.append(array is not None)
        assert array is None or (array == rows).all()
    assert 1 < sum(remembered) < len(remembered)


def test_a_schema_that_changes_is_learnt_anew() -> None:
    """Messages of other columns have the same metadata where these are of the same type and as many."""
    writer, reader = BatchWriter(), BatchReader()
    for names in (["a"], ["b"], ["a"]):
        batch = pa.RecordBatch.from_arrays([pa.array([1.0, 2.0])], names=names)
        back, first = travel(writer, reader, batch)
        assert reader.array(first) is None
        assert back.schema.names == names
        _, second = travel(writer, reader, batch)
        assert reader.array(second).tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("cut", [slice(0, -8), slice(0, 8), slice(0, 3), slice(8, None)])
def test_a_message_that_lies_about_its_size_is_an_error(cut: slice) -> None:
    """Metadata that are known do not stand for values that are not there."""
    writer, reader = BatchWriter(), BatchReader()
    batch = pa.RecordBatch.from_arrays([pa.array([1.0, 2.0]), pa.array([3.0, 4.0])], names=["a", "b"])
    travel(writer, reader, batch)
    _, frame = travel(writer, reader, batch)
    lie = frame._replace(body=pa.py_buffer(frame.body.to_pybytes()[cut]))
    assert reader.array(lie) is None
    with pytest.raises(FrameError):
        reader.read(lie)


@given(st.data(), st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_one_column_of_doubles_is_written_as_arrow_writes_it(data: st.DataObject, sizes: list[int]) -> None:
    """The same bytes, and the schema before the first of them alone; other batches may come between."""
    writer, plain = BatchWriter(), BatchWriter()
    schema = pa.schema([pa.field("score", pa.float64(), nullable=data.draw(st.booleans()))])
    for rows in sizes:
        values = data.draw(bits(rows, 1))[:, 0]
        batch = pa.RecordBatch.from_arrays([pa.array(values)], schema=schema)
        if data.draw(st.booleans()):
            other = pa.RecordBatch.from_arrays([pa.array([1])], names=["other"])
            assert joined(writer.parts(other)) == joined(plain.parts(other))
        assert joined(writer.parts_of_doubles(values, schema)) == joined(plain.parts(batch))


def test_a_slice_has_the_bytes_of_its_rows_alone() -> None:
    """A row of a large batch is small, though it shares its memory; and a large one is large."""
    batch = pa.RecordBatch.from_arrays([pa.array(np.zeros(1000))], names=["a"])
    assert has_at_most(batch.slice(3, 1), 8)
    assert has_at_most(batch, 8000)
    assert not has_at_most(batch, 7999)
    assert not has_at_most(batch.slice(3, 2), 15)


def joined(told: tuple[list[pa.Buffer | bytes], int]) -> tuple[bytes, int]:
    """Give a body in one piece."""
    return b"".join(bytes(memoryview(part)) for part in told[0]), told[1]


@given(st.binary(max_size=400), st.integers(0, 400))
def test_a_body_that_is_no_batch_is_an_error(body: bytes, schema_size: int) -> None:
    """Whatever the bytes, reading ends with FrameError."""
    reader = BatchReader()
    travel_batch = pa.RecordBatch.from_arrays([pa.array([1.0])], names=["a"])
    travel(BatchWriter(), reader, travel_batch)
    with pytest.raises(FrameError):
        reader.read(Frame(FrameKind.SCORE, 1, {}, pa.py_buffer(body), min(schema_size, len(body))))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(VALUES)
def test_a_parameter_s_value_is_the_same_on_the_other_side(value: object) -> None:
    """Bytes, datetimes and dicts of any keys too."""
    with pair() as (sender, receiver, _):
        sender.send(FrameKind.SCORE, {"params": encode_value(value)})
        frame = receiver.receive()
        assert frame is not None
        back = decode_value(frame.meta["params"])
        assert back == value
        assert type(back) is type(value)


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j])
def test_a_value_of_no_known_type_is_refused(value: object) -> None:
    """Nothing is sent that would come back as something else."""
    with pytest.raises(TypeError):
        encode_value(value)


@pytest.mark.parametrize(
    "written", [{}, {"bytes": 1}, {"date": "never"}, {"record": [1]}, {"a": 1, "b": 2}, {"x": "y"}]
)
def test_a_form_that_was_never_written_is_an_error(written: object) -> None:
    """What can't be read is no value."""
    with pytest.raises(FrameError):
        decode_value(written)


def test_dates_and_datetimes_are_told_apart() -> None:
    """A datetime is a date in Python, but not the same parameter."""
    assert decode_value(encode_value([date(2024, 1, 2), datetime(2024, 1, 2)])) == [
        date(2024, 1, 2),
        datetime(2024, 1, 2),
    ]
