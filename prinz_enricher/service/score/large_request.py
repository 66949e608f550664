"""Large `Score` requests, read without a copy of their values.

The top level of the message is walked as the wire format has it; the Arrow stream, or the values of columns and dense
rows, stay where they are, and protobuf parses all the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from prinz_enricher.batch.wire import BYTES, NotPlain, fields_of, prefix
from prinz_enricher.batch.wire_views import MAX_FIELDS, Views, view_columns, view_dense
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import InvalidRequest


def parse_score_request(data: bytes) -> tuple[pb.ScoreRequest, Views]:
    """Parse a request, and leave its values where they are.

    Args:
        data: The serialised message.

    Returns:
        The message, and those of its values that it is without, as views of `data`. What could not be told apart with
        certainty is in the message.

    Raises:
        InvalidRequest: There is no such message in the bytes.
    """
    try:
        try:
            rest, views = _split(memoryview(data))
        except NotPlain:
            return pb.ScoreRequest.FromString(data), Views()
        return pb.ScoreRequest.FromString(rest), views
    except DecodeError:
        raise InvalidRequest("request", "is no ScoreRequest message") from None


def _view_stream(stream: memoryview) -> tuple[bytes, Views]:
    return b"", Views(stream)


_SPLIT: Final[dict[int, Callable[[memoryview], tuple[bytes, Views]]]] = {
    pb.ScoreRequest.DESCRIPTOR.fields_by_name[name].number: split
    for name, split in (("columns", view_columns), ("arrow_stream", _view_stream), ("dense", view_dense))
}


def _split(request: memoryview) -> tuple[bytes, Views]:
    rest: list[bytes | memoryview] = []
    views: Views | None = None
    for one in fields_of(request, MAX_FIELDS):
        split = _SPLIT.get(one.number) if one.wire_type == BYTES else None
        if split is None:
            rest.append(request[one.start : one.end])
            continue
        if views is not None:
            # Members of a oneof push each other out, and only then are parts of the same member merged.
            raise NotPlain
        written, views = split(request[one.value : one.end])
        rest += (prefix(one.number, len(written)), written)
    return b"".join(rest), views or Views()
