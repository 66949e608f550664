"""The processes of an environment that nobody looks after any more, since its supervisor was killed."""

from __future__ import annotations

import os
from pathlib import Path

from deploy.processes.place import Place

MARK = "PRINZ_ENVIRONMENT"
"""The variable that programs inherit from the supervisor: the home of their environment."""


def strays(place: Place) -> list[int]:
    """Return the processes that belong to a place.

    They have the mark in their environment; or, since some write over theirs or hide it, they run a program of the
    place, or their pid file says so. Others that only have one of its files open are not among them, nor is this
    process, nor those that it was started by.
    """
    own = _ancestors(os.getpid())
    by_file = {
        number
        for file, program in ((place.home / "nginx.pid", "nginx"), (place.database / "postmaster.pid", "postgres"))
        if (number := _of_file(file, program))
    }
    every = {
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and _read(int(entry.name), "cmdline")[0]
    }
    found = {number for number in every - own if number in by_file or _belongs(number, place)}
    return sorted(found | {number for number in every - own if _parent(number) in by_file})


def _belongs(number: int, place: Place) -> bool:
    if f"{MARK}={place.home}" in _read(number, "environ"):
        return True
    arguments = _read(number, "cmdline")
    inside = f"{place.home}/"
    script = Path(arguments[0]).name.startswith("python") and len(arguments) > 1 and arguments[1].startswith(inside)
    return arguments[0].startswith(inside) or script


def _of_file(file: Path, program: str) -> int:
    """Return the process that a pid file names; 0 where there is none, or its number has gone to another program."""
    try:
        number = int(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
    return number if program in _read(number, "cmdline")[0] else 0


def _read(number: int, what: str) -> list[str]:
    """Return the strings of a file of a process; one empty string where it can't be read or has ended."""
    try:
        return Path(f"/proc/{number}/{what}").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [""]


def _parent(number: int) -> int:
    try:
        # The name stands in brackets, and may contain anything.
        return int(Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except (OSError, IndexError):
        return 0


def _ancestors(number: int) -> set[int]:
    known = set()
    while number > 1:
        known.add(number)
        number = _parent(number)
    return known
