"""The messages of `ScoreStream`, taken apart and put together; the request or the scores in them stay bytes.

A stream message is an envelope; what is in it is read by whoever reads that of a unary call, and only there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from prinz_enricher.batch.wire import prefix, varint
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import InvalidRequest

MAX_TIMEOUT: Final = 10 * 365 * 86_400.0
"""Seconds beyond which a timeout is none: longer than any service runs, and less than what Python's locks can wait."""

_MAX_SECONDS: Final = 315_576_000_000
_MAX_NANOS: Final = 999_999_999

_RESPONSE: Final = pb.ScoreStreamResponse.DESCRIPTOR.fields_by_name["response"].number
_STATUS: Final = pb.ScoreStreamResponse.DESCRIPTOR.fields_by_name["status"].number
_SEQUENCE_TAG: Final = varint(pb.ScoreStreamResponse.DESCRIPTOR.fields_by_name["sequence"].number << 3)


class ScoreMessage(NamedTuple):
    """One message of a caller.

    Attributes:
        sequence: The caller's number for it.
        request: The `ScoreRequest`, serialised; empty where there is none. It may be damaged: that is for its reader to
            find.
        timeout: Seconds after its arrival when an answer is of no more use; None for no limit of its own.
        fault: What is wrong with it, told to the caller under its sequence; None where nothing is, as far as it was
            read.
    """

    sequence: int
    request: bytes
    timeout: float | None
    fault: InvalidRequest | None


def read_message(data: bytes) -> ScoreMessage:
    """Take a message apart, as protobuf does.

    Args:
        data: A serialised `ScoreStreamRequest`.

    Raises:
        InvalidRequest: It is none, so that it has no sequence under which the caller could be told.
    """
    try:
        envelope = _Envelope.FromString(data)
    except DecodeError:
        raise InvalidRequest("message", "is no ScoreStreamRequest") from None
    # Each field access makes an object; most messages have one request and no timeout.
    requests, timeouts = envelope.request, envelope.timeout
    try:
        return ScoreMessage(
            envelope.sequence,
            requests[0] if len(requests) == 1 else _merged(requests),
            _seconds(timeouts) if timeouts else None,
            None,
        )
    except InvalidRequest as fault:
        return ScoreMessage(envelope.sequence, b"", None, fault)


def write_response(sequence: int, response: bytes) -> bytes:
    """Serialise a `ScoreStreamResponse` with scores.

    Args:
        sequence: The caller's number for the message it answers.
        response: The `ScoreResponse`, serialised.
    """
    return b"".join((_written(sequence), prefix(_RESPONSE, len(response)), response))


def write_status(sequence: int, status: status_pb2.Status) -> bytes:
    """Serialise a `ScoreStreamResponse` with an error.

    Args:
        sequence: The caller's number for the message it answers.
        status: As the unary call would have it.
    """
    written = status.SerializeToString()
    return b"".join((_written(sequence), prefix(_STATUS, len(written)), written))


def _written(sequence: int) -> bytes:
    return _SEQUENCE_TAG + varint(sequence) if sequence else b""


def _merged(requests: Sequence[bytes]) -> bytes:
    """Return several messages as one: on the wire, those that follow each other are merged."""
    for request in requests:
        # Each must be whole, or the end of one and the beginning of the next could make a message that nobody sent.
        try:
            pb.ScoreRequest.FromString(request)
        except DecodeError:
            raise InvalidRequest("request", "is no ScoreRequest message") from None
    return b"".join(requests)


def _seconds(timeouts: Sequence[bytes]) -> float | None:
    duration = Duration()
    try:
        for timeout in timeouts:
            duration.MergeFromString(timeout)
    except DecodeError:
        raise InvalidRequest("timeout", "is no Duration message") from None
    seconds, nanos = duration.seconds, duration.nanos
    if seconds < 0 or nanos < 0:
        raise InvalidRequest("timeout", "is negative, or mixes signs")
    if seconds > _MAX_SECONDS or nanos > _MAX_NANOS:
        raise InvalidRequest("timeout", "is out of the range of a Duration")
    return None if seconds >= MAX_TIMEOUT else seconds + nanos / 1e9


def _make_envelope() -> Any:
    """Make the message type `ScoreStreamRequest` with bytes where it has messages.

    protobuf reads it as it reads the real one, several times as quickly as Python could walk it. What is repeated keeps
    the parts of a field that was written more than once.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="score_stream_envelope.proto", package="envelope", syntax="proto3")
    message = file.message_type.add(name="Envelope")
    for field in pb.ScoreStreamRequest.DESCRIPTOR.fields:
        nested = field.message_type is not None
        message.field.add(
            name=field.name,
            number=field.number,
            type=kinds.TYPE_BYTES if nested else kinds.Type.ValueType(field.type),
            label=kinds.LABEL_REPEATED if nested else kinds.LABEL_OPTIONAL,
        )
    # A pool of its own: the type is of no concern to reflection.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("envelope.Envelope"))


_Envelope: Final = _make_envelope()
