"""A process that runs a model: spawned, watched, listened to, and ended with all that it started."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prinz_enricher.provision.child_process import (
    ForkedProcess,
    ForkFailed,
    ForkServer,
    has_ended,
    log_output,
    reap_orphans,
)

_ROUNDS = 8
"""How often its descendants are looked for: one that forks all the while can't outrun this for ever."""


class Child:
    """A process in a session of its own.

    Attributes:
        pid: Its id.
        exit_fd: Readable once it has ended; None where the system has no such descriptors.
    """

    def __init__(
        self,
        module: str,
        fd: int,
        *,
        environment: Mapping[str, str],
        folder: Path,
        log: Any,
        python: Path | None = None,
        server: ForkServer | None = None,
    ) -> None:
        """Start it: forked by a server, or by itself where there is none, or it fails.

        Args:
            module: What it runs.
            fd: A descriptor that it is given by `--fd`.
            environment: All of its environment variables.
            folder: Its working directory.
            log: Where the lines go that it prints.
            python: Its interpreter; this one by default.
            server: Of that interpreter.

        Raises:
            OSError: It can't be started.
        """
        self._lock = threading.Lock()
        read_end, write_end = os.pipe()
        try:
            self._process = _forked(server, module, [fd, write_end], environment, folder, log) or _spawned(
                python, module, [fd, write_end], environment, folder
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self.pid = self._process.pid
        self.exit_fd: int | None = None
        output = os.fdopen(read_end, "rb")
        self._printed = threading.Thread(
            target=log_output, args=(output, log, "worker output"), name="worker-output", daemon=True
        )
        try:
            self.exit_fd = _exit_descriptor(self.pid)
            self._printed.start()
        except BaseException:
            # Without descriptors or threads left it can't be looked after.
            self._signal(signal.SIGKILL)
            self._process.wait()
            output.close()
            if self.exit_fd is not None:
                os.close(self.exit_fd)
            raise

    def kill(self) -> None:
        """End it, and what it started; from any thread, whatever locks it holds: another one looks through /proc."""
        try:
            threading.Thread(target=self._kill, name="worker-kill", daemon=True).start()
        except RuntimeError:
            # No thread can be started.
            self._kill()

    def _kill(self) -> None:
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
        started = self._signal(signal.SIGKILL)
        # Without the lock: what hangs in the kernel ends when it likes.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            code = self._process.wait()
        reap_orphans(-self.pid, *started)
        # A process that the model started, and that got away, may hold the pipe for ever.
        self._printed.join(1.0)
        if self.exit_fd is not None:
            os.close(self.exit_fd)
            self.exit_fd = None
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def _exits_within(self, seconds: float) -> bool:
        return has_ended(self.pid, seconds) if self.exit_fd is None else bool(poll([self.exit_fd], seconds))

    def _signal(self, number: signal.Signals) -> set[int]:
        """Signal the process, its group, and what it started in groups of their own; gives the latter."""
        seen: set[int] = set()
        if number is signal.SIGKILL:
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
        return seen


def _forked(
    server: ForkServer | None, module: str, fds: list[int], environment: Mapping[str, str], folder: Path, log: Any
) -> ForkedProcess | None:
    if server is None:
        return None
    fd, output = fds
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device
        given = [nothing.fileno(), output, output, fd]
        try:
            return server.fork(f"{module}.__main__", ["--parent", str(os.getpid())], environment, folder, given)
        except ForkFailed as exc:
            log.info("a worker is not forked but started by itself, which takes longer", why=str(exc))
    return None


def _spawned(
    python: Path | None, module: str, fds: list[int], environment: Mapping[str, str], folder: Path
) -> subprocess.Popen[bytes]:
    fd, output = fds
    # -P: neither the working directory nor a script's folder is a place for modules. Python 3.10 has no such flag;
    # there -m adds the working directory, which is empty and the process's own.
    flags = ("-P",) if python is None else ()
    return subprocess.Popen(
        [
            *(str(python or sys.executable), *flags, "-m", module),
            *("--parent", str(os.getpid()), "--fd", str(fd)),
        ],
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=dict(environment),
        cwd=folder,
        # Ctrl-C in a terminal goes to a whole session; how a worker ends is the pool's to say.
        start_new_session=True,
    )


def _exit_descriptor(pid: int) -> int | None:
    """Return what is readable once a process has ended; None where the system has no such thing, or forbids it."""
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except OSError as exc:
        if exc.errno in (errno.ENOSYS, errno.EPERM):
            return None
        raise


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
