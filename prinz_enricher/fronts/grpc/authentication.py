"""Who calls a gRPC front: by the token in a call's metadata, or by the client certificate of its connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import structlog
from google.rpc import status_pb2

from prinz_enricher.errors import Code, EnricherError, Overloaded
from prinz_enricher.security.access import AccessRules
from prinz_enricher.security.authenticator import Authenticator
from prinz_enricher.security.principal import ClientCertificate, Principal
from prinz_enricher.service.calls import Call, CallLog
from prinz_enricher.service.status import internal_failure, to_status

if TYPE_CHECKING:
    # A service without TLS does not import what that needs.
    from prinz_enricher.security.certificates import CertificateFiles

MAX_VERIFICATIONS = 1_000
"""Calls whose tokens wait to be verified: that takes as long as the issuer's keys are fetched."""

REMEMBER_SECONDS = 0.25
"""How long a token that was accepted is known by its text: its digest costs as much as the rest of receiving a call."""

_MAX_REMEMBERED = 1_000
CANCELLED = 1
_THREADS = 4

Verdict: TypeAlias = Principal | status_pb2.Status
"""Who calls, or why the call is refused."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FrontSecurity:
    """What secures a front; without anything it is plaintext, and asks nobody for a name.

    Attributes:
        callers: Finds out who calls; None where nobody is asked.
        certificates: Those of the server; None for plaintext.
        rules: Which models' health a caller may see.
    """

    callers: Callers | None = None
    certificates: CertificateFiles | None = None
    rules: AccessRules = AccessRules(())  # noqa: RUF009 - without rules it is the same for all


class Callers:
    """Finds out who calls; what takes long is done by a few threads. From any thread."""

    def __init__(self, authenticator: Authenticator, *, tokens: bool, certificates: bool) -> None:
        self.by_certificate = certificates
        """Whether a client certificate is enough."""
        self._tokens = tokens
        self._authenticator = authenticator
        self._threads = ThreadPoolExecutor(_THREADS, "verify-token")
        self._room = threading.Semaphore(MAX_VERIFICATIONS)
        self._recent: dict[str | None, Principal] = {}
        self._forget_at = 0.0
        # Refusals come when there is least time, so each is written once. Their texts are few.
        self._refusals: dict[str, status_pb2.Status] = {}

    def needs_certificate(self, authorization: str | None) -> bool:
        """Return whether the caller is named by its client certificate, and not by a token."""
        return self.by_certificate and not (self._tokens and authorization)

    def recent(self) -> Mapping[str | None, Principal]:
        """Return who called just now, by the text of the header: for what comes at once, not for later."""
        now = time.monotonic()
        if now >= self._forget_at:
            self._recent, self._forget_at = {}, now + REMEMBER_SECONDS
        return self._recent

    def known(self, authorization: str | None, certificate: ClientCertificate | None = None) -> Verdict | None:
        """Return the verdict on a call; None where only `verify` has it. Never blocks."""
        principal = self.recent().get(authorization)
        if principal is not None:
            return principal
        verdict = self._authenticator.known(authorization, certificate)
        if isinstance(verdict, EnricherError):
            return self._refusal(verdict)
        if verdict is not None and not self.needs_certificate(authorization) and len(self._recent) < _MAX_REMEMBERED:
            self._recent[authorization] = verdict
        return verdict

    def verify(self, authorization: str | None) -> Future[Verdict]:
        """Return the verdict on a call with a token, once a thread has verified it."""
        if self._room.acquire(blocking=False):
            try:
                future = self._threads.submit(self._verify, authorization)
            except RuntimeError as error:
                self._room.release()
                return _done(to_status(Overloaded(f"no thread can verify the token ({error})")))
            future.add_done_callback(lambda _: self._room.release())
            return future
        return _done(self._refusal(Overloaded(f"the tokens of {MAX_VERIFICATIONS} calls are being verified")))

    def close(self) -> None:
        """Verify no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, authorization: str | None) -> Verdict:
        try:
            verdict = self._authenticator.verify(authorization, None)
        except Exception as error:  # noqa: BLE001 - a fault of this service
            return internal_failure(log, "token not verified", error)
        return self._refusal(verdict) if isinstance(verdict, EnricherError) else verdict

    def _refusal(self, error: EnricherError) -> status_pb2.Status:
        status = self._refusals.get(error.message)
        if status is None:
            status = self._refusals[error.message] = to_status(error)
        return status


def _done(status: status_pb2.Status) -> Future[Verdict]:
    future: Future[Verdict] = Future()
    future.set_result(status)
    return future


def authorization_of(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """Return the header Authorization of a call; several are joined, which no token is."""
    found: str | None = None
    for key, value in metadata:
        if key == "authorization":
            found = f"{found}, {value!s}" if found else str(value)
    return found


def certificate_of(properties: Mapping[str, Iterable[bytes]]) -> ClientCertificate | None:
    """Return the client certificate of a connection by its `auth_context`; None where it has none."""
    if "x509_pem_cert" not in properties:
        return None
    texts = {
        name: tuple(value.decode(errors="replace") for value in properties.get(name, ()))
        for name in ("peer_spiffe_id", "peer_dns", "x509_common_name")
    }
    spiffe_ids, dns_names, common_names = texts.values()
    return ClientCertificate(next(iter(spiffe_ids), ""), dns_names, next(iter(common_names), ""))


def note_begin(log: CallLog | None, call: Call) -> status_pb2.Status | None:
    """Note the begin of a call, where calls are noted; returns the refusal, if any."""
    if log is None:
        return None
    record = log.begin(call.method, call.principal, call.peer)
    if isinstance(record, status_pb2.Status):
        return call.traced(record)
    record.arrived = call.arrived
    if call.trace is not None:
        record.trace_id = call.trace.id
    call.audit = record
    return None


def gone(call: Call | None = None) -> status_pb2.Status:
    """Return the status of a call, or a stream, that nobody waits for: its deadline has passed, or its caller left."""
    late = call is not None and call.deadline is not None and is_late(call.arrived, call.deadline)
    return status_pb2.Status(code=Code.DEADLINE_EXCEEDED if late else CANCELLED)


def is_late(arrived: float, deadline: float) -> bool:
    """Return whether the deadline of a call has passed for its caller.

    That is somewhat earlier than here: gRPC sends the time that is left with two or three digits, rounded up.
    """
    return time.monotonic() >= deadline - 0.01 * (deadline - arrived) - 0.005
