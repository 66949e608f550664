"""When an answer is the one that the same rows had before."""

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.batch import encode_columns, encode_dense, encode_stream
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.loadtest.comparison import same_response, same_row_count
from prinz_enricher.loadtest.request_pool import generate_rows
from prinz_enricher.signature import Signature, to_value
from tests.batch.batch_strategies import signatures


def answers(batch: pa.RecordBatch) -> dict[str, pb.ScoreResponse]:
    """Write a batch as an answer, in each form that can tell it."""
    written = {
        "columns": pb.ScoreResponse(columns=encode_columns(batch)),
        "arrow": pb.ScoreResponse(arrow_stream=encode_stream(batch).to_pybytes()),
    }
    dense = encode_dense(batch)
    return written if dense is None else {**written, "dense": pb.ScoreResponse(dense=dense)}


@given(signatures, st.integers(1, 3))
def test_equal_answers_are_the_same(signature: Signature, rows: int) -> None:
    """An answer of any types is the same as itself, and never as one of other rows' number."""
    batch = generate_rows(signature, rows, 0)
    more = answers(generate_rows(signature, rows + 1, 0))

    for form, answer in answers(batch).items():
        again = pb.ScoreResponse.FromString(answer.SerializeToString())
        assert same_response(answer, again)
        assert same_row_count(answer, again)
        assert not same_response(answer, more[form])
        assert not same_row_count(answer, more[form])


@pytest.mark.parametrize("form", ["columns", "arrow", "dense"])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize(
    ("value", "other", "same"),
    [
        (1.0, math.nextafter(1.0, 2.0), True),
        (1.0, 1.001, False),
        (0.0, 1e-30, False),
        (math.nan, math.nan, True),
        (math.nan, 1.0, False),
        (math.inf, math.inf, True),
        (math.inf, -math.inf, False),
    ],
)
def test_numbers_may_differ_as_rounding_does(form: str, count: int, value: float, other: float, same: bool) -> None:
    """Numbers that differ in their last bits are the same; those that differ by more are not."""
    one = answers(pa.RecordBatch.from_pydict({"y": [value] * count}))[form]
    another = answers(pa.RecordBatch.from_pydict({"y": [value] * (count - 1) + [other]}))[form]

    assert same_response(one, another) is same
    assert same_row_count(one, another)


@pytest.mark.parametrize(
    ("value", "other", "same"),
    [
        ([1.0, 2.0], [1.0, math.nextafter(2.0, 3.0)], True),
        ([1.0, 2.0], [2.0, 1.0], False),
        ([1.0], [1.0, 2.0], False),
        ({"a": 1.0}, {"a": 1.0}, True),
        ({"a": 1.0}, {"b": 1.0}, False),
        ({"a": 1.0}, {"a": 1.0, "b": None}, False),
        ("a", "b", False),
        (1, 1.0, False),
    ],
)
def test_nested_values(value: Any, other: Any, same: bool) -> None:
    """Nested values are compared through and through."""
    one, another = pb.ScoreResponse(), pb.ScoreResponse()
    for answer, held in ((one, value), (another, other)):
        answer.columns.num_rows = 1
        answer.columns.columns.add(name="y").nested.values.append(to_value(held))

    assert same_response(one, another) is same


@pytest.mark.parametrize(
    ("value", "other", "same"),
    [
        ([[1.0, 2.0], [3.0]], [[1.0, 2.0], [math.nextafter(3.0, 4.0)]], True),
        ([[1.0, 2.0], [3.0]], [[1.0], [2.0, 3.0]], False),
        ([[1.0], None], [[1.0], []], False),
        ([["a"]], [["b"]], False),
    ],
)
def test_lists_in_arrow(value: Any, other: Any, same: bool) -> None:
    """Lists of an Arrow stream are compared by their lengths and their values."""
    kind = pa.list_(pa.utf8() if value == [["a"]] else pa.float64())
    one, another = (
        pb.ScoreResponse(
            arrow_stream=encode_stream(pa.RecordBatch.from_arrays([pa.array(held, kind)], names=["y"])).to_pybytes()
        )
        for held in (value, other)
    )

    assert same_response(one, another) is same


def test_other_columns_and_forms_are_not_the_same() -> None:
    """Another name, another type, another form, a null or a damaged stream make another answer."""
    one = answers(pa.RecordBatch.from_pydict({"y": [1.0]}))
    others = [
        answers(pa.RecordBatch.from_pydict({"z": [1.0]})),
        answers(pa.RecordBatch.from_pydict({"y": [1]})),
        answers(pa.RecordBatch.from_pydict({"y": pa.array([None], pa.int64())})),
    ]

    assert not any(same_response(one[form], other[form]) for other in others for form in ("columns", "arrow"))
    assert not same_response(one["columns"], one["arrow"])
    assert not same_row_count(one["columns"], one["arrow"])
    assert not same_response(one["arrow"], pb.ScoreResponse(arrow_stream=b"no stream"))
    assert not same_row_count(one["arrow"], pb.ScoreResponse(arrow_stream=b"no stream"))
    assert not same_response(one["columns"], pb.ScoreResponse())
