"""Verifies deliveries of MLflow's webhooks: who sent it, when, and whether it came before.

MLflow signs as Standard Webhooks do, see `mlflow/webhooks/delivery.py`: the header `X-MLflow-Signature` is
`v1,<base64 of HMAC-SHA256(secret, "<delivery id>.<timestamp>.<body>")>`. Pure: the time is passed in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

WINDOW_SECONDS = 300
"""Difference between the time of a delivery and ours, either way."""

MAX_REMEMBERED = 10_000
"""Deliveries that are remembered within the window."""

_VERSION = "v1"
# Without a dot in it, what is signed can be split in one way only.
_DELIVERY_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)


class Verdict(Enum):
    """The result of a check."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request of a webhook.

    Attributes:
        delivery_id: The header `X-MLflow-Delivery-Id`.
        timestamp: The header `X-MLflow-Timestamp`: seconds since 1970, as text.
        signature: The header `X-MLflow-Signature`.
        body: The raw body.
    """

    delivery_id: str
    timestamp: str
    signature: str
    body: bytes


def is_authentic(delivery: Delivery, secrets: Iterable[str], now: float) -> bool:
    """Return whether a delivery was signed with one of the valid secrets, within the window.

    Args:
        delivery: The delivery.
        secrets: Several while one replaces another.
        now: Seconds since 1970.
    """
    if not _DELIVERY_ID.fullmatch(delivery.delivery_id) or not _TIMESTAMP.fullmatch(delivery.timestamp):
        return False
    if abs(now - int(delivery.timestamp)) > WINDOW_SECONDS or not delivery.signature.isascii():
        return False
    signed = f"{delivery.delivery_id}.{delivery.timestamp}.".encode("ascii") + delivery.body
    given = delivery.signature.encode("ascii")
    # Each is compared, so that the time does not reveal which one matched.
    matches = [hmac.compare_digest(_signature(secret, signed), given) for secret in secrets]
    return any(matches)


def _signature(secret: str, signed: bytes) -> bytes:
    digest = hmac.digest(secret.encode("utf-8"), signed, hashlib.sha256)
    return f"{_VERSION},".encode("ascii") + base64.b64encode(digest)


class Receiver:
    """Checks deliveries, and remembers the authentic ones for as long as they could be replayed.

    Where more come within the window than are remembered, the oldest is forgotten. All deliveries of the time of a
    forgotten one, and before, are refused: memory is bounded, and still none is accepted twice.
    """

    def __init__(self, *, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}
        self._forgotten = -1

    def check(self, delivery: Delivery, secrets: Iterable[str], now: float) -> Verdict:
        """Return the verdict on a delivery, from any thread; arguments as of `is_authentic`."""
        if not is_authentic(delivery, secrets, now):
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
