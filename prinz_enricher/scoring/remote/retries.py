"""How often a request is sent again, and after how long.

Scoring changes nothing at the server, so that a request may be sent twice even where the first may have been answered:
after a reset, a time-out or a connection that the server closed. What must be bounded is the work that this makes for a
server that fails, hence the budget. tenacity and stamina hold a loop with waits, but no budget, no choice of another
server and no deadline over all of it; httpx's own retries are for refused connections alone.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus

RETRIED = frozenset(
    (
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    )
)
"""The statuses after which the same request may be answered."""

MAX_RETRY_AFTER_SECONDS = 10.0
"""How long a call waits for a server that says when to come back; a longer wait is for the caller to decide on."""

_FIRST_BACKOFF_SECONDS = 0.05
_MAX_BACKOFF_SECONDS = 1.0


class RetryBudget:
    """Lets a share of all calls be retries, and a few more at once; for all threads of an endpoint."""

    def __init__(self, share: float, burst: float) -> None:
        """Begin with a full budget.

        Args:
            share: How many retries each call earns, such as 0.2.
            burst: How many retries can be saved up.
        """
        self._share = share
        self._burst = burst
        self._saved = burst
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Take note of a call."""
        with self._lock:
            self._saved = min(self._burst, self._saved + self._share)

    def spend(self) -> bool:
        """Take one retry; False where there is none left."""
        with self._lock:
            # Ten shares of 0.1 are a little less than one.
            if self._saved < 1.0 - 1e-9:
                return False
            self._saved -= 1.0
            return True


def backoff(retry: int, chance: float) -> float:
    """Return the seconds before a retry where the server says nothing of it.

    Args:
        retry: The first is 0.
        chance: Between 0 and 1, by chance, so that calls that failed together do not come back together.
    """
    return chance * min(_FIRST_BACKOFF_SECONDS * 2.0 ** min(retry, 30), _MAX_BACKOFF_SECONDS)


def retry_after(text: str, now: float | None = None) -> float | None:
    """Read a Retry-After header (RFC 9110, section 10.2.3).

    Args:
        text: Seconds, or a date.
        now: Seconds since 1970; by the system's clock by default.

    Returns:
        Seconds from now; None where the header says nothing that can be understood.
    """
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:10])
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    stamp = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return max(0.0, stamp - (time.time() if now is None else now))
