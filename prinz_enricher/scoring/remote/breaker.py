"""When a base URL is left out because it fails, and when it is tried again: a value, whose clock is its caller's.

It is our own because no library on hand does what is needed. A base is chosen among several, so a breaker has to say
whether it lets a request through before there is one; then one request alone tries a base that was left out, while the
others go elsewhere or are refused. Looked at were

- pybreaker 1.4: `call` holds its lock while the call runs, so that calls go one after the other (8 calls of 0.1 s took
  0.8 s); `calling` does not, and lets every waiting call through as the trial (8 of 8); its clock is the wall's;
- circuitbreaker 2.1 and purgatory 3.0: every waiting call is the trial (8 of 8); they count without a lock, and the
  clock of purgatory is the wall's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

MAX_PAUSE_SECONDS = 60.0
"""What the pause doubles up to while a base goes on failing."""


class State(StrEnum):
    """What a breaker does with requests."""

    CLOSED = "closed"
    """It lets all of them through."""
    OPEN = "open"
    """It lets none through."""
    HALF_OPEN = "half-open"
    """The pause is over: it lets one through, as a trial."""


@dataclass(slots=True)
class Breaker:
    """Leaves a base out after so many failures in a row; not to be used by several threads without a lock.

    Attributes:
        failures: How many failures in a row open it.
        pause: Seconds until the first trial; doubled with each trial that fails.
    """

    failures: int
    pause: float
    _failed: int = field(default=0, init=False)
    _opened: int = field(default=0, init=False)
    _closed_until: float | None = field(default=None, init=False)
    _pauses: float = field(default=0.0, init=False)
    _trying: bool = field(default=False, init=False)

    def state(self, now: float) -> State:
        """Tell what it does with requests.

        Args:
            now: Seconds of a clock that only goes forward.
        """
        if self._closed_until is None:
            return State.CLOSED
        return State.OPEN if now < self._closed_until else State.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Tell whether a request may be sent."""
        state = self.state(now)
        return state is State.CLOSED or (state is State.HALF_OPEN and not self._trying)

    def opens_in(self, now: float) -> float:
        """Tell after how many seconds a request may be sent; a trial that runs is not counted."""
        return 0.0 if self._closed_until is None else max(0.0, self._closed_until - now)

    @property
    def pauses(self) -> float:
        """For how many seconds it was last opened."""
        return self._pauses

    def start(self, now: float) -> bool:
        """Take note that a request is sent, which `allows` let through.

        Returns:
            Whether it is the trial, to be told at its end.
        """
        trial = self.state(now) is State.HALF_OPEN
        self._trying = self._trying or trial
        return trial

    def succeed(self, *, trial: bool) -> None:
        """Take note that a request was answered: the base is well, even if it was left out meanwhile."""
        self._failed = self._opened = 0
        self._closed_until = None
        self._end(trial=trial)

    def fail(self, now: float, *, trial: bool) -> None:
        """Take note that a request failed through the base's fault."""
        self._end(trial=trial)
        if trial or self._closed_until is None:
            self._failed += 1
            if trial or self._failed >= self.failures:
                self._pauses = min(self.pause * 2.0 ** min(self._opened, 30), MAX_PAUSE_SECONDS)
                self._closed_until = now + self._pauses
                self._opened += 1
                self._failed = 0

    def give_up(self, *, trial: bool) -> None:
        """Take note that a request ended without telling anything of the base."""
        self._end(trial=trial)

    def _end(self, *, trial: bool) -> None:
        if trial:
            self._trying = False
