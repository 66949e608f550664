"""`ScoreResponse` messages whose Arrow stream is put in place with one copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from prinz_enricher.contract import enricher_service_pb2 as pb

_TAG: Final = bytes([pb.ScoreResponse.DESCRIPTOR.fields_by_name["arrow_stream"].number << 3 | 2])


def serialize_with_stream(response: pb.ScoreResponse, stream: Sequence[bytes | pa.Buffer]) -> bytes:
    """Serialise a response together with its Arrow stream.

    A message that follows another on the wire is merged into it, so the stream's field can be appended to the rest.

    Args:
        response: Everything else; without an output.
        stream: Parts that together are the stream.
    """
    size = sum(len(part) for part in stream)
    return b"".join([response.SerializeToString(), _TAG, _varint(size), *(memoryview(part) for part in stream)])


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
