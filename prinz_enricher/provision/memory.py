"""How much memory there is for workers."""

from __future__ import annotations

from pathlib import Path

_SHARE = 0.8
"""What workers may take of it by default; the rest is for the front, and for files that are read again and again."""

_CGROUP = Path("/sys/fs/cgroup")


def default_budget(share: float = _SHARE, meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int | None:
    """Tell the bytes that may be held where nobody says otherwise, by all workers together or for something else.

    Args:
        share: Of what there is.
        meminfo: What the kernel tells of the machine's memory.
        cgroup: Where it tells the limits of this container.

    Returns:
        A share of the machine's memory, or of the container's where that is less; None where neither is known.
    """
    known = [size for size in (_machine(meminfo), _container(cgroup)) if size]
    return int(min(known) * share) if known else None


def resident(pid: int, proc: Path = Path("/proc")) -> int:
    """Tell the bytes of memory that a process holds by itself: without files, which the kernel can drop; 0 for none."""
    try:
        text = (proc / str(pid) / "status").read_text()
    except (OSError, ValueError):
        return 0
    held = 0
    for line in text.splitlines():
        if line.startswith(("RssAnon:", "RssShmem:")):
            held += int(line.split()[1]) * 1024
    return held


def _machine(meminfo: Path) -> int | None:
    try:
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemTotal:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return None


def _container(cgroup: Path) -> int | None:
    # Version 2, then version 1, each as a container sees its own.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return int((cgroup / name).read_text())
        except (OSError, ValueError):
            # "max" is no limit.
            continue
    return None
