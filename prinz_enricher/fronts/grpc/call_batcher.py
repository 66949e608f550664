"""Hands calls that an event loop receives one by one to the service together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

import structlog

from prinz_enricher.service.calls import Call, CallHandler
from prinz_enricher.service.status import internal_failure

log = structlog.stdlib.get_logger(__name__)

IDLE_TICKS: Final = 40
"""Iterations of the loop without another call after which none is pending. grpc.aio needs five or six of them for each
call that it receives, and its polling thread, which other threads may keep waiting: with 8, calls of 64 callers were
handed over by two or three, and took twice as long. 40 take a lone call some 0.1 ms."""

MAX_WAIT: Final = 0.010
"""Seconds that a call waits for others."""


class CallBatcher:
    """Collects the calls that are pending, and hands them over at once. All methods are for the loop's thread.

    Handing over costs as much for one call as for ten, and grpc.aio receives one at a time, without showing how many
    are pending. So the loop iterates, without sleeping, until no more come, and there is no timer. Where `max_calls`
    wait, the hand-over is at once; they count as in flight, so a front keeps this well below what it admits.
    """

    def __init__(self, handler: CallHandler, max_calls: int, idle_ticks: int = IDLE_TICKS) -> None:
        self._handler = handler
        self._last_tick = idle_ticks
        self._max_calls = max_calls
        self._loop = asyncio.get_running_loop()
        # Not every system has it.
        self._yield_core: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
        self._waiting: list[Call] = []
        self._ticking = False
        self._seen = 0
        self._idle_ticks = 0
        self._until = 0.0

    def add(self, call: Call) -> None:
        """Add a call that was admitted."""
        self._waiting.append(call)
        if len(self._waiting) >= self._max_calls:
            self._hand_over()
        elif len(self._waiting) == 1:
            self._seen = 0
            self._until = self._loop.time() + MAX_WAIT
            if not self._ticking:
                self._ticking = True
                self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        if len(self._waiting) > self._seen:
            self._seen, self._idle_ticks = len(self._waiting), 0
        self._idle_ticks += 1
        if self._waiting and self._idle_ticks <= self._last_tick and self._loop.time() < self._until:
            # The polling thread may need this very core.
            self._yield_core()
            self._loop.call_soon(self._tick)
            return
        self._ticking = False
        if self._waiting:
            self._hand_over()

    def _hand_over(self) -> None:
        calls, self._waiting = self._waiting, []
        try:
            self._handler(calls)
        except Exception as error:  # noqa: BLE001 - the loop would log it, and the calls would never be answered
            status = internal_failure(log, "calls failed", error, calls=len(calls))
            for call in calls:
                call.fail(status)
