"""A log of calls that a test reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from google.rpc import status_pb2

from prinz_enricher.errors import QuotaExceeded
from prinz_enricher.security.principal import Principal
from prinz_enricher.service.calls import CallRecord
from prinz_enricher.service.status import to_status


@dataclass
class Record:
    """What a log has of one call."""

    method: str
    principal: str
    peer: str
    model: str = ""
    version: str = ""
    rows: int = 0
    request_id: str = ""
    trace_id: str = ""
    arrived: float = 0.0
    queue: float | None = None
    compute: float | None = None
    ends: list[int] = field(default_factory=list)

    def end(self, status: status_pb2.Status | None) -> None:
        """Note the code."""
        self.ends.append(0 if status is None else status.code)


@dataclass
class Log:
    """A log that refuses the calls of some."""

    refused: str = ""
    records: list[Record] = field(default_factory=list)

    def begin(self, method: str, principal: Principal | None, peer: str) -> CallRecord | status_pb2.Status:
        """Note a call."""
        name = "" if principal is None else principal.name
        if name and name == self.refused:
            return to_status(QuotaExceeded(name, "calls_in_flight", 1, 0.25))
        self.records.append(Record(method, name, peer))
        return self.records[-1]

    def refuse(self, method: str, principal: Principal | None, peer: str, status: status_pb2.Status) -> None:
        """Note a refusal."""
        self.records.append(Record(method, "" if principal is None else principal.name, peer, ends=[status.code]))
