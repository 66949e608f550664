"""The messages of `ScoreStream`: what is taken apart is what protobuf reads, what is put together is what it writes."""

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from hypothesis import example, given
from hypothesis import strategies as st

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import InvalidRequest, ModelNotFound
from prinz_enricher.fronts.grpc.score_stream import MAX_TIMEOUT, read_message, write_response, write_status
from prinz_enricher.service.status import to_status

SEQUENCES = st.integers(0, 2**64 - 1)
DURATIONS = st.builds(
    Duration, seconds=st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 10), nanos=st.integers(-(2**31), 2**31 - 1)
) | st.builds(Duration, seconds=st.integers(0, 2**40), nanos=st.integers(0, 10**9 - 1))


@st.composite
def requests(draw: st.DrawFn) -> pb.ScoreRequest:
    """Requests with fields of every kind."""
    request = pb.ScoreRequest(request_id=draw(st.text(max_size=3)), outputs=draw(st.lists(st.text(max_size=3))))
    if draw(st.booleans()):
        request.model.name = draw(st.text(max_size=3))
    if draw(st.booleans()):
        request.params["seed"].int64_value = draw(st.integers(-5, 5))
    form = draw(st.sampled_from(("", "columns", "arrow_stream", "dense")))
    if form == "columns":
        request.columns.num_rows = 1
        request.columns.columns.add(name="x").doubles.values.append(draw(st.floats()))
    elif form == "arrow_stream":
        request.arrow_stream = draw(st.binary(max_size=20))
    elif form == "dense":
        request.dense.values = draw(st.binary(max_size=8))
    return request


@st.composite
def messages(draw: st.DrawFn) -> pb.ScoreStreamRequest:
    """Messages of a stream, with any of their fields."""
    message = pb.ScoreStreamRequest(sequence=draw(SEQUENCES))
    if draw(st.booleans()):
        message.request.CopyFrom(draw(requests()))
    if draw(st.booleans()):
        message.timeout.CopyFrom(draw(DURATIONS))
    return message


UNUSUAL = (
    b"\x08\x85\x80\x80\x00",  # a sequence, written longer than it is
    b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # one of more than 64 bits
    b"\x0a\x01\x05",  # a sequence with a length
    b"\x10\x05",  # a request without one
    b"\x13\x14",  # a request as a group
    b"\x12\x80\x00",  # an empty request, its length written longer than it is
    b"\x1a\x02\x08\x85",  # a timeout that is cut off
    b"\x12\x02\x0a\x05",  # a request that is cut off
    b"\x22\x01x\x2d\x00\x00\x00\x00",  # fields that nobody knows
)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """Bytes that are a message, several in a row, or one that is damaged."""
    parts = draw(
        st.lists(messages().map(pb.ScoreStreamRequest.SerializeToString) | st.sampled_from(UNUSUAL), max_size=3)
    )
    data = bytearray(b"".join(parts))
    if data and draw(st.booleans()):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(("cut", "change", "add"))):
            case "cut":
                del data[at:]
            case "change":
                data[at] = draw(st.integers(0, 255))
            case _:
                data[at:at] = draw(st.binary(min_size=1, max_size=3))
    return bytes(data)


def same(one: Message, other: Message) -> bool:
    """Tell whether two messages say the same; NaN is NaN."""
    return one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def expect_timeout(duration: Duration) -> float | None:
    """Return what a timeout means; raises ValueError where it means nothing."""
    if not (0 <= duration.seconds <= 315_576_000_000 and 0 <= duration.nanos < 10**9):
        raise ValueError
    return None if duration.seconds >= MAX_TIMEOUT else duration.seconds + duration.nanos / 1e9


@given(written() | st.binary(max_size=30))
@example(b"\x12\x02\x0a\x05" + b"\x12\x05abcde")  # two requests that only together are one
@example(b"\x1a\x01\x08" + b"\x1a\x01\x05")  # two timeouts that only together are one
def test_it_reads_as_protobuf_does(data: bytes) -> None:
    """Whole, doubled, unusual or damaged: what protobuf reads is read, and what it does not is refused."""
    try:
        real = pb.ScoreStreamRequest.FromString(data)
    except DecodeError:
        real = None
    try:
        message = read_message(data)
    except InvalidRequest:
        assert real is None
        return
    if real is None:
        # The envelope is whole, what is in it is not: that is found here, or by who reads the request.
        if message.fault is None:
            with pytest.raises(DecodeError):
                pb.ScoreRequest.FromString(message.request)
        return
    assert message.sequence == real.sequence
    try:
        timeout = expect_timeout(real.timeout) if real.HasField("timeout") else None
    except ValueError:
        assert message.fault is not None
        assert message.fault.metadata == {"field": "timeout"}
        return
    assert message.fault is None
    assert message.timeout == timeout
    assert same(pb.ScoreRequest.FromString(message.request), real.request)


def test_what_is_no_message() -> None:
    """Bytes that have no sequence are refused as a whole."""
    with pytest.raises(InvalidRequest, match="message: is not a ScoreStreamRequest"):
        read_message(b"\xff")


def test_a_plain_request_stays_as_it_is() -> None:
    """The request of a message is handed on byte for byte, damaged or not: who reads it says what is wrong."""
    damaged = b"\x0a\x7fno request"
    data = b"\x08\x07\x12" + bytes([len(damaged)]) + damaged

    assert read_message(data) == (7, damaged, None, None)


@pytest.mark.parametrize(
    ("timeout", "told"),
    [
        (Duration(seconds=-1), "is negative, or mixes signs"),
        (Duration(seconds=1, nanos=-1), "is negative, or mixes signs"),
        (Duration(nanos=10**9), "is out of the range of a Duration"),
        (Duration(seconds=315_576_000_001), "is out of the range of a Duration"),
    ],
)
def test_a_timeout_that_is_none(timeout: Duration, told: str) -> None:
    """A timeout that makes no sense is the fault of its message, under its sequence."""
    message = read_message(pb.ScoreStreamRequest(sequence=9, timeout=timeout).SerializeToString())

    assert message.sequence == 9
    assert message.fault is not None
    assert message.fault.reason == "INVALID_REQUEST"
    assert [(one.field, one.description) for one in message.fault.violations] == [("timeout", told)]


@given(SEQUENCES, st.binary(max_size=300))
def test_it_writes_scores_as_protobuf_does(sequence: int, scores: bytes) -> None:
    """An answer is the message that protobuf would write, byte for byte."""
    response = pb.ScoreResponse(arrow_stream=scores)
    expected = pb.ScoreStreamResponse(sequence=sequence, response=response)

    assert write_response(sequence, response.SerializeToString()) == expected.SerializeToString()


@given(SEQUENCES, st.text(max_size=200))
def test_it_writes_errors_as_protobuf_does(sequence: int, name: str) -> None:
    """An error is the status of the unary call, with all its details."""
    status = to_status(ModelNotFound(name))

    answer = pb.ScoreStreamResponse.FromString(write_status(sequence, status))

    assert answer.sequence == sequence
    assert answer.WhichOneof("result") == "status"
    assert same(answer.status, status)


def test_scores_of_nothing_are_scores() -> None:
    """An empty response is told apart from none."""
    answer = pb.ScoreStreamResponse.FromString(write_response(0, b""))

    assert answer.WhichOneof("result") == "response"
