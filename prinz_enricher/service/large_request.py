"""Large `Score` requests, read without a copy of their Arrow stream.

protobuf copies a bytes field when it parses a message, and once more when the field is read. Here the top level of the
message is walked instead, as the wire format has it (a tag, then a value): the stream stays where it is, and protobuf
parses all the rest.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import InvalidRequest

_STREAM: Final = pb.ScoreRequest.DESCRIPTOR.fields_by_name["arrow_stream"].number
_INPUTS: Final = {field.number for field in pb.ScoreRequest.DESCRIPTOR.oneofs_by_name["input"].fields}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_FIELDS: Final = 10_000
"""Fields that are walked at the top level; a message of more is left to protobuf, which is quicker at that."""


class _NotPlain(Exception):
    """The message is damaged or unusual; what it means is protobuf's to say."""


def parse_score_request(data: bytes) -> tuple[pb.ScoreRequest, memoryview | None]:
    """Parse a request, and leave its Arrow stream where it is.

    Args:
        data: The serialised message.

    Returns:
        The message without the stream, and the stream as a view of `data`. None instead of the view where the rows
        have another form, or the stream could not be told apart with certainty; then the message is whole.

    Raises:
        InvalidRequest: There is no such message in the bytes.
    """
    try:
        try:
            rest, stream = _split(memoryview(data))
        except _NotPlain:
            return pb.ScoreRequest.FromString(data), None
        return pb.ScoreRequest.FromString(data if stream is None else rest), stream
    except DecodeError:
        raise InvalidRequest("request", "is no ScoreRequest message") from None


def _split(view: memoryview) -> tuple[bytes, memoryview | None]:
    """Take the last Arrow stream out of a message; of several in a row the last one counts."""
    stream: memoryview | None = None
    rest: list[memoryview] = []
    at = 0
    for _ in range(_MAX_FIELDS):
        if at == len(view):
            return b"".join(rest), stream
        tag, value = _varint(view, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _BYTES:
            size, value = _varint(view, value)
            end = value + size
        else:
            end = _end(view, value, wire_type)
        if end > len(view) or (number in _INPUTS and number != _STREAM):
            # Members of a oneof push each other out, and only then are parts of the same member merged.
            raise _NotPlain
        if number == _STREAM and wire_type == _BYTES:
            stream = view[value:end]
        else:
            rest.append(view[at:end])
        at = end
    raise _NotPlain


def _end(view: memoryview, at: int, wire_type: int) -> int:
    if wire_type == _VARINT:
        return _varint(view, at, 10)[1]
    if wire_type == _FIXED64:
        return at + 8
    if wire_type == _FIXED32:
        return at + 4
    raise _NotPlain  # groups, which proto3 does not have, and what is no wire type


def _varint(view: memoryview, at: int, longest: int = 5) -> tuple[int, int]:
    """Read a varint; returns it and where it ends."""
    value = 0
    for place, byte in enumerate(view[at : at + longest]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if place and not byte:
                raise _NotPlain  # written longer than it is
            return value, at + place + 1
    raise _NotPlain
