"""Child processes: programs run to their end, processes forked by a server that has imported their modules, and logs.

`ForkServer` is the client of `prinz_enricher.worker.fork_server`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import structlog

from prinz_enricher.provision.file_lock import PrivateFolder
from prinz_enricher.provision.memory import resident
from prinz_enricher.provision.provision_errors import Cancelled
from prinz_enricher.registry import orphan_watchdog
from prinz_enricher.worker.fork_server import UNFIT

_MAX_LINES = 200
_MAX_LINE_BYTES = 8192
_MAX_KEPT_BYTES = 1 << 20

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 1.0
_REAP_SECONDS = 1.0

# The server may be at an import, on a machine that is busy.
_FORK_SECONDS = 60.0
_STOPPED_SECONDS = 0.5
_PR_SET_CHILD_SUBREAPER = 36

_log = structlog.stdlib.get_logger(__name__)


def log_output(
    stream: IO[bytes],
    log: Any,
    event: str = "program output",
    *,
    period: float = 1.0,
    mask: Callable[[str], str] = str,
    kept: list[str] | None = None,
) -> None:
    """Log what a process prints to a stream until it closes it: at most 200 lines in `period` seconds.

    Each line is masked first; `kept` gets them, too, up to a megabyte.
    """
    start, lines, size = time.monotonic(), 0, 0

    def log_excess() -> None:
        if lines > _MAX_LINES:
            log.warning("output left out", of=event, lines=lines - _MAX_LINES)

    with stream:
        while line := stream.readline(_MAX_LINE_BYTES):
            if not (text := mask(line.decode("utf-8", "replace").rstrip())):
                continue
            if time.monotonic() - start >= period:
                log_excess()
                start, lines = time.monotonic(), 0
            lines += 1
            # A model that prints for each row must not fill the disk that the logs are on.
            if lines <= _MAX_LINES:
                log.info(event, line=text)
            size += len(line)
            if kept is not None and size <= _MAX_KEPT_BYTES:
                kept.append(text)
    log_excess()


def has_ended(pid: int, seconds: float) -> bool:
    """Return whether a child ends within some seconds; it is not reaped, so that its id stays its own."""
    limit = time.monotonic() + seconds
    pause = 0.001
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= limit:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    return True


def reap_orphans(*ids: int) -> None:
    """Reap killed processes that became children of this one; negative ids are of groups, as for waitpid(2)."""
    end = time.monotonic() + _REAP_SECONDS
    for one in ids:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(one, os.WNOHANG)[0] or time.monotonic() < end:
                time.sleep(0.001)


def can_fork() -> bool:
    """Make orphans children of this process; returns whether the system can do that (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        if sys.platform.startswith("linux"):
            return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    return False


class ForkFailed(Exception):
    """The server forked no process; it can be started anew, or the process without it."""


class ForkedProcess:
    """A child of this process as `subprocess.Popen` has it, though another one forked it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self) -> int:
        """Wait for its end and reap it; returns its exit code, or the negative signal that ended it."""
        if self.returncode is None:
            try:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:
                # Somebody else has reaped it.
                self.returncode = 0
        return self.returncode


class ForkServer:
    """A process that others are forked from; any thread may fork. It is started by `start` or `fork`.

    Args:
        what: Its name for the log and `ps`, of up to nine letters.
        modules: What it imports, in this order; modules that can't be imported are skipped.
        environment: Returns its environment variables for its temporary folder; none of them a secret.
        python: The interpreter; this one by default.
        nice: Niceness of its imports, relative to this process.
        idle: Seconds without use after which it ends; 0 for never.
    """

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
        self._what = what
        self._modules = list(modules)
        self._environment = environment
        self._python = python
        self._nice = nice
        self._idle = idle
        # Held while a process is waited for: answers do not say whose they are.
        self._forking = threading.Lock()
        self._lock = threading.Lock()
        self._running: tuple[subprocess.Popen[bytes], socket.socket, PrivateFolder] | None = None
        self._kept = self._closed = self._unfit = False

    def start(self) -> None:
        """Start it where it does not run, and keep it running; raises ForkFailed or OSError."""
        with self._lock:
            self._kept = True
            self._start()

    def preload(self, modules: Sequence[str]) -> None:
        """Have it import more modules."""
        with self._lock:
            new = [module for module in modules if module not in self._modules]
            self._modules += new
            if new and self._running is not None and self._running[0].stdin is not None:
                # One that has ended is started with them the next time.
                with contextlib.suppress(OSError):
                    self._running[0].stdin.write("".join(f"{module}\n" for module in new).encode())
                    self._running[0].stdin.flush()

    def fork(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, fds: Sequence[int]
    ) -> ForkedProcess:
        """Fork a process, in a session of its own, that runs the `main()` of a module; raises ForkFailed.

        `environment` has all of its variables; `fds` become its standard input, output and error, and one more is
        passed on by `--fd`.
        """
        request = {"arguments": list(arguments), "environment": dict(environment), "folder": str(folder)}
        content = json.dumps({"module": module, **request}).encode()
        with self._forking:
            with self._lock:
                try:
                    process, control = self._start()
                except OSError as exc:
                    raise ForkFailed(f"it can't be started: {exc.strerror}") from exc
            try:
                socket.send_fds(control, [struct.pack("=I", len(content))], list(fds))
                control.sendall(content)
                return ForkedProcess(_receive_pid(process.pid, control))
            except (OSError, ForkFailed) as exc:
                # What it may still fork finds nobody at the other end of its socket.
                with self._lock:
                    # By now it may be another one.
                    if self._running is not None and self._running[0] is process:
                        self._stop()
                    # Where other processes need all processors, the next one would not come to an end either.
                    self._nice = 0
                raise ForkFailed(str(exc)) from exc

    def restart_if_needed(self, max_bytes: int) -> None:
        """Restart it where it has ended, was stopped, or holds more memory than it may; never blocks for long."""
        with self._lock:
            if self._unfit or not (self._kept or self._running):
                return
            process = None if self._running is None else self._running[0]
            if process is None or process.poll() is not None:
                why = "has ended"
            elif _is_stopped(process.pid):
                why = "is stopped"
            elif resident(process.pid) > max_bytes:
                why = f"holds more than {max_bytes} bytes of memory"
            else:
                return
            self._stop()
            if self._kept and not self._unfit:
                _log.warning("the process that others are forked from is started anew", what=self._what, why=why)
                with contextlib.suppress(OSError, ForkFailed):
                    self._start()

    def memory(self) -> int:
        """Return the bytes of memory that it holds, most of which its forks share."""
        running = self._running
        return resident(running[0].pid) if running is not None else 0

    def stop(self) -> None:
        """Stop it until it is needed again."""
        with self._lock:
            self._kept = False
            self._stop()

    def close(self) -> None:
        """Stop it for good; what it forked goes on."""
        with self._lock:
            self._closed, self._kept = True, False
            self._stop()

    def __del__(self) -> None:
        self.close()

    # With the lock held.

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self._running is not None and self._running[0].poll() is not None:
            self._stop()
        if self._closed or self._unfit:
            raise ForkFailed(
                "it is closed" if self._closed else "what it imports runs threads, which a fork would lose"
            )
        if self._running is None:
            folder = PrivateFolder()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.settimeout(_FORK_SECONDS)
            command = [str(self._python)] if self._python is not None else [sys.executable, "-P"]
            command += ["-m", "prinz_enricher.worker.fork_server", "--name", self._what, "--fd", str(theirs.fileno())]
            command += ["--nice", str(self._nice), "--idle", str(self._idle), *self._modules]
            try:
                process = subprocess.Popen(
                    command,
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

    def _stop(self) -> None:
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


def _receive_pid(server: int, control: socket.socket) -> int:
    end = time.monotonic() + _FORK_SECONDS
    poller = select.poll()
    poller.register(control, select.POLLIN)
    while not poller.poll(_STOPPED_SECONDS * 1000):
        if _is_stopped(server):
            raise ForkFailed("it is stopped")
        if time.monotonic() >= end:
            raise ForkFailed(f"it gave no answer within {_FORK_SECONDS:g} s")
    answer = control.recv(4)
    if len(answer) < 4:
        raise ForkFailed("it has ended")
    return int(struct.unpack("=I", answer)[0])


def _is_stopped(pid: int) -> bool:
    """Return whether a process was stopped by a signal, and will not go on by itself."""
    with contextlib.suppress(OSError):
        # The state is the first field behind the name, which may hold anything.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    return False


@dataclass(slots=True)
class ProgramResult:
    """How a program ended; a `code` that is negative, or above 128, is of a signal. `errors` are logged already."""

    code: int = 0
    output: bytes = b""
    errors: list[str] = field(default_factory=list)


def run_program(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    folder: Path,
    *,
    what: str,
    input: bytes = b"",
    tied: bool = False,
    server: ForkServer | None = None,
    timeout: float,
    cancelled: Callable[[], bool],
    mask: Callable[[str], str] = str,
) -> ProgramResult:
    """Run a program in a session of its own until it ends, by whatever exit code, and with it what it started.

    Args:
        command: The program and its arguments.
        environment: All of its environment variables.
        folder: Its working directory.
        what: Its name for the log.
        input: Its standard input, which stays open while it runs and closes when this process ends.
        tied: Whether another process is to kill it then, since the program does not watch its input.
        server: Forks it if possible; the command is then this interpreter's `-P -m MODULE`, and arguments.
        timeout: Seconds that it may take.
        cancelled: Polled; the program is killed when it returns true.
        mask: Takes out of a line what is not to be logged.

    Raises:
        Cancelled: The caller cancelled.
        TimeoutError: It took too long.
        OSError: It can't be started.
    """
    if cancelled():
        raise Cancelled
    end = time.monotonic() + timeout
    process: ForkedProcess | subprocess.Popen[bytes] | None = None
    watched = [sys.executable, "-P", "-S", orphan_watchdog.__file__, str(_GRACE_SECONDS), *command] if tied else command
    pipes = [os.pipe() for _ in range(3)]
    theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
    stdin, stdout, stderr = os.fdopen(pipes[0][1], "wb"), *(os.fdopen(read, "rb") for read, _ in pipes[1:])
    try:
        # Where it can't be forked, it is started by itself.
        with contextlib.suppress(ForkFailed):
            if server is not None:
                _, _, _, module, *arguments = map(str, command)
                process = server.fork(module, arguments, environment, folder, theirs)
        process = process or subprocess.Popen(
            watched,
            stdin=theirs[0],
            stdout=theirs[1],
            stderr=theirs[2],
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )
    except BaseException:
        for stream in (stdin, stdout, stderr):
            stream.close()
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    result = ProgramResult()
    log = partial(log_output, stderr, _log.bind(program=what), period=float("inf"), mask=mask, kept=result.errors)
    readers = [
        threading.Thread(target=_keep, args=(stdout, result), name=f"{what}-output", daemon=True),
        threading.Thread(target=log, name=f"{what}-log", daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        # A program that ended at once is known by its exit code.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(input)
            stdin.flush()
        while not has_ended(process.pid, _POLL_SECONDS):
            if cancelled():
                raise Cancelled
            if time.monotonic() > end:
                raise TimeoutError(f"{what} took longer than {timeout:g} s")
    finally:
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        result.code = _end(process, tied=tied)
        for reader in readers:
            # A process that left the group may hold the pipes forever.
            reader.join(_GRACE_SECONDS)
    return result


def _end(process: subprocess.Popen[bytes] | ForkedProcess, *, tied: bool) -> int:
    """Kill a process with its group where it has not ended yet; returns its exit code."""
    if tied:
        # The watching process ends the program, whose group is another one, and then itself.
        has_ended(process.pid, 2 * _GRACE_SECONDS + 1.0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    reap_orphans(-process.pid)
    return code


def _keep(stream: IO[bytes], result: ProgramResult) -> None:
    with stream:
        while part := stream.read1(65536):  # type: ignore[attr-defined]  # it is a buffered reader
            result.output += part[: _MAX_KEPT_BYTES - len(result.output)]
