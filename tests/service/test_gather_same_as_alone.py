"""Calls that come together have the answers that each of them has alone."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.scoring.ports import Target
from prinz_enricher.signature import Field, Param, Scalar, ScalarKind, Signature, Tensor, to_value
from tests.support.gathering import (
    DOUBLES,
    KINDS,
    NAMES,
    HandPool,
    Service,
    columns_request,
    dense_request,
    handled,
    outcomes_alone,
    row,
    rows,
    target_of,
)

PLAIN_KINDS = list(KINDS)
SPECIAL_DOUBLES = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0])
# A float that Python has read is quiet, by the processor; its payload stays.
QUIET_FLOATS = st.integers(0, 2**32 - 1).map(lambda bits: struct.unpack("<f", struct.pack("<I", bits | 0x0040_0000))[0])
VALUES: dict[ScalarKind, st.SearchStrategy[Any]] = {
    ScalarKind.DOUBLE: st.floats() | SPECIAL_DOUBLES | st.sampled_from([-0.0, 5e-324, float("inf")]),
    ScalarKind.FLOAT: st.floats(width=32, allow_nan=False) | QUIET_FLOATS,
    ScalarKind.LONG: st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**63 - 1]),
    ScalarKind.INTEGER: st.integers(-(2**31), 2**31 - 1),
    ScalarKind.BOOLEAN: st.booleans(),
    ScalarKind.STRING: st.text(st.characters(codec="utf-8"), max_size=6) | st.integers(0, 90).map(lambda n: "é" * n),
}
IDS = st.sampled_from(["", "abc", "xyz", "ünï", "i" * 256, "i" * 257, "é" * 256, "i" * 512, "\0"])


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    """Draw a signature: of doubles alone, or of several types."""
    doubles = draw(st.booleans())
    kinds = st.just(ScalarKind.DOUBLE) if doubles else st.sampled_from(PLAIN_KINDS)
    names = draw(st.lists(st.sampled_from(["a", "b", "c", "d", "é"]), min_size=1, unique=True))
    inputs = tuple(Field(name, Scalar(draw(kinds)), draw(st.sampled_from([True, True, False]))) for name in names)
    types: list[Scalar | Tensor] = [*(Scalar(kind) for kind in PLAIN_KINDS), Tensor("uint64", (-1,))]
    if draw(st.booleans()):
        types = [Scalar(ScalarKind.DOUBLE)]
    outputs = tuple(
        Field(name, draw(st.sampled_from(types)))
        for name in draw(st.sampled_from([["y"], ["y", "z"], ["p", "q", "r"]]))
    )
    params = (Param("p", Scalar(ScalarKind.DOUBLE), 1.5),) if draw(st.booleans()) else ()
    return Signature(inputs, outputs, params)


@st.composite
def requests_for(draw: st.DrawFn, target: Target) -> pb.ScoreRequest:
    """Draw a request, most of them good, for a model."""
    signature = target.signature
    wanted = draw(st.just([]) | st.lists(st.sampled_from([*(one.name for one in signature.outputs), "?"]), max_size=2))
    request = pb.ScoreRequest(model=model_pb2.ModelRef(name=target.name), outputs=wanted, request_id=draw(IDS))
    if draw(st.booleans()):
        request.signature_digest = draw(st.sampled_from([signature.digest] * 4 + ["another"]))
    kinds = {field.name: field.type.kind for field in signature.inputs if isinstance(field.type, Scalar)}
    rows = draw(st.sampled_from([1, 1, 2, 3]))
    if draw(st.integers(0, 2)) == 0:
        values = [draw(VALUES[ScalarKind.DOUBLE]) for _ in range(rows * len(kinds))]
        request.dense.num_rows = rows
        request.dense.values = struct.pack(f"<{len(values)}d", *values)
        if draw(st.integers(0, 9)):
            request.signature_digest = signature.digest
    else:
        request.columns.num_rows = rows
        for name in draw(st.sampled_from([list(kinds), list(kinds)[::-1]])):
            kind = kinds[name]
            if draw(st.integers(0, 40)) == 0:
                kind = draw(st.sampled_from(PLAIN_KINDS))
            column = request.columns.columns.add(name=name)
            column.validity = draw(st.sampled_from([b""] * 9 + [b"\x01", b"\x07"]))
            getattr(column, KINDS[kind]).values.extend(draw(VALUES[kind]) for _ in range(rows))
    match draw(st.integers(0, 60)):
        case 0:
            request.columns.columns.add(name="new").doubles.values.append(1.0)
        case 1:
            request.columns.num_rows = draw(st.sampled_from([0, 2, -1]))
        case 2:
            request.params["p"].CopyFrom(draw(st.sampled_from([to_value(3.0), to_value(None)])))
        case 3:
            request.independent_rows = True
        case 4:
            request.model.name = draw(st.sampled_from(["", "nobody"]))
        case 5:
            request.ClearField("columns")
    return request


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Target], list[list[bytes]]]:
    """Draw models, and the requests that come together, batch by batch."""
    targets = [target_of(draw(signatures()), name) for name in draw(st.sampled_from([["m"], ["m", "n"]]))]
    requests = [
        draw(requests_for(draw(st.sampled_from(targets)))).SerializeToString() for _ in range(draw(st.integers(1, 9)))
    ]
    # Each more than once, so that templates are of use.
    batches = draw(st.lists(st.lists(st.sampled_from(requests), min_size=1, max_size=8), min_size=1, max_size=4))
    return targets, batches


@given(worlds())
def test_calls_together_have_the_answers_of_each_alone(world: tuple[list[Target], list[list[bytes]]]) -> None:
    """Whatever is asked, right or wrong, in whatever order: field by field, and bit by bit."""
    targets, batches = world
    service = Service(HandPool(), *targets)
    for batch in batches:
        asked = handled(service, *batch)
        assert [one.outcome for one in asked] == outcomes_alone(batch, *targets)


@st.composite
def damages(draw: st.DrawFn, most: int) -> list[tuple[str, int, bytes]]:
    """Draw what is done to the bytes of a request."""
    kinds = st.sampled_from(["set", "flip", "insert", "drop", "append", "again"])
    some = st.tuples(kinds, st.integers(0, most), st.binary(min_size=1, max_size=4))
    return draw(st.lists(some, min_size=1, max_size=3))


def damaged(data: bytes, damage: list[tuple[str, int, bytes]]) -> bytes:
    """Change bytes of a request."""
    for kind, place, some in damage:
        at = place % (len(data) or 1)
        match kind:
            case "set":
                data = data[:at] + some[:1] + data[at + 1 :]
            case "flip":
                data = data[:at] + bytes([data[at] ^ 1 << some[0] % 8]) + data[at + 1 :] if data else some
            case "insert":
                data = data[:at] + some + data[at:]
            case "drop":
                data = data[:at] + data[at + len(some) :]
            case "append":
                data += some
            case "again":
                data += data[at : at + 40]
    return data


@st.composite
def plain_requests(draw: st.DrawFn) -> bytes:
    """Draw a good request of doubles."""
    double, many = VALUES[ScalarKind.DOUBLE], draw(st.sampled_from([1, 1, 2, 20]))
    values = {name: draw(st.lists(double, min_size=many, max_size=many)) for name in draw(st.permutations(NAMES))}
    request_id = draw(st.sampled_from(["", "abcd", "é1"]))
    if draw(st.booleans()):
        return dense_request(
            [one for some in values.values() for one in some], request_id=request_id
        ).SerializeToString()
    outputs, digest = draw(st.sampled_from([[], ["z"]])), draw(st.sampled_from(["", DOUBLES.signature.digest]))
    return columns_request(values, request_id=request_id, outputs=outputs, digest=digest).SerializeToString()


@given(plain_requests(), damages(200), damages(200))
def test_bytes_that_differ_from_what_was_learnt_mean_what_they_mean_alone(
    data: bytes, damage: list[tuple[str, int, bytes]], more: list[tuple[str, int, bytes]]
) -> None:
    """Whatever bytes are changed, those of the values too; and whatever was learnt of the changed ones."""
    service = Service(HandPool(), DOUBLES)
    strange = damaged(data, damage)
    stranger = damaged(strange, more)
    # Alone, for one is read in another way, and among others.
    for batch in (
        [data],
        [strange],
        [data, strange, stranger],
        [data, data, strange, strange, stranger],
        [strange, strange],
        [stranger],
        [stranger, data, strange],
    ):
        asked = handled(service, *batch)
        assert [one.outcome for one in asked] == outcomes_alone(batch, DOUBLES)


def test_any_one_byte_that_differs_means_what_it_means_alone() -> None:
    """Every byte of a request, one after the other, in every form."""
    for request in (
        columns_request(row(1.5), request_id="abc", outputs=["z"], digest=DOUBLES.signature.digest),
        columns_request(dict(reversed(row(1.5).items()))),
        dense_request(list(row(1.5).values()), request_id="abc"),
        columns_request(rows(1.5, 2.5), request_id="abc"),
        dense_request([*row(1.5).values(), *row(2.5).values()]),
    ):
        data = request.SerializeToString()
        service = Service(HandPool(), DOUBLES)
        # Of several rows it is learnt once there are two alike.
        handled(service, data, data)
        assert service._grouper._templates.of_size(len(data))
        others = [data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :] for at in range(len(data)) for bit in (1, 0x80)]
        together = [one.outcome for one in handled(service, *others)]
        alone = outcomes_alone(others, DOUBLES)
        assert together == alone
        assert [handled(service, one)[0].outcome for one in others] == alone


def written(number: int, wire_type: int, value: bytes) -> bytes:
    """Write a field as protobuf does."""
    length = bytes([len(value)]) if wire_type == 2 else b""
    return bytes([number << 3 | wire_type]) + length + value


FIELD = {name: field.number for name, field in pb.ScoreRequest.DESCRIPTOR.fields_by_name.items()}


def both_inputs(first: float) -> bytes:
    """Write a request with columns, and behind them dense rows, which are what counts."""
    columns = columns_request(row(first), digest=DOUBLES.signature.digest).SerializeToString()
    return columns + pb.ScoreRequest(dense=dense_request([7.0, 8.0, 9.0]).dense).SerializeToString()


def numbered_id(number: int) -> bytes:
    """Write a request that has a number where its id would be."""
    return columns_request(row(1.0)).SerializeToString() + written(FIELD["request_id"], 0, bytes([number]))


def long_id(text: str) -> bytes:
    """Write a request with a long id."""
    return columns_request(row(1.0), request_id=text).SerializeToString()


def unpacked(first: float) -> bytes:
    """Write a request whose doubles are not packed."""
    column = written(1, 2, b"a") + written(7, 2, struct.pack("<Bd", 1 << 3 | 1, first))
    columns = written(1, 0, b"\x01") + written(2, 2, column)
    return pb.ScoreRequest(model=model_pb2.ModelRef(name="m")).SerializeToString() + written(2, 2, columns)


STRANGE = {
    "two inputs": [both_inputs(1.0), both_inputs(2.0)],
    "an id that is a number": [numbered_id(65), numbered_id(66)],
    "an id of many bytes": [long_id("é" * 200), long_id("i" * 400), long_id("é" * 200)],
    "an id of few letters": [long_id("é" * 128), long_id("i" * 256), long_id("i" * 255 + "\x80")],
    "values that are not packed": [unpacked(1.0), unpacked(2.0)],
    "a name that is no text": [long_id("abcd"), long_id("abcd").replace(b"abcd", b"ab\xff\xfe")],
}


@pytest.mark.parametrize("name", STRANGE)
def test_requests_that_are_strange_are_read_as_protobuf_reads_them(name: str) -> None:
    """Whatever was learnt of the first of them, both one by one and together."""
    requests = STRANGE[name]
    alone = outcomes_alone(requests, DOUBLES)
    service = Service(HandPool(), DOUBLES)
    assert [handled(service, one)[0].outcome for one in requests] == alone
    assert [one.outcome for one in handled(service, *requests)] == alone
    assert [handled(service, one)[0].outcome for one in requests] == alone
