"""Gives memory that was freed back to the system."""

from __future__ import annotations

import contextlib
import ctypes


def trim_heap() -> None:
    """Give back what malloc keeps of freed memory; does nothing where the C library can't.

    A large message arrives in thousands of small blocks. Once freed, they stay with the heaps of the threads that
    received them: a front would grow by such a message for each of its threads.
    """
    # Without malloc_trim, as on macOS or musl, the memory stays; nothing else is lost.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
