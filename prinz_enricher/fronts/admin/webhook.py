"""The check of a delivery of MLflow's webhooks: who sent it, when, and whether it came before.

MLflow signs as Standard Webhooks do, see `mlflow/webhooks/delivery.py`: the header `X-MLflow-Signature` is
`v1,<base64 of HMAC-SHA256(secret, "<delivery id>.<timestamp>.<body>")>`. What is here is pure: the time is passed in.
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
"""How far the time of a delivery may be from ours, either way."""

MAX_REMEMBERED = 10_000
"""How many deliveries are remembered within the window."""

_VERSION = "v1"
# Without a dot in it, what is signed can be split in one way only.
_DELIVERY_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)


class Verdict(Enum):
    """What is thought of a delivery."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request of a webhook, as it came.

    Attributes:
        delivery_id: Of the header `X-MLflow-Delivery-Id`.
        timestamp: Of `X-MLflow-Timestamp`: seconds since 1970, as text.
        signature: Of `X-MLflow-Signature`.
        body: The raw body.
    """

    delivery_id: str
    timestamp: str
    signature: str
    body: bytes


def is_genuine(delivery: Delivery, secrets: Iterable[str], now: float) -> bool:
    """Tell whether one who knows a secret has sent a delivery, within the window.

    Args:
        delivery: As it came.
        secrets: The ones that are valid; two while one is being replaced by the other.
        now: Seconds since 1970.
    """
    if not _DELIVERY_ID.fullmatch(delivery.delivery_id) or not _TIMESTAMP.fullmatch(delivery.timestamp):
        return False
    if abs(now - int(delivery.timestamp)) > WINDOW_SECONDS or not delivery.signature.isascii():
        return False
    signed = f"{delivery.delivery_id}.{delivery.timestamp}.".encode("ascii") + delivery.body
    given = delivery.signature.encode("ascii")
    # Each is compared, so that the time taken does not tell which one it was.
    matches = [hmac.compare_digest(_signature(secret, signed), given) for secret in secrets]
    return any(matches)


def _signature(secret: str, signed: bytes) -> bytes:
    digest = hmac.digest(secret.encode("utf-8"), signed, hashlib.sha256)
    return f"{_VERSION},".encode("ascii") + base64.b64encode(digest)


class Receiver:
    """Judges deliveries, and remembers the genuine ones for as long as they could be sent again.

    Where more come within the window than are remembered, the oldest is forgotten. All deliveries of the time of a
    forgotten one, and before, are refused: memory is bounded, and still none is accepted twice.
    """

    def __init__(self, *, max_remembered: int = MAX_REMEMBERED) -> None:
        """Know of no delivery.

        Args:
            max_remembered: How many are remembered at most.
        """
        self._max_remembered = max_remembered
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}
        self._forgotten = -1

    def judge(self, delivery: Delivery, secrets: Iterable[str], now: float) -> Verdict:
        """Return the verdict on a delivery; may be called by several threads at once.

        Args:
            delivery: As it came.
            secrets: The ones that are valid.
            now: Seconds since 1970.
        """
        if not is_genuine(delivery, secrets, now):
            return Verdict.REFUSED
        sent = int(delivery.timestamp)
        with self._lock:
            self._forget(now)
            if delivery.delivery_id in self._seen or sent <= self._forgotten:
                return Verdict.REPLAYED
            self._seen[delivery.delivery_id] = sent
        return Verdict.ACCEPTED

    def _forget(self, now: float) -> None:
        """Forget what is refused for its time anyway, and make room for one more."""
        while self._seen:
            # In the order in which they came, which is nearly that of their times.
            oldest, sent = next(iter(self._seen.items()))
            if now - sent <= WINDOW_SECONDS and len(self._seen) < self._max_remembered:
                return
            del self._seen[oldest]
            # Of the former too, lest a clock that is set back let them in again.
            self._forgotten = max(self._forgotten, sent)
