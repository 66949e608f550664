"""Serialised requests, written by hand and compared with what protobuf reads in them."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError

from prinz_enricher.batch.wire import Views
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import InvalidRequest
from prinz_enricher.service.score.messages import parse_score_request

MAX_ROWS = 1_000_000


def varint(value: int, padding: int = 0) -> bytes:
    """Write a varint, with some bytes more than it needs."""
    parts = []
    while value > 0x7F or padding:
        padding -= value <= 0x7F
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def put_back(message: pb.ScoreRequest, views: Views) -> None:
    """Fill in the values that a message is without."""
    form = message.WhichOneof("input")
    if views.data is not None:
        if form == "dense":
            assert not message.dense.values
            message.dense.values = bytes(views.data)
        else:
            assert form == "arrow_stream"
            assert not message.arrow_stream
            message.arrow_stream = bytes(views.data)
    for place, view in views.columns.items():
        assert form == "columns"
        column = message.columns.columns[place]
        kind = column.WhichOneof("values")
        assert kind is not None
        held = getattr(column, kind)
        assert not held.values
        held.MergeFromString(b"\x0a" + varint(len(view)) + view)


def check(data: bytes) -> Views:
    """Compare with protobuf's own parser."""
    try:
        expected = pb.ScoreRequest.FromString(data)
    except DecodeError:
        with pytest.raises(InvalidRequest):
            parse_score_request(data, MAX_ROWS)
        return Views()
    message, views = parse_score_request(data, MAX_ROWS)
    for view in (views.data, *views.columns.values()):
        assert view is None or view.obj is data
    put_back(message, views)
    # Not the messages themselves, of which those with a NaN are never equal.
    assert message.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    return views
