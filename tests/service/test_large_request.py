"""Large requests and answers: read and written without copies, and exactly as protobuf would."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prinz_enricher.batch import decode_stream, encode_stream, stream_parts
from prinz_enricher.batch.arrow_stream import LARGE_STREAM
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2, value_pb2
from prinz_enricher.errors import BatchTooLarge, InvalidRequest
from prinz_enricher.ipc.batches import BatchReader, BatchWriter
from prinz_enricher.ipc.frames import Frame, FrameKind
from prinz_enricher.service.score.messages import append_output, parse_score_request
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature
from tests.support.large_requests import MAX_ROWS, check, varint

TEXT = st.text(max_size=5)
MESSAGES = st.one_of(
    st.builds(lambda name: pb.ScoreRequest(model=model_pb2.ModelRef(name=name)), TEXT),
    st.builds(lambda alias: pb.ScoreRequest(model=model_pb2.ModelRef(alias=alias)), TEXT),
    st.builds(lambda rows: pb.ScoreRequest(columns=value_pb2.ColumnBatch(num_rows=rows)), st.integers(0, 300)),
    st.builds(lambda data: pb.ScoreRequest(arrow_stream=data), st.binary(max_size=300)),
    st.builds(lambda data: pb.ScoreRequest(dense=value_pb2.DenseBatch(values=data)), st.binary(max_size=5)),
    st.builds(lambda name: pb.ScoreRequest(params={name: value_pb2.Value()}), TEXT),
    st.builds(lambda names: pb.ScoreRequest(outputs=names), st.lists(TEXT, max_size=3)),
    st.builds(lambda text: pb.ScoreRequest(request_id=text), TEXT),
).map(lambda message: message.SerializeToString())


TAGS = st.builds(lambda number, type: number << 3 | type, st.integers(0, 12) | st.integers(0, 2**32), st.integers(0, 7))
RAW = st.one_of(
    # A field of any number and wire type, known or not, whose value may be none of that type.
    st.builds(lambda tag, data: varint(tag) + data, TAGS, st.binary(max_size=12)),
    st.builds(
        lambda tag, data, padding: varint(tag, padding[0]) + varint(len(data), padding[1]) + data,
        st.sampled_from([3 << 3 | 2, 2 << 3 | 2, 15 << 3 | 2]),
        st.binary(max_size=12),
        st.tuples(st.integers(0, 9), st.integers(0, 9)),
    ),
)


@given(st.lists(MESSAGES, max_size=6))
@example([b"\x1a\x01a", b"\x12\x00"])
@example([b"\x12\x02\x08\x01", b"\x1a\x01a", b"\x12\x00"])
def test_parts_merge_as_in_protobuf(parts: list[bytes]) -> None:
    """Fields in any order and number mean what they mean to protobuf: the last input wins, whichever its form."""
    check(b"".join(parts))


@given(st.lists(MESSAGES | RAW, max_size=6), st.integers(0, 40))
def test_damage_is_judged_as_by_protobuf(parts: list[bytes], cut: int) -> None:
    """Unknown, overlong, mistyped and truncated fields are taken or refused as protobuf does."""
    data = b"".join(parts)
    check(data[: max(0, len(data) - cut)])


@given(st.binary(max_size=60))
def test_garbage_is_judged_as_by_protobuf(data: bytes) -> None:
    """Random bytes are taken or refused as protobuf does."""
    check(data)


def test_more_fields_than_any_model_takes() -> None:
    """A message of twenty thousand fields is read as by protobuf; of more, it is refused before protobuf reads it."""
    data = b"\x1a\x01a" + b"\x32\x01x" * 20_000

    check(data)
    with pytest.raises(InvalidRequest, match="has more than 10000 columns, or 20000 outputs and params"):
        parse_score_request(data + b"\x32\x01x" * 100, MAX_ROWS)


@given(st.lists(st.binary(max_size=200), max_size=4), TEXT)
def test_an_answer_is_what_protobuf_writes(parts: list[bytes], request_id: str) -> None:
    """An answer with a stream of any length is a message that protobuf reads."""
    response = pb.ScoreResponse(request_id=request_id, timing=pb.ScoreTiming(batch_rows=3))
    data = append_output(response.SerializeToString(), "arrow_stream", [pa.py_buffer(part) for part in parts])
    response.arrow_stream = b"".join(parts)

    assert pb.ScoreResponse.FromString(data) == response


DOUBLE, LONG, STRING = Scalar(ScalarKind.DOUBLE), Scalar(ScalarKind.LONG), Scalar(ScalarKind.STRING)
NAMES = [f"x{i}" for i in range(11)]
DOUBLES = Signature(inputs=tuple(Field(name, DOUBLE) for name in NAMES), outputs=())
ROWS = LARGE_STREAM // 8


def doubles() -> pa.RecordBatch:
    """Make a batch whose stream is large."""
    random = np.random.default_rng(1)
    return pa.RecordBatch.from_arrays([pa.array(random.random(ROWS)) for _ in NAMES], names=NAMES)


def within(buffers: Iterator[pa.Buffer], memory: pa.Buffer) -> bool:
    """Tell whether buffers are parts of a memory."""
    end = memory.address + memory.size
    return all(memory.address <= buffer.address and buffer.address + buffer.size <= end for buffer in buffers)


def values_of(batch: pa.RecordBatch) -> Iterator[pa.Buffer]:
    """Yield the memory of each column's values."""
    return (column.buffers()[1] for column in batch.columns)


