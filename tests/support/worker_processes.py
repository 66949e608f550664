"""The worker processes of a front, as the system sees them."""

from __future__ import annotations

import os
from pathlib import Path


def workers_of(parent: int | None = None) -> list[int]:
    """Return the ids of the worker processes that a process has started and that run; of this one by default."""
    found = []
    for children in Path(f"/proc/{parent or os.getpid()}/task").glob("*/children"):
        try:
            pids = [int(child) for child in children.read_text().split()]
        except OSError:
            continue
        found += [pid for pid in pids if _is_worker(pid)]
    return sorted(found)


def runs(pid: int) -> bool:
    """Tell whether a process is there and runs; one that is dead but not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def _is_worker(pid: int) -> bool:
    try:
        started = b"prinz_enricher.worker\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        # One that was forked has the command line of what it was forked from.
        return (started or Path(f"/proc/{pid}/comm").read_text() == "prinz-worker\n") and runs(pid)
    except OSError:
        return False
