"""Receives MLflow's webhooks, and verifies each delivery: who sent it, when, and whether it came before.

MLflow signs as Standard Webhooks do, see `mlflow/webhooks/delivery.py`: the header `X-MLflow-Signature` is
`v1,<base64 of HMAC-SHA256(secret, "<delivery id>.<timestamp>.<body>")>`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from prinz_enricher.config import MIB, HttpSettings
from prinz_enricher.registry.registry_errors import RegistryError
from prinz_enricher.registry.secret_sources import SecretFile

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = structlog.stdlib.get_logger(__name__)

MAX_BODY_BYTES = MIB
"""Bytes of the body of a delivery."""

REFUSAL_LOG_SECONDS = 60.0
"""Seconds between two log lines on refused deliveries."""

WINDOW_SECONDS = 300
"""Difference between the time of a delivery and ours, either way."""

MAX_REMEMBERED = 10_000
"""Deliveries that are remembered within the window."""

# Without a dot in it, what is signed can be split in one way only.
_DELIVERY_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)


class Verdict(Enum):
    """The result of a check."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    REPLAYED = "replayed"


_STATUS = {
    Verdict.ACCEPTED: HTTPStatus.NO_CONTENT,
    Verdict.REFUSED: HTTPStatus.UNAUTHORIZED,
    Verdict.REPLAYED: HTTPStatus.CONFLICT,
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request of a webhook: MLflow's headers, of which the timestamp is seconds since 1970, and the raw body."""

    delivery_id: str
    timestamp: str
    signature: str
    body: bytes


def is_authentic(delivery: Delivery, secrets: Iterable[str], now: float) -> bool:
    """Return whether a delivery was signed with one of the secrets, within the window of `now`, seconds since 1970."""
    if not _DELIVERY_ID.fullmatch(delivery.delivery_id) or not _TIMESTAMP.fullmatch(delivery.timestamp):
        return False
    if abs(now - int(delivery.timestamp)) > WINDOW_SECONDS or not delivery.signature.isascii():
        return False
    signed = f"{delivery.delivery_id}.{delivery.timestamp}.".encode("ascii") + delivery.body
    given = delivery.signature.encode("ascii")
    # Each is compared, so that the time does not reveal which one matched.
    digests = [hmac.digest(secret.encode("utf-8"), signed, hashlib.sha256) for secret in secrets]
    matches = [hmac.compare_digest(b"v1," + base64.b64encode(digest), given) for digest in digests]
    return any(matches)


class Webhook:
    """Receives deliveries; an authentic one requests a refresh, whatever is in it. From any thread.

    Authentic ones are remembered for as long as they could be replayed. Where more come within the window than are
    remembered, the oldest is forgotten. All deliveries of the time of a forgotten one, and before, are refused: memory
    is bounded, and still none is accepted twice.
    """

    def __init__(
        self, settings: HttpSettings, refresh: Callable[[], None], *, max_remembered: int = MAX_REMEMBERED
    ) -> None:
        given = settings.webhook_secret.get_secret_value()
        self._given = (given,) if given else ()
        file = settings.webhook_secret_file
        self._file = SecretFile(Path(file), "webhook secret") if file else None
        self._refresh = refresh
        self._max_remembered = max_remembered
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}
        self._forgotten = -1
        self._counts = dict.fromkeys(Verdict, 0)
        self._unlogged = 0
        self._logged = float("-inf")

    def __repr__(self) -> str:
        return "Webhook()"

    def counts(self) -> dict[str, int]:
        """Return the number of deliveries by verdict."""
        with self._lock:
            return {verdict.value: count for verdict, count in self._counts.items()}

    def secrets(self) -> tuple[str, ...]:
        """Return the secrets that are valid now; raises RegistryError where the file can't be read."""
        lines = self._file.current().split("\n") if self._file is not None else []
        return (*self._given, *filter(None, (line.removesuffix("\r") for line in lines)))

    def receive(self, environ: WSGIEnvironment) -> HTTPStatus:
        """Receive a delivery; returns the status of the answer."""
        delivery = Delivery(
            delivery_id=environ.get("HTTP_X_MLFLOW_DELIVERY_ID", ""),
            timestamp=environ.get("HTTP_X_MLFLOW_TIMESTAMP", ""),
            signature=environ.get("HTTP_X_MLFLOW_SIGNATURE", ""),
            body=environ["wsgi.input"].read(MAX_BODY_BYTES + 1),
        )
        try:
            verdict = self.check(delivery, time.time())
        except RegistryError as error:
            self._count_refused(Verdict.REFUSED, str(error))
            return HTTPStatus.SERVICE_UNAVAILABLE
        if verdict is Verdict.ACCEPTED:
            with self._lock:
                self._counts[verdict] += 1
            self._refresh()
        else:
            self._count_refused(verdict, f"it is {verdict.value}")
        return _STATUS[verdict]

    def check(self, delivery: Delivery, now: float) -> Verdict:
        """Return the verdict on a delivery that comes `now`, in seconds since 1970; raises as `secrets` does."""
        if not is_authentic(delivery, self.secrets(), now):
            return Verdict.REFUSED
        sent = int(delivery.timestamp)
        with self._lock:
            self._forget(now)
            if delivery.delivery_id in self._seen or sent <= self._forgotten:
                return Verdict.REPLAYED
            self._seen[delivery.delivery_id] = sent
        return Verdict.ACCEPTED

    def _forget(self, now: float) -> None:
        """Forget what the window refuses anyway, and make room for one more."""
        while self._seen:
            # In the order in which they came, which is nearly that of their times.
            oldest, sent = next(iter(self._seen.items()))
            if now - sent <= WINDOW_SECONDS and len(self._seen) < self._max_remembered:
                return
            del self._seen[oldest]
            # Of the former too, lest a clock that is set back let them in again.
            self._forgotten = max(self._forgotten, sent)

    def _count_refused(self, verdict: Verdict, why: str) -> None:
        """Count a delivery that is not accepted, and log some of them: anyone can send them."""
        with self._lock:
            self._counts[verdict] += 1
            self._unlogged += 1
            now = time.monotonic()
            if now < self._logged + REFUSAL_LOG_SECONDS:
                return
            unlogged, self._unlogged, self._logged = self._unlogged, 0, now
        log.warning("webhook delivery not accepted", why=why, deliveries=unlogged)
