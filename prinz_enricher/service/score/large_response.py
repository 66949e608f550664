"""`ScoreResponse` messages whose output is put in place with one copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prinz_enricher.batch.wire import prefix
from prinz_enricher.batch.wire_parts import Part
from prinz_enricher.contract import enricher_service_pb2 as pb

_NUMBERS: Final = {name: field.number for name, field in pb.ScoreResponse.DESCRIPTOR.fields_by_name.items()}


def with_output(response: bytes, form: str, parts: Sequence[Part]) -> bytes:
    """Put an output to a response.

    A message that follows another on the wire is merged into it, so the output's field can be appended to the rest.

    Args:
        response: Everything else, serialised; without an output.
        form: The field of the output.
        parts: Parts that together are the output, serialised where it is a message.
    """
    tagged = prefix(_NUMBERS[form], sum(map(len, parts)))
    return b"".join([response, tagged, *(memoryview(part) for part in parts)])
