"""One thread that calls back when a time has come, for all the deadlines of a pool."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

_MIN_TO_COMPACT = 1024

_MAX_WAIT = 3600.0
"""Seconds of one wait: a caller may name a deadline that is further away than a lock can wait for."""


class Alarm:
    """A callback at a time."""

    __slots__ = ("call", "timer")

    def __init__(self, call: Callable[[], None], timer: Timer) -> None:
        self.call: Callable[[], None] | None = call
        self.timer = timer

    def cancel(self) -> None:
        """Do not call back any more; the callback is released at once."""
        if self.call is not None:
            self.call = None
            # About right is enough, so without the lock.
            self.timer.cancelled += 1


class Timer:
    """Calls back in order of time, in a thread of its own that starts with the first alarm."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()
        # About as many alarms in the heap are cancelled.
        self.cancelled = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def call_at(self, when: float, call: Callable[[], None]) -> Alarm:
        """Call back at a time by `time.monotonic()`; the callback must not block."""
        alarm = Alarm(call, self)
        with self._changed:
            if self._closed:
                return alarm
            if self.cancelled > max(len(self._heap) // 2, _MIN_TO_COMPACT):
                self._heap = [entry for entry in self._heap if entry[2].call is not None]
                heapq.heapify(self._heap)
                self.cancelled = 0
            entry = (when, next(self._order), alarm)
            heapq.heappush(self._heap, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            elif self._heap[0] is entry:
                self._changed.notify()
        return alarm

    def close(self) -> None:
        """Call back no more, and end the thread."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._heap or self._heap[0][0] > time.monotonic()):
                    left = self._heap[0][0] - time.monotonic() if self._heap else _MAX_WAIT
                    self._changed.wait(min(left, _MAX_WAIT))
                if self._closed:
                    return
                alarm = heapq.heappop(self._heap)[2]
            call, alarm.call = alarm.call, None
            if call is None:
                self.cancelled = max(0, self.cancelled - 1)
                continue
            try:
                call()
            except Exception:
                # The deadlines of all other jobs depend on this thread.
                log.exception("an alarm failed")
