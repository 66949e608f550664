"""What a process does before it imports the libraries of models; the standard library alone is imported here."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread of its parent that started it ends; best effort, Linux only.

    The end of the socket says the same, but is not noticed while the model computes.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before that.
    if os.getppid() != parent:
        os._exit(1)


def prepare_imports() -> None:
    """Set what libraries read at their import: no telemetry of MLflow, no background threads of Arrow or Polars.

    A thread that runs before the worker is confined would stay outside.
    """
    if not getattr(sys.flags, "safe_path", False) and sys.path[:1] in ([""], [str(Path.cwd())]):
        # Python 3.10 has no -P: modules must not come from the working directory.
        del sys.path[0]
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    for allocator in ("JE_ARROW_MALLOC_CONF", "_RJEM_MALLOC_CONF"):
        os.environ.setdefault(allocator, "background_thread:false")
