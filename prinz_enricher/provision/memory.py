"""How much memory there is, and how much a process holds."""

from pathlib import Path

_WORKERS_SHARE = 0.8  # The rest is for the front, and for files that are read again and again.
# Of cgroups version 2, then version 1, each as a container sees its own.
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def default_budget(share: float = _WORKERS_SHARE) -> int | None:
    """Return a share of the memory of the machine, or of the container if less, in bytes; None where it is unknown."""
    known = [size for size in (_field_bytes(Path("/proc/meminfo"), "MemTotal:"), _container_bytes()) if size]
    return int(min(known) * share) if known else None


def resident(pid: int) -> int:
    """Return the bytes of memory that a process holds, without files, which the kernel can drop; 0 for no process."""
    return _field_bytes(Path(f"/proc/{pid}/status"), "RssAnon:", "RssShmem:")


def _field_bytes(path: Path, *names: str) -> int:
    """Add up fields in kB of a file of the kernel; 0 where it can't be read."""
    try:
        lines = path.read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))
    except (OSError, ValueError, IndexError):
        return 0


def _container_bytes() -> int | None:
    for path in _CGROUP_LIMITS:
        try:
            return int(path.read_text())
        except (OSError, ValueError):
            # "max" means no limit.
            continue
    return None
