"""How much each principal may use: rows a second and calls in flight, in the memory of this instance."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from prinz_enricher.config import QuotaSettings
from prinz_enricher.errors import QuotaExceeded
from prinz_enricher.security.principal import Principal

ANONYMOUS = "anonymous"
"""The name of callers without one, who share a quota."""

_CALL_SECONDS = 0.1
"""When to try again where too many calls are in flight: it is not known when one ends."""

_SWEEP_SECONDS = 10.0
_MAX_COUNTED = 1_000
_ROUNDING = 1e-6


@dataclass(slots=True, eq=False)
class _Use:
    calls: int = 0
    full_at: float = 0.0
    """When the bucket of rows will be full again if nothing more is taken; it holds the rows of one second."""


class Quotas:
    """The quotas of all principals, each by its name; thread-safe. `clock` gives seconds.

    Whoever enters leaves once, unless it was refused.
    """

    def __init__(self, settings: QuotaSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate: int | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._used: dict[str, _Use] = {}
        self._sweep_at = clock() + _SWEEP_SECONDS
        self._rejections: dict[str, int] = {}
        self.change(settings)

    def change(self, settings: QuotaSettings) -> None:
        """Go on with other limits: calls in flight stay counted, and nobody waits longer for rows than before."""
        with self._lock:
            old, rate = self._rate, settings.rows_per_second
            if old is not None and rate is not None and rate > old:
                now = self._clock()
                for use in self._used.values():
                    use.full_at = now + max(use.full_at - now, 0.0) * old / rate
            self._rate, self._calls = rate, settings.calls_in_flight
            self.limits_calls = self._calls is not None
            """Whether calls in flight are to be counted."""
            self.enabled = self.limits_calls or rate is not None

    def rejections(self) -> dict[str, int]:
        """Return how often each principal was refused; those after the first thousand count as one."""
        with self._lock:
            return dict(self._rejections)

    def enter(self, principal: Principal | None) -> QuotaExceeded | None:
        """Count one more call in flight, or return why not."""
        name = _name(principal)
        with self._lock:
            use = self._use(name)
            if self._calls is not None and use.calls >= self._calls:
                return self._refuse(name, "calls_in_flight", self._calls, _CALL_SECONDS)
            use.calls += 1
        return None

    def leave(self, principal: Principal | None) -> None:
        """Count one call less."""
        with self._lock:
            self._use(_name(principal)).calls -= 1

    def charge(self, principal: Principal | None, rows: int) -> QuotaExceeded | None:
        """Take rows from the bucket, or return when there will be as many.

        More rows than those of a second pass when the bucket is full, and leave it in debt.
        """
        return self.charge_each(principal, 1, rows)[1]

    def charge_each(self, principal: Principal | None, calls: int, rows: int) -> tuple[int, QuotaExceeded | None]:
        """Take the rows of each of several calls, as `charge` would one after the other.

        Returns how many of them pass, and why the others do not.
        """
        rate = self._rate
        if rate is None:
            return calls, None
        name, seconds = _name(principal), rows / rate
        with self._lock:
            now = self._clock()
            use = self._use(name)
            debt = max(use.full_at - now, 0.0)
            for passed in range(calls):
                wait = debt + min(seconds, 1.0) - 1.0
                if wait > _ROUNDING:
                    return passed, self._refuse(name, "rows_per_second", rate, wait, calls - passed)
                debt += seconds
                use.full_at = now + debt
        return calls, None

    def _use(self, name: str) -> _Use:
        use = self._used.get(name)
        if use is None:
            now = self._clock()
            if now >= self._sweep_at:
                # An issuer may make any number of names.
                self._sweep_at = now + _SWEEP_SECONDS
                self._used = {key: use for key, use in self._used.items() if use.calls or use.full_at > now}
            use = self._used[name] = _Use()
        return use

    def _refuse(self, name: str, quota: str, limit: int, seconds: float, calls: int = 1) -> QuotaExceeded:
        key = name if name in self._rejections or len(self._rejections) < _MAX_COUNTED else "…"
        self._rejections[key] = self._rejections.get(key, 0) + calls
        return QuotaExceeded(name, quota, limit, seconds)


def _name(principal: Principal | None) -> str:
    return ANONYMOUS if principal is None else principal.name
