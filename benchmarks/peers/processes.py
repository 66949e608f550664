"""Servers as processes: on the cores they are given, measured as a whole, and gone afterwards whatever happened."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

STOP_SECONDS = 20.0

_TICKS = os.sysconf("SC_CLK_TCK")
# In the environment of a server and of all that it starts.
_MARK = "PRINZ_BENCH_SERVER"


class NotStarted(Exception):
    """A server did not come up; the message says why."""


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Give all processes that are started within the block these cores, and no others."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server with all the processes that it starts, from `with` to its end.

    Args:
        command: What to run.
        cores: Where it and its children may run.
        variables: Environment variables besides those of this process.
        folder: Its working directory.
        input_ends_it: Whether the end of its standard input asks it to stop; SIGTERM does otherwise.
    """

    def __init__(
        self,
        command: Sequence[str],
        cores: set[int],
        *,
        variables: Mapping[str, str] | None = None,
        folder: Path | None = None,
        input_ends_it: bool = False,
    ) -> None:
        self._command = command
        self._cores = cores
        self._variables = variables or {}
        self._folder = folder
        self._input_ends_it = input_ends_it
        self._mark = secrets.token_hex(8)
        self._log = Path(tempfile.mkstemp(prefix="prinz-peer-", suffix=".log")[1])

    def __enter__(self) -> Self:
        with self._log.open("wb") as log, pinned(self._cores):
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | dict(self._variables) | {_MARK: self._mark},
                    cwd=self._folder,
                    start_new_session=True,
                )
            except OSError as error:
                self._log.unlink()
                raise NotStarted(f"it can't be started: {error}") from error
        self.pid = self._process.pid
        return self

    def __exit__(self, *_: object) -> None:
        family = {pid: born(pid) for pid in self.family()}
        try:
            assert self._process.stdin is not None  # noqa: S101 - it is a pipe
            self._process.stdin.close()
            if not self._input_ends_it:
                self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=STOP_SECONDS)
        finally:
            self._end(family)
            self._log.unlink(missing_ok=True)

    @property
    def runs(self) -> bool:
        """Whether its first process is still there."""
        return self._process.poll() is None

    def last_words(self) -> str:
        """Return the end of its log, in one line."""
        return " ".join(self._log.read_text(errors="replace").split())[-500:]

    def family(self) -> list[int]:
        """Return the ids of its processes: all that it has started, and those that left their parents since.

        The latter are known by their session, or by the mark in their environment: some change the one and some, by
        giving themselves a title, the other.
        """
        mark = f"{_MARK}={self._mark}".encode()
        everybody = _everybody()
        known = {pid for pid in everybody if mark in _environment(pid)}
        # Once it has ended, its id may be another's; not that of its session, while anybody is in it.
        if self.runs:
            known |= {self.pid, *tree(self.pid)}
        sessions = {_session(pid) for pid in known} & known | {self.pid}
        return sorted(known | {pid for pid in everybody if _session(pid) in sessions})

    def memory_mb(self) -> float:
        """Return the memory of all its processes: pages that several share count once (PSS)."""
        kilobytes = 0
        for pid in self.family():
            # A process may end meanwhile.
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        kilobytes += int(line.split()[1])
        return kilobytes / 1024

    def _end(self, family: Mapping[int, str]) -> None:
        """End what is left, by its ids: what was of the family before it was asked to stop, and what is now."""
        limit = time.monotonic() + STOP_SECONDS
        while time.monotonic() < limit:
            self._process.poll()
            left = {pid for pid, since in family.items() if since and born(pid) == since} | set(self.family())
            left = {pid for pid in left if born(pid)}
            if not left:
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self._process.wait()


def tree(pid: int) -> list[int]:
    """Return the ids of a process's descendants; not its own."""
    children: dict[int, list[int]] = {}
    for one in _everybody():
        if fields := _stat(one):
            children.setdefault(int(fields[1]), []).append(one)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        next_ones = children.get(waiting.pop(), [])
        found += next_ones
        waiting += next_ones
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of one process so far, without its children's; of an ended one, 0."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def _everybody() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, the state first; none where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def born(pid: int) -> str:
    """Return when a process began, which tells it from a later one of the same id; empty where it has ended."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else ""


def _session(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[3]) if fields else 0


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
