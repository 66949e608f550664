"""Calls that are accounted for: each leaves its caller's quota once, and has one line in the audit log."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.config import AuditSettings, QuotaSettings
from prinz_enricher.errors import EnricherError, InternalError, ModelForbidden, TokenMissing
from prinz_enricher.security.principal import Principal
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.accounting import AccountedCall, Accounting
from prinz_enricher.service.status import to_status
from prinz_enricher.telemetry.audit import AuditLog
from tests.support.guarded_service import reason_of

NK, OPS = Principal("nk"), Principal("ops")
CANCELLED = status_pb2.Status(code=1)


def places(quotas: Quotas, principal: Principal | None) -> int:
    """Return how many calls of a principal may begin now."""
    free = 0
    while quotas.enter(principal) is None:
        free += 1
    for _ in range(free):
        quotas.leave(principal)
    return free


def begun(accounting: Accounting, principal: Principal | None = NK, method: str = "Score") -> AccountedCall:
    """Begin a call that is not refused."""
    call = accounting.begin(method, principal, "ipv4:10.0.0.7:4711")
    assert isinstance(call, AccountedCall)
    return call


def written(path: Path, log: AuditLog) -> list[dict[str, Any]]:
    """Close a log, and return its lines without their times."""
    log.close()
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    for line in lines:
        del line["time"]
    return lines


@given(
    st.lists(
        st.tuples(st.sampled_from([NK, OPS, None]), st.sampled_from(["begin", "end", "twice", "cancel"])), max_size=60
    )
)
def test_places_are_returned_once(steps: list[tuple[Principal | None, str]]) -> None:
    """As many calls of each principal are in flight as began and did not end, however often their end is noted."""
    quotas = Quotas(QuotaSettings(calls_in_flight=5))
    accounting = Accounting(quotas, None)
    calls: dict[Principal | None, list[AccountedCall]] = {NK: [], OPS: [], None: []}
    for principal, step in steps:
        mine = calls[principal]
        if step == "begin":
            call = accounting.begin("Score", principal, "")
            assert isinstance(call, AccountedCall) == (len(mine) < 5)
            if isinstance(call, AccountedCall):
                mine.append(call)
            else:
                assert reason_of(call) == "QUOTA_EXCEEDED"
        elif mine:
            call = mine.pop(0)
            call.end(CANCELLED if step == "cancel" else None)
            if step == "twice":
                call.end(CANCELLED)
        assert all(places(quotas, one) == 5 - len(calls[one]) for one in calls)


def test_ends_from_many_threads() -> None:
    """An answer and a cancellation that come together end a call once."""
    quotas = Quotas(QuotaSettings(calls_in_flight=100))
    accounting = Accounting(quotas, None)
    begin = threading.Barrier(4)

    def end(calls: list[AccountedCall]) -> None:
        begin.wait(20)
        for call in calls:
            call.end(None)

    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            calls = [begun(accounting) for _ in range(50)]
            list(threads.map(end, [calls] * 4))
            assert places(quotas, NK) == 100


def test_a_line_of_each_call(tmp_path: Path) -> None:
    """It has the caller, the method, what was scored, and how the call ended; also where it never began."""
    path = tmp_path / "audit.log"
    log = AuditLog(AuditSettings(output=str(path)))
    accounting = Accounting(Quotas(QuotaSettings(calls_in_flight=1)), log)
    call = begun(accounting)
    # Callers send names of any length.
    call.model, call.version, call.rows = "w" * 1_000, "3", 17
    call.request_id, call.trace_id = "r" * 1_000, "0af7651916cd43dd8448eb211c80319c"
    over = accounting.begin("ListModels", NK, "ipv4:10.0.0.7:4711")
    assert reason_of(over) == "QUOTA_EXCEEDED"
    call.end(None)
    errors: list[EnricherError] = [ModelForbidden("wine", "score"), InternalError("c0ffee")]
    for error in errors:
        begun(accounting).end(to_status(error))
    begun(accounting).end(CANCELLED)
    accounting.refuse("Score", None, "unix:", to_status(TokenMissing()))

    common = {"principal": "nk", "peer": "ipv4:10.0.0.7:4711", "method": "Score", "model": "", "version": "", "rows": 0}
    none = {"reason": "", "correlation_id": "", "request_id": "", "trace_id": ""}
    ids = {"request_id": "r" * 256, "trace_id": "0af7651916cd43dd8448eb211c80319c"}
    assert written(path, log) == [
        common | none | {"method": "ListModels", "code": "RESOURCE_EXHAUSTED", "reason": "QUOTA_EXCEEDED"},
        common | none | {"model": "w" * 256, "version": "3", "rows": 17, "code": "OK"} | ids,
        common | none | {"code": "PERMISSION_DENIED", "reason": "MODEL_FORBIDDEN"},
        common | none | {"code": "INTERNAL", "reason": "INTERNAL", "correlation_id": "c0ffee"},
        common | none | {"code": "CANCELLED"},
        common | none | {"principal": "", "peer": "unix:", "code": "UNAUTHENTICATED", "reason": "TOKEN_MISSING"},
    ]


def test_no_call_without_a_line() -> None:
    """With `required` a call is refused while no line can be written, and holds no place then."""
    log = AuditLog(AuditSettings(output="/dev/full", required=True))
    quotas = Quotas(QuotaSettings(calls_in_flight=1))
    accounting = Accounting(quotas, log)
    answers = []
    limit = 10_000
    while not isinstance(call := accounting.begin("Score", NK, ""), status_pb2.Status):
        call.end(None)
        answers.append(call)
        threading.Event().wait(0.001)
        assert len(answers) < limit
    assert reason_of(call) == "AUDIT_UNAVAILABLE"
    assert call.code == 14
    assert places(quotas, NK) == 1
    log.close()


def test_quotas_that_come_and_go() -> None:
    """A call that began without a limit of calls leaves no place when it ends, and one that had a place leaves it."""
    quotas = Quotas(QuotaSettings(rows_per_second=7))
    accounting = Accounting(quotas, None)
    uncounted = begun(accounting)
    quotas.change(QuotaSettings(calls_in_flight=2))
    counted = begun(accounting)
    uncounted.end(None)
    assert places(quotas, NK) == 1
    quotas.change(QuotaSettings())
    counted.end(None)
    quotas.change(QuotaSettings(calls_in_flight=2))
    assert places(quotas, NK) == 2
