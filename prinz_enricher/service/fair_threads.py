"""Threads that take the work of several callers in turns."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor


class FairThreads:
    """Runs work on a few threads: callers by turns, and the work of each in its order.

    One thread is always left to other callers, so that nobody waits for all the work of somebody else. Work must not
    raise.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._most = threads - 1
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        # In the order in which they have their next turn.
        self._waiting: dict[Hashable, deque[Callable[[], None]]] = {}
        self._running: Counter[Hashable] = Counter()

    def submit(self, caller: Hashable, work: Callable[[], None]) -> None:
        """Run some work of a caller, in its turn; raises RuntimeError where no thread can be started."""
        # First, since it may fail. A thread that finds nothing to do is soon idle again.
        with self._lock:
            self._threads.submit(self._run)
            self._waiting.setdefault(caller, deque()).append(work)

    def shutdown(self) -> None:
        """Take no more work, and wait for all of it."""
        self._threads.shutdown()

    def _run(self) -> None:
        done: Hashable | None = None
        while (found := self._next(done)) is not None:
            done, work = found
            work()

    def _next(self, done: Hashable | None) -> tuple[Hashable, Callable[[], None]] | None:
        """Return the next work and its caller; `done` is the caller whose work this thread has just done."""
        with self._lock:
            if done is not None and self._running[done] > 1:
                self._running[done] -= 1
            else:
                self._running.pop(done, None)
            caller = next((one for one in self._waiting if self._running[one] < self._most), None)
            if caller is None:
                return None
            works = self._waiting.pop(caller)
            work = works.popleft()
            if works:
                self._waiting[caller] = works
            self._running[caller] += 1
            return caller, work
