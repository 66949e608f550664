"""Which of several base URLs the next request goes to: the one with the least to do that does not fail.

The circuit breaker is our own because a base is chosen among several: it has to say whether it lets a request through
before there is one, and then one request alone tries a base that was left out, while the others go elsewhere or are
refused. pybreaker 1.4, circuitbreaker 2.1 and purgatory 3.0 let every waiting call through as the trial, or make one
call after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum

MAX_PAUSE_SECONDS = 60.0
"""What the pause doubles up to while a base goes on failing."""

_SHORTEST_PATIENCE_SECONDS = 0.25
_PATIENCE_FACTOR = 3.0


class State(StrEnum):
    """What a breaker lets through: all requests, none, or one as a trial once the pause is over."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(slots=True)
class Breaker:
    """Leaves a base out after so many failures in a row. All times are seconds of a clock that only goes forward.

    The `pause` until the first trial is doubled with each trial that fails; `last_pause` is the last one.
    """

    failures: int
    pause: float
    last_pause: float = field(default=0.0, init=False)
    _failed: int = field(default=0, init=False)
    _opened: int = field(default=0, init=False)
    _open_until: float | None = field(default=None, init=False)
    _trying: bool = field(default=False, init=False)

    def state(self, now: float) -> State:
        """Return what it does with requests."""
        if self._open_until is None:
            return State.CLOSED
        return State.OPEN if now < self._open_until else State.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Whether a request may be sent."""
        state = self.state(now)
        return state is State.CLOSED or (state is State.HALF_OPEN and not self._trying)

    def opens_in(self, now: float) -> float:
        """Return the seconds until a request may be sent; a trial that runs is not counted."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - now)

    def start(self, now: float) -> bool:
        """Note that a request is sent, which `allows` let through; return whether it is the trial."""
        trial = self.state(now) is State.HALF_OPEN
        self._trying = self._trying or trial
        return trial

    def succeed(self, *, trial: bool) -> None:
        """Note that a request was answered: the base is well, even if it was left out meanwhile."""
        self._failed = self._opened = 0
        self._open_until = None
        self.give_up(trial=trial)

    def fail(self, now: float, *, trial: bool) -> None:
        """Note that a request failed through the base's fault."""
        self.give_up(trial=trial)
        if trial or self._open_until is None:
            self._failed += 1
            if trial or self._failed >= self.failures:
                self.last_pause = min(self.pause * 2.0 ** min(self._opened, 30), MAX_PAUSE_SECONDS)
                self._open_until = now + self.last_pause
                self._opened += 1
                self._failed = 0

    def give_up(self, *, trial: bool) -> None:
        """Note that a request ended without showing anything of the base."""
        if trial:
            self._trying = False


class BackendHealth(Enum):
    """What a request shows of the base."""

    WELL = "it answered"
    FAILED = "it failed"
    UNKNOWN = "it may be either"


@dataclass(slots=True, eq=False)
class Backend:
    """One base URL, and how many requests it has to answer now; its numbers belong to `LoadBalancer`.

    `usual` is the seconds that its last answer took, 0 before the first; `last_turn` the number of its last request.
    """

    url: str
    breaker: Breaker
    outstanding: int = field(default=0, init=False)
    usual: float = field(default=0.0, init=False)
    last_turn: int = field(default=0, init=False)


@dataclass(frozen=True, slots=True)
class BackendLease:
    """One request to a base, to be ended by `LoadBalancer.release`; `trial` shows if the base may be used again."""

    backend: Backend
    trial: bool
    since: float


class LoadBalancer:
    """Shares requests out among base URLs; belongs to one thread, others may ask for `states`."""

    def __init__(
        self, urls: Sequence[str], *, failures: int, pause: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with no base left out; `failures` and `pause` are those of `Breaker`."""
        self._backends = tuple(Backend(url, Breaker(failures, pause)) for url in urls)
        self._clock = clock
        self._turns = 0

    def acquire(self, tried: Collection[Backend] = ()) -> BackendLease | None:
        """Choose where a request goes: to one of those it `tried` only where there is no other; None if all are out."""
        now = self._clock()
        if not (allowed := self._allowed(now)):
            return None
        # Among equals each has its turn.
        backend = min(allowed, key=lambda one: (one in tried, one.outstanding, one.last_turn))
        self._turns += 1
        backend.last_turn = self._turns
        backend.outstanding += 1
        return BackendLease(backend, backend.breaker.start(now), now)

    def release(self, lease: BackendLease, health: BackendHealth, *, ran_out: bool = False) -> None:
        """End a request, which showed the health of its base, or `ran_out` of its caller's time before the answer.

        That is the base's failure where it was silent for much longer than it usually takes: else callers with little
        time would have a good base left out, and a frozen one would never be, if all callers have little time.
        """
        backend, now = lease.backend, self._clock()
        backend.outstanding -= 1
        if ran_out and now - lease.since < max(_SHORTEST_PATIENCE_SECONDS, _PATIENCE_FACTOR * backend.usual):
            health = BackendHealth.UNKNOWN
        match health:
            case BackendHealth.WELL:
                backend.usual = now - lease.since
                backend.breaker.succeed(trial=lease.trial)
            case BackendHealth.FAILED:
                backend.breaker.fail(now, trial=lease.trial)
            case BackendHealth.UNKNOWN:
                backend.breaker.give_up(trial=lease.trial)

    def has_untried(self, tried: Collection[Backend]) -> bool:
        """Whether a base is not left out that has not been tried."""
        return any(backend not in tried for backend in self._allowed(self._clock()))

    def opens_in(self) -> float:
        """Return the seconds until the first of those that are left out is tried again."""
        now = self._clock()
        return min(backend.breaker.opens_in(now) for backend in self._backends)

    def may_come_back(self, patience: float) -> bool:
        """Whether a base that has answered before is left out for no longer than so many seconds at a time."""
        return any(backend.usual and backend.breaker.last_pause <= patience for backend in self._backends)

    def states(self) -> dict[str, tuple[State, int]]:
        """Return the state of each base by its URL, and how many requests it has to answer now."""
        now = self._clock()
        return {backend.url: (backend.breaker.state(now), backend.outstanding) for backend in self._backends}

    def _allowed(self, now: float) -> list[Backend]:
        return [backend for backend in self._backends if backend.breaker.allows(now)]
