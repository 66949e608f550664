"""Processes of this machine, read from /proc."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [child for child, status in _files("status") if re.search(rf"^PPid:\t{pid}$", status, flags=re.MULTILINE)]


def mentioning(text: str) -> list[int]:
    """Return the processes whose command line has a text in it."""
    return [pid for pid, command in _files("cmdline") if text in command]


def named(name: str) -> list[int]:
    """Return the processes that this one has started, that run, and that `ps` calls so."""
    return [pid for pid in children(os.getpid()) if is_there(pid) and _name(pid) == name]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def memory_of(pid: int) -> bytes:
    """Return what a process has in the memory that it can write."""
    found = bytearray()
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                start, end = (int(one, 16) for one in span.split("-"))
                memory.seek(start)
                with contextlib.suppress(OSError):
                    found += memory.read(end - start)
    return bytes(found)


def is_there(pid: int) -> bool:
    """Tell whether a process is there; one that has ended is not, though nobody may have waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def _files(name: str) -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        # A process may end between the two steps.
        with contextlib.suppress(OSError):
            yield int(folder.name), (folder / name).read_text(errors="replace")
