"""A process that runs a model: started, watched, logged, and ended with all that it started."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
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
"""How often its descendants are searched for: one that forks all the while can't outrun this forever."""


class Child:
    """A process in a session of its own; `exit_fd` is readable once it has ended, None if the system has none."""

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
        """Run a module, which gets a descriptor by `--fd`, and whose output is logged; raises OSError.

        It is forked by a server of its interpreter, or started by itself if there is none or it fails. `environment`
        has all of its variables; `folder` is its working directory; `python` its interpreter, by default this one.
        """
        self._lock = threading.Lock()
        read_end, write_end = os.pipe()
        try:
            self._process = _start(module, fd, write_end, environment, folder, log, python, server)
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self.pid = self._process.pid
        self.exit_fd: int | None = None
        output = os.fdopen(read_end, "rb")
        self._logger = threading.Thread(
            target=log_output, args=(output, log, "worker output"), name="worker-output", daemon=True
        )
        try:
            self.exit_fd = _open_exit_fd(self.pid)
            self._logger.start()
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
        """Wait `grace` seconds for its end, send SIGTERM, a second later SIGKILL; returns how: `killed by signal 9`."""
        if not has_ended(self.pid, grace):
            self._signal(signal.SIGTERM)
            has_ended(self.pid, 1.0)
        # What the model started ends with it. The process itself is not reaped yet, so its id is still its own.
        started = self._signal(signal.SIGKILL)
        # Without the lock: what hangs in the kernel ends when it likes.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            code = self._process.wait()
        reap_orphans(-self.pid, *started)
        # A process that the model started, and that got away, may hold the pipe forever.
        self._logger.join(1.0)
        if self.exit_fd is not None:
            os.close(self.exit_fd)
            self.exit_fd = None
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def _signal(self, number: signal.Signals) -> set[int]:
        """Signal the process, its group, and, if it is killed, its descendants in other groups; returns the latter."""
        seen: set[int] = set()
        for _ in range(_ROUNDS if number is signal.SIGKILL else 0):
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


def poller_of(*fds: int | None) -> select.poll:
    """Make what waits until one of the descriptors can be read or has ended."""
    poller = select.poll()
    for fd in fds:
        if fd is not None:
            poller.register(fd, select.POLLIN)
    return poller


def _start(
    module: str,
    fd: int,
    output: int,
    environment: Mapping[str, str],
    folder: Path,
    log: Any,
    python: Path | None,
    server: ForkServer | None,
) -> ForkedProcess | subprocess.Popen[bytes]:
    parent = ["--parent", str(os.getpid())]
    if server is not None:
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device
            fds = [nothing.fileno(), output, output, fd]
            try:
                return server.fork(f"{module}.__main__", parent, environment, folder, fds)
            except ForkFailed as exc:
                log.info("a worker is not forked but started by itself, which takes longer", why=str(exc))
    # -P: neither the working directory nor a script's folder is a place for modules. Python 3.10 has no such flag;
    # there -m adds the working directory, which is empty and the process's own.
    interpreter = [sys.executable, "-P"] if python is None else [str(python)]
    return subprocess.Popen(
        [*interpreter, "-m", module, *parent, "--fd", str(fd)],
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=dict(environment),
        cwd=folder,
        # Ctrl-C in a terminal goes to a whole session; how a worker ends is for the pool to decide.
        start_new_session=True,
    )


def _open_exit_fd(pid: int) -> int | None:
    """Open what is readable once a process has ended; None if the system has no such thing, or forbids it."""
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except OSError as exc:
        if exc.errno in (errno.ENOSYS, errno.EPERM):
            return None
        raise


def _descendants(pid: int) -> set[int]:
    """Return the processes that one has started, and they in turn; on Linux only."""
    found: set[int] = set()
    left = [pid]
    while left:
        for children in Path(f"/proc/{left.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError, ValueError):
                new = {int(child) for child in children.read_text().split()} - found
                found |= new
                left += new
    return found
