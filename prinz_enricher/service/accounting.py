"""Accounts for calls: how many of each principal are in flight, and their lines in the audit and request logs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from google.rpc import code_pb2, error_details_pb2, status_pb2

from prinz_enricher.errors import AuditUnavailable, Code
from prinz_enricher.security.principal import MAX_NAME, Principal
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.calls import MAX_REQUEST_ID
from prinz_enricher.service.status import to_status
from prinz_enricher.telemetry.audit import AuditLog
from prinz_enricher.telemetry.request_log import RequestLog

_REFUSALS = (Code.NOT_FOUND, Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED, Code.UNAUTHENTICATED)
"""Codes that a caller without rights can bring about as often as it likes."""

_CODES = {number: name for name, number in code_pb2.Code.items()}


class Accounting:
    """Accounts for calls from their begin to their end, whatever that is; see `CallLog`."""

    def __init__(self, quotas: Quotas, audit: AuditLog | None, requests: RequestLog | None = None) -> None:
        self._quotas = quotas
        self._audit = audit
        self._requests = requests

    def begin(self, method: str, principal: Principal | None, peer: str) -> AccountedCall | status_pb2.Status:
        """Count a call in flight, or return why it is refused."""
        counted = self._quotas.limits_calls
        if counted and (over := self._quotas.enter(principal)) is not None:
            status = to_status(over)
            self.refuse(method, principal, peer, status)
            return status
        if self._audit is not None and not self._audit.reserve():
            if counted:
                self._quotas.leave(principal)
            return to_status(AuditUnavailable())
        return AccountedCall(self, method, principal, peer, counted)

    def refuse(self, method: str, principal: Principal | None, peer: str, status: status_pb2.Status) -> None:
        """Write the line of a call that was refused before it was counted."""
        self.write(AccountedCall(self, method, principal, peer, counted=False), status, reserved=False)

    def end(self, call: AccountedCall, status: status_pb2.Status | None) -> None:
        """Count a call in flight less, if it was counted, and write its line."""
        if call.counted:
            self._quotas.leave(call.principal)
        self.write(call, status, reserved=True)

    def write(self, call: AccountedCall, status: status_pb2.Status | None, *, reserved: bool) -> None:
        """Write the line of a call, if there is an audit log, and if the log of requests chooses it."""
        seconds = time.monotonic() - call.arrived if call.arrived else 0.0
        requests = self._requests
        event = "" if requests is None else requests.choose(failed=status is not None, seconds=seconds)
        if self._audit is None and not event:
            return
        code, reason, correlation_id, trace_id = 0, "", "", call.trace_id
        if status is not None:
            code = status.code
            info = error_details_pb2.ErrorInfo()
            if status.details and status.details[0].Unpack(info):
                reason, correlation_id = info.reason, info.metadata.get("correlation_id", "")
                trace_id = trace_id or info.metadata.get("trace_id", "")
        line: dict[str, object] = {
            "peer": call.peer,
            "method": call.method,
            "model": call.model[:MAX_NAME],
            "version": call.version[:MAX_NAME],
            "rows": call.rows,
            "code": _CODES.get(code) or str(code),
            "reason": reason,
            "correlation_id": correlation_id,
            "request_id": call.request_id[:MAX_REQUEST_ID],
            "trace_id": trace_id,
        }
        principal = "" if call.principal is None else call.principal.name
        if self._audit is not None:
            self._audit.add(principal, line, refused=code in _REFUSALS, reserved=reserved)
        if requests is not None and event:
            phases = {"total": seconds or None, "queue": call.queue, "compute": call.compute}
            took = {f"{phase}_seconds": some and round(some, 6) for phase, some in phases.items()}
            requests.add(event, {"principal": principal} | line | took)


@dataclass(slots=True, eq=False)
class AccountedCall:
    """A call that is accounted for; see `CallRecord`."""

    accounting: Accounting
    method: str
    principal: Principal | None
    peer: str
    counted: bool
    model: str = ""
    version: str = ""
    rows: int = 0
    request_id: str = ""
    trace_id: str = ""
    arrived: float = 0.0
    queue: float | None = None
    compute: float | None = None
    # As popping off a list is atomic, one end counts.
    _ends: list[None] = field(default_factory=lambda: [None])

    def end(self, status: status_pb2.Status | None) -> None:
        """Account for its end: an answer (None), or an error; the first counts."""
        try:
            self._ends.pop()
        except IndexError:
            return
        self.accounting.end(self, status)
