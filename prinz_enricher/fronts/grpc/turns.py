"""Turns of an event loop that callers take, where the work of one could keep all others waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable


class Turns:
    """Lets one more begin each `seconds`, callers by turns, and those of each in their order. For the loop's thread.

    Args:
        may: Returns whether one may begin now; otherwise it is asked again after as long.
    """

    def __init__(self, seconds: float, may: Callable[[], bool] = lambda: True) -> None:
        self._seconds = seconds
        self._may = may
        self._loop = asyncio.get_running_loop()
        # In the order in which callers have their next turn.
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        self._next_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, caller: Hashable) -> None:
        """Return at the caller's turn: at once where nobody waits, and none has begun just now."""
        now = self._loop.time()
        if not self._waiting and now >= self._next_at and self._may():
            self._next_at = now + self._seconds
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._next)
        await turn

    def begin(self, caller: Hashable) -> None:
        """Let the next of a caller begin, if any waits."""
        turns = self._waiting.pop(caller, ())
        while turns:
            turn = turns.popleft()
            # Whoever has gone meanwhile has cancelled it.
            if not turn.done():
                turn.set_result(None)
                break
        if turns:
            self._waiting[caller] = turns

    def _next(self) -> None:
        if self._may():
            self.begin(next(iter(self._waiting), None))
        self._timer = self._loop.call_later(self._seconds, self._next) if self._waiting else None
