"""`ScoreResponse` messages whose output is put in place with one copy."""

from __future__ import annotations

from collections.abc import Sequence

from prinz_enricher.batch.wire import prefix
from prinz_enricher.batch.wire_parts import Part
from prinz_enricher.contract import enricher_service_pb2 as pb


def serialize_with_output(response: pb.ScoreResponse, form: str, parts: Sequence[Part]) -> bytes:
    """Serialise a response together with its output.

    A message that follows another on the wire is merged into it, so the output's field can be appended to the rest.

    Args:
        response: Everything else; without an output.
        form: The field of the output.
        parts: Parts that together are the output, serialised where it is a message.
    """
    size = sum(len(part) for part in parts)
    tagged = prefix(pb.ScoreResponse.DESCRIPTOR.fields_by_name[form].number, size)
    return b"".join([response.SerializeToString(), tagged, *(memoryview(part) for part in parts)])
