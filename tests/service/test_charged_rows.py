"""Rows that are charged to their caller's quota: alone, together with others', and in every form."""

from __future__ import annotations

import pyarrow as pa
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.batch import encode_stream
from prinz_enricher.config import QuotaSettings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.security.principal import Principal
from prinz_enricher.security.quota import Quotas
from prinz_enricher.signature import input_schema
from tests.support.gathering import DOUBLES, HandPool, Service, ask, columns_request, row
from tests.support.guarded_service import SIGNATURE, GuardedService, reason_of, score_request

NK, OPS = Principal("nk"), Principal("ops")
CALLERS = (NK, OPS, None)


def stands() -> float:
    """Return the time of a clock that stands still."""
    return 1_000.0


def arrow_request(rows: int) -> pb.ScoreRequest:
    """Return a request of rows in an Arrow stream."""
    batch = pa.RecordBatch.from_arrays([pa.array([1.0] * rows)], schema=input_schema(SIGNATURE))
    request = pb.ScoreRequest(arrow_stream=encode_stream(batch).to_pybytes())
    request.model.name = "m"
    return request


@pytest.mark.parametrize("form", ["columns", "arrow"])
def test_rows_of_a_batch(form: str) -> None:
    """A batch takes as many rows as it has; the refusal says which quota, whose, and when to try again."""
    make = arrow_request if form == "arrow" else lambda rows: score_request("m", *[1.0] * rows)
    with GuardedService("m", quotas=Quotas(QuotaSettings(rows_per_second=1_000), clock=stands)) as service:
        first, second = service.ask(NK, make(900)), service.ask(NK, make(200))
        other = service.ask(OPS, make(900))
    assert [reason_of(outcome) for outcome in (*first, *second, *other)] == ["OK", "QUOTA_EXCEEDED", "OK"]
    [status] = second
    assert isinstance(status, status_pb2.Status)
    failure, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(failure)
    assert status.details[2].Unpack(retry)
    assert [(one.subject, one.description) for one in failure.violations] == [("principal:nk", "rows_per_second")]
    assert 0 < retry.retry_delay.ToMilliseconds() <= 100


def test_faulty_and_empty_requests() -> None:
    """No rows take nothing, nor does a request that is refused for good by their number; reading faulty ones does."""
    quotas = Quotas(QuotaSettings(rows_per_second=10), clock=stands)
    service = Service(HandPool(), DOUBLES, quotas=quotas)
    empty, faulty = columns_request(row(1.0)), columns_request({"a": 1.0})
    empty.columns.num_rows = 0
    for column in empty.columns.columns:
        column.ClearField("doubles")
        column.doubles.SetInParent()
    many = columns_request(row(1.0))
    many.columns.num_rows = 10_001
    for request, reason, left in ((empty, "OK", 10), (many, "BATCH_TOO_LARGE", 10), (faulty, "INVALID_INPUT", 9)):
        asked = ask(request)
        service.alone(asked.call)
        assert reason_of(asked.answers[0]) == reason
        assert quotas.charge_each(Principal("none"), 1, 1)[0] == 1
        assert quotas.charge(None, left + 1 - 10) is None


@given(
    st.lists(st.sampled_from(CALLERS), min_size=1, max_size=40),
    st.integers(1, 12),
    st.booleans(),
)
def test_calls_of_one_group(callers: list[Principal | None], rate: int, by_template: bool) -> None:
    """Of calls that came together each caller's first ones pass, as many as its quota has, with their own answers."""
    quotas = Quotas(QuotaSettings(rows_per_second=rate), clock=stands)
    service = Service(HandPool(), DOUBLES, quotas=quotas)
    if by_template:
        learnt = ask(columns_request(row(0.5)))
        learnt.call.principal = Principal("other")
        service.handle([learnt.call])
    asked = [ask(columns_request(row(float(number)))) for number in range(len(callers))]
    for one, principal in zip(asked, callers, strict=True):
        one.call.principal = principal
    service.handle([one.call for one in asked])

    left = dict.fromkeys(CALLERS, rate)
    unlimited = Service(HandPool(), DOUBLES)
    for number, (one, principal) in enumerate(zip(asked, callers, strict=True)):
        left[principal] -= 1
        if left[principal] < 0:
            assert one.reason == "QUOTA_EXCEEDED"
            continue
        alone = ask(columns_request(row(float(number))))
        unlimited.alone(alone.call)
        assert one.outcome == alone.outcome
    assert sum(quotas.rejections().values()) == sum(max(0, -rows) for rows in left.values())


@given(st.integers(1, 50), st.integers(1, 60), st.lists(st.tuples(st.integers(0, 60), st.floats(0, 2)), max_size=12))
def test_calls_are_charged_as_one_after_the_other(rate: int, rows: int, steps: list[tuple[int, float]]) -> None:
    """What passes of several calls at once is what would pass of them one by one."""
    now = 1_000.0
    together = Quotas(QuotaSettings(rows_per_second=rate), clock=lambda: now)
    alone = Quotas(QuotaSettings(rows_per_second=rate), clock=lambda: now)
    for calls, pause in steps:
        now += pause
        passed, refusal = together.charge_each(NK, calls, rows)
        refusals = [found for _ in range(calls) if (found := alone.charge(NK, rows)) is not None]
        assert passed == calls - len(refusals)
        assert (refusal is None) == (not refusals)
        if refusal is not None:
            assert refusal.retry_after == pytest.approx(refusals[0].retry_after, abs=2e-3)
    assert together.rejections() == alone.rejections()
