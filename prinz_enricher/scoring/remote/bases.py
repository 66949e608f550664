"""Which of several base URLs the next request goes to: the one with the least to do that does not fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from prinz_enricher.scoring.remote.breaker import Breaker, State

_SHORTEST_PATIENCE_SECONDS = 0.25
_PATIENCE_FACTOR = 3.0


@dataclass(slots=True, eq=False)
class Base:
    """One base URL; its numbers belong to `Bases`.

    Attributes:
        url: Without a slash at its end.
        breaker: Whether it is left out.
        outstanding: How many requests it has to answer now.
        usual: Seconds that its last answer took; 0 before the first.
    """

    url: str
    breaker: Breaker
    outstanding: int = field(default=0, init=False)
    usual: float = field(default=0.0, init=False)


@dataclass(frozen=True, slots=True)
class Use:
    """One request to a base, to be ended by exactly one of `Bases.succeeded`, `.failed` and `.left`.

    Attributes:
        base: Where it goes.
        trial: Whether it shows if the base may be used again.
        since: When it began, by the clock of `Bases`.
    """

    base: Base
    trial: bool
    since: float


class Bases:
    """Shares requests out among base URLs; for all threads of an endpoint."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        failures: int,
        pause: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with none left out.

        Args:
            urls: At least one.
            failures: After how many failures in a row one is left out.
            pause: For how many seconds at first.
            clock: Seconds of a clock that only goes forward.
        """
        self._bases = tuple(Base(url, Breaker(failures, pause)) for url in urls)
        self._clock = clock
        self._next = 0
        self._lock = threading.Lock()

    def take(self, tried: Collection[Base] = ()) -> Use | None:
        """Choose where a request goes.

        Args:
            tried: Those that failed it before; taken only where no other is to be had.

        Returns:
            None where all are left out now.
        """
        with self._lock:
            now = self._clock()
            allowed = self._allowed(now)
            if not allowed:
                return None
            # Among equals each has its turn.
            count = len(self._bases)
            index = min(
                allowed,
                key=lambda i: (self._bases[i] in tried, self._bases[i].outstanding, (i - self._next) % count),
            )
            self._next = (index + 1) % count
            base = self._bases[index]
            base.outstanding += 1
            return Use(base, base.breaker.start(now), now)

    def another(self, tried: Collection[Base]) -> bool:
        """Tell whether there is a base to be had that has not been tried."""
        with self._lock:
            return any(self._bases[index] not in tried for index in self._allowed(self._clock()))

    def opens_in(self) -> float:
        """Tell after how many seconds the first of those that are left out is tried again."""
        with self._lock:
            now = self._clock()
            return min(base.breaker.opens_in(now) for base in self._bases)

    def may_come_back(self, patience: float) -> bool:
        """Tell whether a base that has answered before is left out for no longer than so many seconds at a time."""
        with self._lock:
            return any(base.usual and base.breaker.pauses <= patience for base in self._bases)

    def states(self) -> dict[str, tuple[State, int]]:
        """Return the state of each base by its URL, and how many requests it has to answer now."""
        with self._lock:
            now = self._clock()
            return {base.url: (base.breaker.state(now), base.outstanding) for base in self._bases}

    def succeeded(self, use: Use) -> None:
        """End a request that the base answered."""
        with self._lock:
            use.base.outstanding -= 1
            use.base.usual = self._clock() - use.since
            use.base.breaker.succeed(trial=use.trial)

    def failed(self, use: Use) -> None:
        """End a request that the base failed."""
        with self._lock:
            use.base.outstanding -= 1
            use.base.breaker.fail(self._clock(), trial=use.trial)

    def left(self, use: Use) -> None:
        """End a request that tells nothing of the base: it was cancelled, or not sent through no fault of the base."""
        with self._lock:
            use.base.outstanding -= 1
            use.base.breaker.give_up(trial=use.trial)

    def ran_out(self, use: Use) -> None:
        """End a request whose caller's time was over before the answer.

        It is the base's failure where it was silent for much longer than it usually takes: else callers with little
        time would have a good base left out, and a frozen one would never be, if all callers have little time.
        """
        with self._lock:
            patience = max(_SHORTEST_PATIENCE_SECONDS, _PATIENCE_FACTOR * use.base.usual)
            slow = self._clock() - use.since >= patience
        if slow:
            self.failed(use)
        else:
            self.left(use)

    def _allowed(self, now: float) -> list[int]:
        return [index for index, base in enumerate(self._bases) if base.breaker.allows(now)]
