"""A process that runs a model: spawned, watched, listened to, and ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

_MOST_LINES = 200
"""Lines of a process's output that are logged in a second; the rest is counted."""

_LONGEST_LINE = 8192
"""Bytes of its output that are logged as one line."""

_ROUNDS = 8
"""How often its descendants are looked for: one that forks all the while can't outrun this for ever."""


class Child:
    """A process in a session of its own.

    Attributes:
        pid: Its id.
        exit_fd: Readable once it has ended; None where the system has no such descriptors.
    """

    def __init__(
        self, command: list[str], *, environment: Mapping[str, str], folder: Path, pass_fds: Iterable[int], log: Any
    ) -> None:
        """Spawn it.

        Args:
            command: The program and its arguments.
            environment: All of its environment variables.
            folder: Its working directory.
            pass_fds: Descriptors that it inherits, besides one to print to.
            log: Where the lines go that it prints.

        Raises:
            OSError: It can't be spawned.
        """
        self._log = log
        self._lock = threading.Lock()
        read_end, write_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=tuple(pass_fds),
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                env=dict(environment),
                cwd=folder,
                # Ctrl-C in a terminal goes to a whole session; how a worker ends is the pool's to say.
                start_new_session=True,
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self.pid = self._process.pid
        self.exit_fd = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None
        self._printed = threading.Thread(
            target=self._log_output, args=(os.fdopen(read_end, "rb"),), name="worker-output", daemon=True
        )
        self._printed.start()

    def kill(self) -> None:
        """End it, and what it started, at once; from any thread."""
        with self._lock:
            if self._process.returncode is None:
                self._signal(signal.SIGKILL)

    def end(self, grace: float) -> str:
        """Wait for its end, help it along, and let go of it.

        Args:
            grace: Seconds that it gets, before it is sent SIGTERM, and a second later SIGKILL.

        Returns:
            How it ended: `exit code 3`, `killed by signal 9`.
        """
        if not self._exits_within(grace):
            self._signal(signal.SIGTERM)
            self._exits_within(1.0)
        # What the model started ends with it. The process itself is not reaped yet, so its id is still its own.
        self._signal(signal.SIGKILL)
        with self._lock:
            code = self._process.wait()
        # A process that the model started, and that got away, may hold the pipe for ever.
        self._printed.join(1.0)
        if self.exit_fd is not None:
            os.close(self.exit_fd)
            self.exit_fd = None
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def _exits_within(self, seconds: float) -> bool:
        if self.exit_fd is not None:
            return bool(poll([self.exit_fd], seconds))
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        """Signal the process, its group, and what it started in groups of their own."""
        if number is signal.SIGKILL:
            seen: set[int] = set()
            for _ in range(_ROUNDS):
                new = _descendants(self.pid) - seen
                if not new:
                    break
                for pid in new:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
                seen |= new
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _log_output(self, stream: IO[bytes]) -> None:
        """Pass on what the process prints, line by line."""
        second, lines = 0, 0
        with stream:
            while line := stream.readline(_LONGEST_LINE):
                now = int(time.monotonic())
                if now != second:
                    if lines > _MOST_LINES:
                        self._log.warning("worker output left out", lines=lines - _MOST_LINES)
                    second, lines = now, 0
                text = line.decode("utf-8", "replace").rstrip()
                lines += 1
                # A model that prints for each row must not fill the disk that the logs are on.
                if text and lines <= _MOST_LINES:
                    self._log.info("worker output", line=text)


def poll(fds: Iterable[int], seconds: float | None) -> set[int]:
    """Wait until one of the descriptors can be read or has ended; gives those that can."""
    return {fd for fd, _ in poller_of(fds).poll(None if seconds is None else seconds * 1000)}


def poller_of(fds: Iterable[int]) -> select.poll:
    """Make what waits until one of the descriptors can be read or has ended."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return poller


def _descendants(pid: int) -> set[int]:
    """Tell the processes that one has started, and they in turn; those of Linux only."""
    found: set[int] = set()
    left = [pid]
    while left:
        for children in Path(f"/proc/{left.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError, ValueError):
                new = {int(child) for child in children.read_text().split()} - found
                found |= new
                left += new
    return found
