"""Requests parsed in pieces are what protobuf makes of them, and are counted before they are made."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from prinz_enricher.batch import piecewise
from prinz_enricher.batch.piecewise import PIECE, ManyValues, PieceParser
from prinz_enricher.batch.wire import MAX_FIELDS, ManyFields, NotPlain, prefix
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import value_pb2
from prinz_enricher.signature.value import fill_value

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=9)
)
VALUES = st.recursive(
    SCALARS | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@contextlib.contextmanager
def small_pieces(size: int) -> Iterator[None]:
    """Parse pieces of some bytes, so that small messages have many."""
    bounds = {"PIECE": size, "_LARGE_COLUMN": size, "_FEW": 1, "_LONG": 2 * size}
    with contextlib.ExitStack() as stack:
        for name, bound in bounds.items():
            stack.enter_context(patch.object(piecewise, name, bound))
        yield


def parsed(data: bytes) -> pb.ScoreRequest:
    """Parse a request in pieces."""
    message = pb.ScoreRequest()
    PieceParser(lambda _: None, sys.maxsize).parse(message, memoryview(data))
    return message


@st.composite
def requests(draw: st.DrawFn) -> pb.ScoreRequest:
    """Make requests of columns of every kind, params and the rest."""
    request = pb.ScoreRequest(outputs=draw(st.lists(st.text(max_size=5), max_size=3)), request_id=draw(st.text()))
    for name, value in draw(st.dictionaries(st.text(max_size=3), VALUES, max_size=3)).items():
        fill_value(request.params[name], value)
    request.columns.num_rows = draw(st.integers(0, 9))
    for _ in range(draw(st.integers(0, 4))):
        column = request.columns.columns.add(name=draw(st.text(max_size=9)), validity=draw(st.binary(max_size=9)))
        numbers = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20)
        match draw(st.sampled_from(["int32s", "int64s", "timestamps", "bools", "doubles", "strings", "nested"])):
            case "nested":
                for value in draw(st.lists(VALUES, max_size=9)):
                    fill_value(column.nested.values.add(), value)
                column.nested.SetInParent()
            case "strings":
                column.strings.values.extend(draw(st.lists(st.text(max_size=9), max_size=9)))
            case "bools":
                column.bools.values.extend(draw(st.lists(st.booleans(), max_size=20)))
            case kind:
                getattr(column, kind).values.extend(draw(numbers))
    return request


@given(requests(), st.integers(1, 40).map(lambda size: 8 * size), st.booleans())
def test_any_request_is_what_protobuf_makes_of_it(request: pb.ScoreRequest, size: int, twice: bool) -> None:
    """Columns, texts, numbers, nested values and params are the same in pieces of any size, also where parts merge."""
    data = request.SerializeToString() * (1 + twice)
    with small_pieces(size):
        assert parsed(data) == pb.ScoreRequest.FromString(data)


@given(requests(), st.integers(1, 40).map(lambda size: 8 * size), st.data())
def test_damage_is_refused_or_judged_as_by_protobuf(request: pb.ScoreRequest, size: int, data: st.DataObject) -> None:
    """Changed bytes and a cut end are never read as anything that protobuf does not read."""
    written = bytearray(request.SerializeToString())
    for place in data.draw(st.lists(st.integers(0, max(0, len(written) - 1)), max_size=3)):
        if written:
            written[place] = data.draw(st.integers(0, 255))
    damaged = bytes(written[: data.draw(st.integers(0, len(written)))])
    with small_pieces(size), contextlib.suppress(DecodeError, NotPlain):
        message = parsed(damaged)
        # Not the messages themselves, of which those with a NaN are never equal.
        assert message.SerializeToString(deterministic=True) == pb.ScoreRequest.FromString(damaged).SerializeToString(
            deterministic=True
        )


def in_column(kind: str, values: bytes) -> bytes:
    """Write a request of one column."""
    field = value_pb2.Column.DESCRIPTOR.fields_by_name[kind].number
    column = prefix(field, len(values)) + values
    batch = prefix(2, len(column)) + column
    return prefix(2, len(batch)) + batch


SMALLEST = {
    "strings": b"\x0a\x00",
    "nested": b"\x0a\x00",
    "int64s": prefix(1, PIECE) + b"\x01" * PIECE,
    "timestamps": prefix(1, PIECE) + b"\x01" * PIECE,
}


@pytest.mark.parametrize("kind", SMALLEST)
def test_small_values_are_counted_before_they_are_made(kind: str) -> None:
    """What values of a byte or two take in memory is counted piece by piece, and parsed no further than is allowed."""
    data = in_column(kind, SMALLEST[kind] * (8 * PIECE // len(SMALLEST[kind])))
    message, taken = pb.ScoreRequest(), 0

    def take(size: int) -> None:
        nonlocal taken
        taken += size
        if taken > 16 * PIECE:
            raise MemoryError

    with pytest.raises(MemoryError):
        PieceParser(take, sys.maxsize).parse(message, memoryview(data))
    assert len(getattr(message.columns.columns[0], kind).values) < 4 * PIECE


@pytest.mark.parametrize("kind", SMALLEST)
def test_a_column_has_as_many_values_as_rows_are_allowed(kind: str) -> None:
    """A column of more values than a request may have rows is refused, and is not parsed to its end."""
    data = in_column(kind, SMALLEST[kind] * (8 * PIECE // len(SMALLEST[kind])))
    message = pb.ScoreRequest()
    with pytest.raises(ManyValues):
        PieceParser(lambda _: None, 1000).parse(message, memoryview(data))
    assert len(getattr(message.columns.columns[0], kind).values) <= PIECE


def test_columns_in_parts_are_bounded() -> None:
    """More columns than any model takes are refused also where they come in many parts, or after what is unusual."""
    half = prefix(2, MAX_FIELDS * 2) + b"\x12\x00" * MAX_FIELDS
    assert len(parsed(half).columns.columns) == MAX_FIELDS
    with pytest.raises(ManyFields):
        parsed(half + prefix(2, 2) + b"\x12\x00" + half)
    with pytest.raises(NotPlain):
        parsed(b"\x7b\x7c" + prefix(2, 2_000_000) + b"\x12\x00" * 1_000_000)


@example(99)
@given(st.integers(1, 5000))
def test_nesting_ends(depth: int) -> None:
    """Values nested deeper than protobuf takes are refused, however large they are."""
    value = b"\x0a" + prefix(0, 64)[1:] + bytes(64)
    for _ in range(depth):
        value = prefix(8, len(value)) + value
        value = prefix(1, len(value)) + value
    data = in_column("nested", value)
    with small_pieces(16), pytest.raises((DecodeError, NotPlain)):
        parsed(data)
