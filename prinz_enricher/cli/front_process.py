"""A front process of `prinz-enricher serve --processes N`; started by the main process, never by a person."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys

from prinz_enricher.cli.footprint import release_start_memory, take_memory_from_libc
from prinz_enricher.cli.hiding import hide_from_models
from prinz_enricher.cli.purity import keep_out

_SET_PDEATHSIG = 1
"""PR_SET_PDEATHSIG, prctl(2): the signal that the kernel sends this process when the one that started it ends."""


def end_with(parent: int) -> None:
    """Have the kernel end this process with the one that started it, whatever happens to that; Linux only.

    The end of the socket tells the same on every system, but only to a process that is well enough to read it.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def main() -> int:
    """Run it.

    Returns:
        The exit code.
    """
    descriptor, number, parent = (int(text) for text in sys.argv[1:4])
    # Ctrl-C, and some supervisors' SIGTERM, come to all processes of a service at once. The main one has these drain.
    for ignored in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ignored, signal.SIG_IGN)
    end_with(parent)
    hide_from_models()
    keep_out("pandas", "rich", "pygments")
    take_memory_from_libc()
    sock = socket.socket(fileno=descriptor)

    from prinz_enricher.cli.serve import SWITCH_SECONDS
    from prinz_enricher.service.processes.front_process import run

    def settled() -> None:
        release_start_memory()
        sys.setswitchinterval(SWITCH_SECONDS)

    return run(sock, number, settled=settled)


if __name__ == "__main__":
    sys.exit(main())
