"""Starts processes by forking one that has imported what they need: the front's side of `worker.fork_server`."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from prinz_enricher.provision.memory import resident
from prinz_enricher.provision.output import log_output
from prinz_enricher.provision.private_folder import PrivateFolder
from prinz_enricher.worker.fork_server import UNFIT

_SET_CHILD_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER, prctl(2)."""

_ANSWER_SECONDS = 60.0
"""How long a process may be waited for: the server may be at an import, on a machine that is busy."""

_REAP_SECONDS = 1.0
_STOPPED_SECONDS = 0.5
"""How often is looked whether the server was stopped."""

_log = structlog.stdlib.get_logger(__name__)


class ForkFailed(Exception):
    """The server gave no process; the message says why. It can be started anew, or the process by itself."""


class ForkedProcess:
    """A child of this process as `subprocess.Popen` has it, though another one forked it.

    Attributes:
        pid: Its id.
        returncode: Its exit code, or the negative signal that ended it; None until it was waited for.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self) -> int:
        """Wait for its end, and reap it; gives its exit code."""
        if self.returncode is None:
            try:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:
                # Somebody else has reaped it.
                self.returncode = 0
        return self.returncode


def can_fork() -> bool:
    """Have orphans become children of this process; tells whether the system can do that (Linux)."""
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    return False


def has_ended(pid: int, seconds: float) -> bool:
    """Tell whether a process ends within some seconds; it is not reaped, so that its number stays its own."""
    limit = time.monotonic() + seconds
    pause = 0.001
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= limit:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    return True


def reap_orphans(*ids: int) -> None:
    """Reap what was killed and has lost its parent: its orphans become children of this process.

    Args:
        ids: Process ids; negative ones are of groups, as for `waitpid`.
    """
    end = time.monotonic() + _REAP_SECONDS
    for one in ids:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(one, os.WNOHANG)[0] or time.monotonic() < end:
                time.sleep(0.001)


class ForkServer:
    """A process that others are forked from; any thread may ask for them. It is started by `start` or `fork`."""

    def __init__(
        self,
        what: str,
        modules: Sequence[str],
        environment: Callable[[Path], Mapping[str, str]],
        *,
        python: Path | None = None,
        nice: int = 0,
        idle: float = 0.0,
    ) -> None:
        """Start nothing yet.

        Args:
            what: What it is, in a word of up to nine letters, for the log and `ps`.
            modules: What it imports, in this order; what can't be imported is left out.
            environment: Gives its environment variables for its temporary folder; none of them a secret.
            python: The interpreter; this one by default.
            nice: How much less than this process its imports are to get of a busy machine.
            idle: Seconds without use after which it ends; 0 for never.
        """
        self._what = what
        self._modules = list(modules)
        self._environment = environment
        self._python = python
        self._nice = nice
        self._idle = idle
        # Held while a process is waited for: answers carry no name of who asked.
        self._asking = threading.Lock()
        self._lock = threading.Lock()
        self._running: tuple[subprocess.Popen[bytes], socket.socket, PrivateFolder] | None = None
        self._kept = self._closed = self._unfit = False

    def start(self) -> None:
        """Start it where it does not run, and have it kept running.

        Raises:
            ForkFailed: It can't be used.
            OSError: It can't be started.
        """
        with self._lock:
            self._kept = True
            self._start()

    def expect(self, modules: Sequence[str]) -> None:
        """Have it import more."""
        with self._lock:
            new = [module for module in modules if module not in self._modules]
            self._modules += new
            if new and self._running is not None and self._running[0].stdin is not None:
                # One that has ended is started with them the next time.
                with contextlib.suppress(OSError):
                    self._running[0].stdin.write("".join(f"{module}\n" for module in new).encode())
                    self._running[0].stdin.flush()

    def fork(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        fds: Sequence[int],
    ) -> ForkedProcess:
        """Fork a process, in a session of its own, that runs the `main()` of a module.

        Args:
            module: Its name.
            arguments: Of its command line.
            environment: All of its environment variables.
            folder: Its working directory.
            fds: Its standard input, output and error; one more is told to it by `--fd`.

        Raises:
            ForkFailed: There is none.
        """
        request = {
            "module": module,
            "arguments": list(arguments),
            "environment": dict(environment),
            "folder": str(folder),
        }
        content = json.dumps(request).encode()
        with self._asking:
            with self._lock:
                try:
                    process, control = self._start()
                except OSError as exc:
                    raise ForkFailed(f"it can't be started: {exc.strerror}") from exc
            try:
                socket.send_fds(control, [struct.pack("=I", len(content))], list(fds))
                control.sendall(content)
                return ForkedProcess(_answer(process.pid, control))
            except (OSError, ForkFailed) as exc:
                # Whoever it forks after that finds nobody at the other end of its socket.
                with self._lock:
                    # By now it may be another one.
                    if self._running is not None and self._running[0] is process:
                        self._end()
                raise ForkFailed(str(exc)) from exc

    def tend(self, most_bytes: int) -> None:
        """Start it anew where it has ended, was stopped, or holds more memory than it may; never blocks for long."""
        with self._lock:
            if self._unfit or not (self._kept or self._running):
                return
            pid = self._running[0].pid if self._running is not None else 0
            why = "has ended" if not pid or self._has_ended() else "is stopped" if _is_stopped(pid) else ""
            if not why and resident(pid) > most_bytes:
                why = f"holds more than {most_bytes} bytes of memory"
            if not why:
                return
            self._end()
            if self._kept and not self._unfit:
                _log.warning("the process that others are forked from is started anew", what=self._what, why=why)
                with contextlib.suppress(OSError, ForkFailed):
                    self._start()

    def memory(self) -> int:
        """Tell the bytes of memory that it holds, most of which its forks share."""
        running = self._running
        return resident(running[0].pid) if running is not None else 0

    def end(self) -> None:
        """End it, until it is needed again."""
        with self._lock:
            self._kept = False
            self._end()

    def close(self) -> None:
        """End it for good; what it forked goes on."""
        with self._lock:
            self._closed, self._kept = True, False
            self._end()

    def __del__(self) -> None:
        """End it where nobody can ask for anything any more."""
        self.close()

    # With the lock held.

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self._running is not None and self._has_ended():
            self._end()
        if self._closed or self._unfit:
            raise ForkFailed("it is closed" if self._closed else "what it imports does not bear a fork")
        if self._running is None:
            folder = PrivateFolder()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.settimeout(_ANSWER_SECONDS)
            flags = ("-P",) if self._python is None else ()
            try:
                process = subprocess.Popen(
                    [
                        *(str(self._python or sys.executable), *flags, "-m", "prinz_enricher.worker.fork_server"),
                        *("--name", self._what, "--fd", str(theirs.fileno())),
                        *("--nice", str(self._nice), "--idle", str(self._idle)),
                        *self._modules,
                    ],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=dict(self._environment(folder.path)),
                    cwd=folder.path,
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                folder.remove()
                raise
            finally:
                theirs.close()
            log = _log.bind(program=self._what)
            threading.Thread(target=log_output, args=(process.stdout, log), daemon=True).start()
            self._running = process, ours, folder
        return self._running[0], self._running[1]

    def _has_ended(self) -> bool:
        return self._running is not None and self._running[0].poll() is not None

    def _end(self) -> None:
        if self._running is None:
            return
        process, control, folder = self._running
        self._running = None
        control.close()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        process.kill()
        self._unfit = process.wait() == UNFIT or self._unfit
        folder.remove()


def _answer(server: int, control: socket.socket) -> int:
    """Receive the id of a process that was asked for."""
    end = time.monotonic() + _ANSWER_SECONDS
    poller = select.poll()
    poller.register(control, select.POLLIN)
    while not poller.poll(_STOPPED_SECONDS * 1000):
        if _is_stopped(server):
            raise ForkFailed("it is stopped")
        if time.monotonic() >= end:
            raise ForkFailed(f"it gave no answer within {_ANSWER_SECONDS:g} s")
    answer = control.recv(4)
    if len(answer) < 4:
        raise ForkFailed("it has ended")
    pid: int = struct.unpack("=I", answer)[0]
    return pid


def _is_stopped(pid: int) -> bool:
    """Tell whether a process was stopped by a signal, and will not go on by itself."""
    with contextlib.suppress(OSError):
        # The state is the first field behind the name, which may hold anything.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    return False
