"""The rows and requests of the calls of a test."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.batch import decode_columns, decode_dense, decode_stream, dense_inputs
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.loadtest.callers import Form, LoadTestError, encode_stream_message, with_sequence
from prinz_enricher.loadtest.request_pool import (
    ModelUnderTest,
    encode_request,
    generate_rows,
    generated_pool,
    pool_size,
    read_pool,
    split_rows,
)
from prinz_enricher.signature import AnyValue, Field, Origin, Scalar, ScalarKind, Signature, Tensor, input_schema
from tests.batch.batch_strategies import signatures

VERSION = model_pb2.ModelRef(name="wine", version="3")
X = Signature((Field("x", Scalar(ScalarKind.DOUBLE)),), (Field("y", Scalar(ScalarKind.DOUBLE)),))


def sent(batch: pa.RecordBatch, signature: Signature, form: Form) -> pb.ScoreRequest:
    """Encode rows as a test does, and read the request as a server does."""
    return pb.ScoreRequest.FromString(encode_request(batch, ModelUnderTest(VERSION, signature), form))


@given(signatures, st.integers(1, 4), st.integers(0, 2**32))
def test_made_rows_fit_every_signature(signature: Signature, count: int, seed: int) -> None:
    """Rows made for a signature of any types pass the service's own check, in every form, as they were made."""
    rows = generate_rows(signature, count, seed)

    assert rows.num_rows == count
    assert rows.schema.equals(input_schema(signature))
    assert decode_columns(sent(rows, signature, "columns").columns, signature).equals(rows)
    assert decode_stream(sent(rows, signature, "arrow").arrow_stream, signature).equals(rows)
    if dense_inputs(signature):
        assert decode_dense(sent(rows, signature, "dense").dense, signature).equals(rows)
    assert generate_rows(signature, count, seed).equals(rows)


@pytest.mark.parametrize("dtype", ["object", "bytes", "datetime64", "datetime64[D]", "datetime64[ns]", "float16"])
@pytest.mark.parametrize("shape", [(-1,), (-1, 2), (-1, -1, 3)])
def test_made_rows_fit_every_dtype(dtype: str, shape: tuple[int, ...]) -> None:
    """Rows are made for tensors of the rarer dtypes and of all shapes too."""
    signature = Signature((Field("t", Tensor(dtype, shape)),), (Field("y", AnyValue()),))
    rows = generate_rows(signature, 3, 0)

    assert decode_columns(sent(rows, signature, "columns").columns, signature).equals(rows)


def test_rows_differ() -> None:
    """A pool's calls have different rows, or an answer to the wrong one would not be found."""
    assert len({tuple(call.column(0).to_pylist()) for call in generated_pool(X, 2, 0)}) == pool_size(2)
    assert not generate_rows(X, 5, 0).equals(generate_rows(X, 5, 1))


def test_without_a_signature_there_are_no_rows() -> None:
    """A model without a signature is tried with a file."""
    with pytest.raises(LoadTestError, match="--input"):
        generated_pool(Signature((), (Field("output_0", AnyValue()),), origin=Origin.MISSING), 1, 0)


@given(st.integers(1, 200_000))
def test_pools_are_bounded(rows: int) -> None:
    """A pool has at least two calls, and no more rows than memory has room for."""
    assert 2 <= pool_size(rows) <= 128
    assert pool_size(rows) * rows <= max(65_536, 2 * rows)


@given(st.integers(1, 30), st.integers(1, 40))
def test_split_rows(count: int, rows: int) -> None:
    """Each call has just the rows asked for, in order; a file that has too few begins anew."""
    calls = split_rows(pa.RecordBatch.from_pydict({"x": list(range(count))}), rows)
    values = [value for call in calls for value in call.column(0).to_pylist()]

    assert {call.num_rows for call in calls} == {rows}
    assert values == [place % count for place in range(len(values))]
    assert len(values) >= count


def test_rows_of_a_file() -> None:
    """Columns that are no inputs are left out, types are brought to those declared, and no more is read than needed."""
    parts = iter([pa.RecordBatch.from_pydict({"id": ["a"] * 65_536, "x": [1] * 65_536}), None])

    calls = read_pool(parts, X, 1)

    assert calls[0].schema.equals(input_schema(X))
    assert next(parts) is None


def test_empty_file() -> None:
    """A file without rows is refused with that reason."""
    with pytest.raises(LoadTestError, match="no rows"):
        read_pool([], X, 1)


def test_dense_needs_numbers() -> None:
    """The dense form is refused for what it can't tell, with what can be done."""
    signature = Signature((Field("t", Scalar(ScalarKind.STRING)),), X.outputs)

    with pytest.raises(LoadTestError, match="--form columns"):
        encode_request(generate_rows(signature, 1, 0), ModelUnderTest(VERSION, signature), "dense")


@given(st.integers(0, 2**64 - 1))
def test_sequence_goes_before_a_message(sequence: int) -> None:
    """A message of a stream is the prepared one and its sequence."""
    request = encode_request(generate_rows(X, 1, 0), ModelUnderTest(VERSION, X), "columns")

    message = pb.ScoreStreamRequest.FromString(with_sequence(sequence, encode_stream_message(request, 1.5)))

    assert message.sequence == sequence
    assert message.request.SerializeToString() == request
    assert message.timeout.ToNanoseconds() == 1_500_000_000
