"""Waiting for a signal."""

from __future__ import annotations

import threading

_WAKE_SECONDS = 1.0
"""How long a signal may wait that the kernel gave to another thread than the main one."""


def wait_for_signal(ended: threading.Event) -> None:
    """Wait, in the main thread, for an event that the handler of a signal sets.

    The kernel may give a signal to any thread, but Python runs its handler in the main one, once that wakes; a wait
    without a limit would let the signal lie (`signal` in Python's library reference, "Execution of Python signal
    handlers").
    """
    while not ended.wait(timeout=_WAKE_SECONDS):
        continue
