"""Ties a worker's life to that of the front."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; best effort, Linux only.

    The end of the socket says the same, but is not seen while the model computes.

    Args:
        parent: The process that started this one.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have gone before the kernel was told.
    if os.getppid() != parent:
        os._exit(1)
