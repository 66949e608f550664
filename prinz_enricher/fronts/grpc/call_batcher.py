"""Calls that an event loop takes in one by one, handed over together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

import structlog

from prinz_enricher.service.ports import Call, CallHandler
from prinz_enricher.service.status import internal_failure

log = structlog.stdlib.get_logger(__name__)

QUIET_TURNS: Final = 8
"""Turns of the loop without another call after which there is none that waits. grpc.aio needs five or six of them, and
of its thread that polls, for each call that it takes in."""

PATIENCE: Final = 0.003
"""Seconds that a call waits for others at most."""


class Arrivals:
    """Hands over together what is there to be taken in.

    Handing over costs as much for one call as for ten, and grpc.aio lets them in one at a time: calls that wait in it
    can't be seen. So the loop goes round, without sleeping, until that brings no more. A call that comes alone loses
    some tens of microseconds by it, and there is no timer. All methods are for the loop's thread.

    Args:
        handler: Takes the calls.
        most: Calls that may wait here; with these the hand-over is at once. They count as in flight, so a front keeps
            this well below what it lets in.
    """

    def __init__(self, handler: CallHandler, most: int) -> None:
        self._handler = handler
        self._most = most
        self._loop = asyncio.get_running_loop()
        # Not every system has it.
        self._give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
        self._waiting: list[Call] = []
        self._turning = False
        self._seen = 0
        self._quiet = 0
        self._until = 0.0

    def add(self, call: Call) -> None:
        """Take a call that was let in."""
        self._waiting.append(call)
        if len(self._waiting) >= self._most:
            self._hand_over()
        elif len(self._waiting) == 1:
            self._seen = 0
            self._until = self._loop.time() + PATIENCE
            if not self._turning:
                self._turning = True
                self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if len(self._waiting) > self._seen:
            self._seen, self._quiet = len(self._waiting), 0
        self._quiet += 1
        if self._waiting and self._quiet <= QUIET_TURNS and self._loop.time() < self._until:
            # The thread that polls may have this very core to run on.
            self._give_way()
            self._loop.call_soon(self._turn)
            return
        self._turning = False
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
