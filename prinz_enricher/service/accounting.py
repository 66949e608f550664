"""Accounts for calls: how many of each principal are in flight, and a line for each in the audit log."""

from __future__ import annotations

from dataclasses import dataclass, field

from google.rpc import code_pb2, error_details_pb2, status_pb2

from prinz_enricher.errors import AuditUnavailable, Code
from prinz_enricher.security.principal import MAX_NAME, Principal
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.status import to_status
from prinz_enricher.telemetry.audit import AuditLog

_REFUSALS = (Code.NOT_FOUND, Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED, Code.UNAUTHENTICATED)
"""Codes that a caller without rights can bring about as often as it likes."""

_CODES = {number: name for name, number in code_pb2.Code.items()}


class Accounting:
    """Accounts for calls from their begin to their end, whatever that is; see `CallLog`."""

    def __init__(self, quotas: Quotas, audit: AuditLog | None) -> None:
        self._quotas = quotas
        self._audit = audit

    def begin(self, method: str, principal: Principal | None, peer: str) -> AccountedCall | status_pb2.Status:
        """Count a call in flight, or return why it is refused."""
        over = self._quotas.enter(principal)
        if over is not None:
            status = to_status(over)
            self.refuse(method, principal, peer, status)
            return status
        if self._audit is not None and not self._audit.reserve():
            self._quotas.leave(principal)
            return to_status(AuditUnavailable())
        return AccountedCall(self, method, principal, peer)

    def refuse(self, method: str, principal: Principal | None, peer: str, status: status_pb2.Status) -> None:
        """Write the line of a call that was refused before it was counted."""
        self.write(AccountedCall(self, method, principal, peer), status, reserved=False)

    def end(self, call: AccountedCall, status: status_pb2.Status | None) -> None:
        """Count a call in flight less, and write its line."""
        self._quotas.leave(call.principal)
        self.write(call, status, reserved=True)

    def write(self, call: AccountedCall, status: status_pb2.Status | None, *, reserved: bool) -> None:
        """Write the line of a call, if there is an audit log."""
        if self._audit is None:
            return
        code, reason, correlation_id = 0, "", ""
        if status is not None:
            code = status.code
            info = error_details_pb2.ErrorInfo()
            if status.details and status.details[0].Unpack(info):
                reason, correlation_id = info.reason, info.metadata.get("correlation_id", "")
        line: dict[str, object] = {
            "peer": call.peer,
            "method": call.method,
            "model": call.model[:MAX_NAME],
            "version": call.version[:MAX_NAME],
            "rows": call.rows,
            "code": _CODES.get(code) or str(code),
            "reason": reason,
            "correlation_id": correlation_id,
        }
        principal = "" if call.principal is None else call.principal.name
        self._audit.add(principal, line, refused=code in _REFUSALS, reserved=reserved)


@dataclass(slots=True, eq=False)
class AccountedCall:
    """A call that is accounted for; see `CallRecord`."""

    accounting: Accounting
    method: str
    principal: Principal | None
    peer: str
    model: str = ""
    version: str = ""
    rows: int = 0
    # As popping off a list is atomic, one end counts.
    _ends: list[None] = field(default_factory=lambda: [None])

    def end(self, status: status_pb2.Status | None) -> None:
        """Account for its end: an answer (None), or an error; the first counts."""
        try:
            self._ends.pop()
        except IndexError:
            return
        self.accounting.end(self, status)