@pytest.mark.parametrize("request_id_size", range(8))
def test_no_copy_from_the_request_to_the_worker(request_id_size: int) -> None:
    """Doubles are views of the request wherever in it they lie, and what the socket gets is those views."""
    batch = doubles()
    padding = pb.ScoreRequest(request_id="x" * request_id_size).SerializeToString()
    data = padding + pb.ScoreRequest(arrow_stream=encode_stream(batch).to_pybytes()).SerializeToString()
    memory = pa.py_buffer(data)

    _, views = parse_score_request(data, MAX_ROWS)
    assert views.data is not None
    decoded = decode_stream(views.data, DOUBLES)
    parts, _ = BatchWriter().parts(decoded)

    assert within(values_of(decoded), memory)
    assert decoded.columns == batch.columns
    large = [part for part in parts if len(part) >= 8 * ROWS]
    assert len(large) == len(NAMES)
    assert within(iter(large), memory)


def test_no_copy_from_the_worker_to_the_answer() -> None:
    """What a worker received is viewed, not copied, and so are the parts of an answer's stream."""
    batch = doubles()
    parts, schema_size = BatchWriter().parts(batch)
    body = pa.py_buffer(b"".join(memoryview(part) for part in parts))

    received = BatchReader().read(Frame(FrameKind.SCORES, 1, {}, body, schema_size))
    answer = stream_parts(received)

    assert within(values_of(received), body)
    assert within((part for part in answer if len(part) >= 8 * ROWS), body)
    assert b"".join(memoryview(part) for part in answer) == encode_stream(batch).to_pybytes()


@pytest.mark.parametrize("offset", range(8))
def test_other_columns_are_aligned(offset: int) -> None:
    """Text, nulls and other types beside doubles are read aright wherever the stream lies."""
    random = np.random.default_rng(2)
    signature = Signature(
        inputs=(
            Field("text", STRING),
            Field("double", DOUBLE),
            Field("narrow", DOUBLE),
            Field("holes", DOUBLE, required=False),
            Field("long", LONG),
        ),
        outputs=(),
    )
    values = random.random(ROWS)
    for holes in (values, [None if value < 0.5 else value for value in values]):
        sent = pa.record_batch(
            {
                "long": pa.array(np.arange(ROWS)),
                "text": [f"{value:.3}" for value in values],
                "narrow": pa.array(values.astype(np.float32)),
                "double": pa.array(values),
                "holes": pa.array(holes, pa.float64()),
            }
        )
        data = memoryview(bytes(offset) + encode_stream(sent).to_pybytes())[offset:]

        decoded = decode_stream(data, signature)

        assert decoded.schema.names == ["text", "double", "narrow", "holes", "long"]
        for name in ("text", "double", "long"):
            assert decoded.column(name).equals(sent.column(name))
        assert decoded.column("narrow").equals(sent.column("narrow").cast(pa.float64()))
        expected = np.array(holes, dtype=float)
        assert np.array_equal(decoded.column("holes").to_numpy(zero_copy_only=False), expected, equal_nan=True)


@pytest.mark.parametrize("rows", [0, 1000, 1001])
def test_more_texts_than_rows_are_allowed(rows: int) -> None:
    """A column of more texts than rows are allowed is refused while it is parsed, by the rows that are declared."""
    columns = pb.ScoreRequest().columns
    columns.num_rows = rows
    columns.columns.add(name="s").strings.values.extend(["text"] * 1001)
    with pytest.raises(BatchTooLarge if rows > 1000 else InvalidRequest, match=r"1000|more than 1000 values"):
        parse_score_request(pb.ScoreRequest(columns=columns).SerializeToString(), 1000)
