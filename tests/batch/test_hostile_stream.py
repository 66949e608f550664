"""Arrow streams that were made to do harm: found by fuzzing, each refused at little cost."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pyarrow as pa
import pytest

from prinz_enricher.batch import decode_stream, encode_columns
from prinz_enricher.errors import EnricherError, InvalidInput
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    Tensor,
    Type,
    read_signature,
)

LONG = Scalar(ScalarKind.LONG)
ANY = AnyValue()
BILLION = 1_000_000_000


def stream(**columns: pa.Array) -> bytes:
    """Write one batch as a stream."""
    batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def refused(data: bytes, type: Type) -> tuple[str, str]:
    """Decode as the column `x` of a type, and return the one fault there is."""
    signature = Signature((Field("x", type, required=False),), (Field("y", ANY),))
    with pytest.raises(InvalidInput) as raised:
        decode_stream(data, signature)
    (fault,) = raised.value.violations
    return fault.field, fault.description


def lists_of(values: pa.Array) -> pa.Array:
    """Make one list of values."""
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


def test_a_batch_of_fewer_than_no_rows_is_refused() -> None:
    """Where there are no columns, nothing but the announced length tells how many rows there are."""
    batch = pa.RecordBatch.from_struct_array(pa.array([{}] * 258, pa.struct([])))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = sink.getvalue().to_pybytes()
    assert decode_stream(data, Signature((Field("x", LONG, required=False),), ())).num_rows == 258
    length = struct.pack("<q", 258)
    assert data.count(length) == 1
    damaged = data.replace(length, struct.pack("<q", -258))
    assert refused(damaged, LONG) == ("arrow_stream", "is not a sound Arrow IPC stream")


@pytest.mark.parametrize("array", [lists_of(pa.nulls(BILLION)), lists_of(lists_of(pa.nulls(BILLION)))])
def test_lists_of_nulls_that_take_no_bytes_are_no_values_of_any_type(array: pa.Array) -> None:
    """A few hundred bytes that claim a billion nulls are refused before a Python object is made of each."""
    assert refused(stream(x=array), ANY) == ('columns["x"]', "is too large for one column")


def test_columns_of_nulls_that_take_no_bytes_are_bounded() -> None:
    """Columns of nulls alone, however many, are no more values than one large batch has."""
    columns = {f"c{place}": pa.nulls(100_000) for place in range(20)}
    with pytest.raises(InvalidInput, match="more values than its bytes"):
        decode_stream(stream(**columns), read_signature({}), max_rows=100_000)
    some = {f"c{place}": pa.nulls(1_000) for place in range(20)}
    assert decode_stream(stream(**some), read_signature({}), max_rows=100_000).num_columns == 20


@pytest.mark.parametrize("type", [ANY, ListOf(ANY), Record((Field("a", LONG),))])
@pytest.mark.parametrize("wrap", [lambda array: array, lists_of])
def test_names_that_are_no_unicode_are_refused(type: Type, wrap: Callable[[pa.Array], pa.Array]) -> None:
    """The name of a property, at any depth, is UTF-8, or the stream is not sound."""
    data = stream(x=wrap(pa.array([{"abcdefgh": 1}]))).replace(b"abcdefgh", b"abc\xff\xfefgh")
    assert refused(data, type) == ("arrow_stream", "is not a sound Arrow IPC stream")


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("wrap", [lambda array: array, lists_of])
@pytest.mark.parametrize("type", [ANY, LONG, ListOf(LONG)])
def test_unions_are_refused_before_they_are_read(type: Type, wrap: Callable[[pa.Array], pa.Array], rows: int) -> None:
    """A union that is damaged just so crashes pyarrow when it is measured: none comes that far."""
    union = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])
    refusal = ('columns["x"]', "is of a type that the service does not take")
    assert refused(stream(x=wrap(union.slice(0, rows))), type) == refusal


@pytest.mark.parametrize("scale", [39, -39, 65_282, -(2**31) + 2])
def test_decimals_of_an_absurd_scale_are_refused(scale: int) -> None:
    """Arrow takes a scale of any size, but no value of such a decimal can be read."""
    array = pa.array([1], pa.decimal128(10, 0)).view(pa.decimal128(10, scale))
    assert refused(stream(x=array), LONG) == ('columns["x"]', "is of a type that the service does not take")


@pytest.mark.parametrize(("unit", "name"), [(0, "month_interval"), (1, "day_time_interval")])
def test_types_that_pyarrow_does_not_know_are_refused(unit: int, name: str) -> None:
    """Arrow has intervals of months and of days, for which pyarrow has no class: it raises KeyError."""
    data = bytearray(stream(x=pa.nulls(2, pa.month_day_nano_interval())))
    # The unit is the last number of the schema's flatbuffer that is not padding or part of the name.
    end = 8 + int.from_bytes(data[4:8], "little")
    data[max(place for place in range(end) if data[place] == 2)] = unit
    assert str(pa.ipc.read_schema(pa.py_buffer(bytes(data))).field(0).type) == name
    assert refused(bytes(data), LONG) == ('columns["x"]', "is of a type that the service does not take")


NESTED = [
    pa.array([[[]], []], pa.list_(pa.list_(pa.int64()))),
    pa.array([], pa.list_(pa.list_(pa.utf8()))),
    pa.array([{"a": [], "b": "x"}, None]),
    pa.array([[{"a": []}]]),
    pa.array([[[("a", 1)], []], []], pa.list_(pa.map_(pa.utf8(), pa.int64()))),
    pa.array([[]], pa.list_(pa.map_(pa.utf8(), pa.int64()))),
    pa.array([], pa.map_(pa.utf8(), pa.int64())),
    pa.array(["a", "b", None]).dictionary_encode(),
    pa.array(["longer than twelve characters", "b"], pa.string_view()),
    pa.array([1, None], pa.decimal128(10, 2)),
]
TYPES: list[Type] = [
    ANY,
    ListOf(ANY),
    ListOf(ListOf(LONG)),
    ListOf(MapOf(LONG)),
    MapOf(LONG),
    Record((Field("a", ListOf(LONG), required=False), Field("b", ANY, required=False))),
    Tensor("int64", (-1, -1, -1)),
    LONG,
]


@pytest.mark.parametrize("array", NESTED)
def test_damage_of_any_byte_is_taken_or_refused(array: pa.Array) -> None:
    """Arrow's own check passes over the offsets of an array without values; nothing ends the process for them."""
    random_ = random.Random(7)  # noqa: S311 - no secret
    whole = stream(x=array)
    for _ in range(1_000):
        data = bytearray(whole)
        for _ in range(random_.randint(1, 2)):
            data[random_.randrange(len(data))] = random_.choice((0, 1, 2, 255, random_.randrange(256)))
        signature = Signature((Field("x", random_.choice(TYPES), required=False),), (Field("y", ANY),))
        try:
            encode_columns(decode_stream(bytes(data), signature, max_rows=100_000))
        except EnricherError:
            continue
