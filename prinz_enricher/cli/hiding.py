"""Keeps the front's memory and environment, which hold credentials, from other processes of the same user."""

from __future__ import annotations

import contextlib
import ctypes

_SET_DUMPABLE = 4
"""PR_SET_DUMPABLE, prctl(2): without it nobody but root may trace the process, or read its environment or memory."""


def hide_from_models() -> None:
    """Have the kernel refuse looks into this process; a worker is one of the same user. Best effort, Linux only.

    Where there is Landlock, workers can't look anyway, and root can wherever there is none.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)
