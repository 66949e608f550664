"""One Score call between the front and the pool."""

import struct
import time
from collections.abc import Mapping

import pyarrow as pa
import pytest
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.batch import encode_columns, encode_stream
from prinz_enricher.config import QuotaSettings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import value_pb2
from prinz_enricher.errors import BatchTooLarge, InvalidInput
from prinz_enricher.scoring.ports import Target
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.score.call import score_alone
from prinz_enricher.service.score.messages import MAX_INDEPENDENT_ROWS, Limits
from prinz_enricher.signature import (
    Field,
    Param,
    Scalar,
    ScalarKind,
    Signature,
    Tensor,
    input_schema,
    output_schema,
    to_value,
)
from tests.support.callback_call import CallbackCall
from tests.support.inline_pool import InlinePool


def test_an_answer_that_the_wire_can_not_tell_is_the_model_s_fault() -> None:
    """A number beyond 64 signed bits in an output is OUTPUT_MISMATCH, and not INVALID_INPUT."""
    outputs = (Field("output_0", Tensor("uint64", (-1,))),)
    signature = Signature((Field("x", Scalar(ScalarKind.DOUBLE)),), outputs)
    target = Target("wine", "3", "http://mlflow", signature)
    scores = pa.RecordBatch.from_arrays([pa.array([2**64 - 1], pa.uint64())], schema=output_schema(signature))
    answers: list[bytes | status_pb2.Status] = []
    now = time.monotonic()
    call = CallbackCall("Score", b"", now, None, answers.append, answers.append)
    column = value_pb2.Column(name="x", doubles=value_pb2.DoubleValues(values=[1.0]))
    request = pb.ScoreRequest(columns=value_pb2.ColumnBatch(num_rows=1, columns=[column]))
    pool = InlinePool(lambda _: lambda *_: scores)

    score_alone(call, request, target, pool, Limits(10, 1_000), Quotas(QuotaSettings()))
    # Closing waits for the jobs that were taken.
    pool.close(10.0)

    (status,) = answers
    assert isinstance(status, status_pb2.Status)
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert info.reason == "OUTPUT_MISMATCH"
    assert 'columns["output_0"][0]' in status.message
    assert str(2**64 - 1) not in status.message


def test_too_many_rows_that_are_calls_of_their_own() -> None:
    """Each may become a job, so that there is a limit of their own; the same rows together are taken."""
    signature = Signature((Field("x", Scalar(ScalarKind.DOUBLE)),), (Field("y", Scalar(ScalarKind.DOUBLE)),))
    target = Target("wine", "3", "http://mlflow", signature)
    pool = InlinePool(
        lambda _: lambda batch, _: pa.RecordBatch.from_arrays(batch.columns, schema=output_schema(signature))
    )
    answers: list[bytes | status_pb2.Status] = []
    rows = MAX_INDEPENDENT_ROWS + 1
    column = value_pb2.Column(name="x", doubles=value_pb2.DoubleValues(values=[1.0] * rows))
    request = pb.ScoreRequest(columns=value_pb2.ColumnBatch(num_rows=rows, columns=[column]))

    def ask() -> None:
        call = CallbackCall("Score", b"", time.monotonic(), None, answers.append, answers.append)
        score_alone(call, request, target, pool, Limits(10_000, 1_000_000), Quotas(QuotaSettings()))

    ask()
    request.independent_rows = True
    with pytest.raises(BatchTooLarge) as raised:
        ask()
    assert raised.value.metadata["limit"] == str(MAX_INDEPENDENT_ROWS)
    pool.close(10.0)
    [answer] = answers
    assert isinstance(answer, bytes)


@pytest.mark.parametrize("form", ["columns", "arrow_stream", "dense", "independent_rows"])
@pytest.mark.parametrize("kind", [ScalarKind.DOUBLE, ScalarKind.LONG, ScalarKind.STRING])
def test_a_null_parameter_is_refused_in_every_form(form: str, kind: ScalarKind) -> None:
    """It is INVALID_INPUT with its name, beside rows of any form; as the declared default it reaches the model."""
    fields, seen = (Field("x", Scalar(ScalarKind.DOUBLE)),), []

    def predict(batch: pa.RecordBatch, params: Mapping[str, object]) -> pa.RecordBatch:
        seen.append(dict(params))
        return pa.RecordBatch.from_arrays(batch.columns, schema=output_schema(Signature(fields, fields)))

    pool = InlinePool(lambda _: predict)
    answers: list[bytes | status_pb2.Status] = []
    for default in ({ScalarKind.DOUBLE: 1.0, ScalarKind.LONG: 1, ScalarKind.STRING: "a"}[kind], None):
        signature = Signature(fields, fields, (Param("k", Scalar(kind), default),))
        request = pb.ScoreRequest(params={"k": to_value(None)}, signature_digest=signature.digest)
        batch = pa.RecordBatch.from_arrays([pa.array([1.0])], schema=input_schema(signature))
        if form == "arrow_stream":
            request.arrow_stream = encode_stream(batch).to_pybytes()
        elif form == "dense":
            request.dense.num_rows, request.dense.values = 1, struct.pack("<d", 1.0)
        else:
            request.columns.CopyFrom(encode_columns(batch))
            request.independent_rows = form == "independent_rows"
        call = CallbackCall("Score", b"", time.monotonic(), None, answers.append, answers.append)
        target = Target("wine", "3", "http://mlflow", signature)
        if default is None:
            score_alone(call, request, target, pool, Limits(10, 1_000), Quotas(QuotaSettings()))
        else:
            with pytest.raises(InvalidInput) as refused:
                score_alone(call, request, target, pool, Limits(10, 1_000), Quotas(QuotaSettings()))
            assert [one.field for one in refused.value.violations] == ['params["k"]']
    pool.close(10.0)
    assert seen == [{"k": None}]
    assert isinstance(answers[0], bytes)
