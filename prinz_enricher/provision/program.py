"""Runs a program to its end: in time, with what it says logged, and ended with all it started where nobody waits."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import structlog

from prinz_enricher.provision.errors import Cancelled
from prinz_enricher.provision.forks import ForkedProcess, ForkFailed, ForkServer, has_ended, reap_orphans
from prinz_enricher.registry import lifeline

_POLL_SECONDS = 0.05
_MOST_LINES = 200
"""Lines of one program's output that are logged; the rest is counted."""

_LONGEST_LINE = 8192
_MOST_BYTES = 1 << 20
"""Of what it writes to standard output, and of what it says, that are kept."""

_GRACE = 1.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class Ended:
    """How a program ended.

    Attributes:
        code: Its exit code; negative, or above 128, where a signal ended it.
        output: What it wrote to standard output, up to a megabyte.
        said: What it wrote to standard error, up to a megabyte; logged already.
        seconds: How long it took.
    """

    code: int = 0
    output: bytes = b""
    said: list[str] = field(default_factory=list)
    seconds: float = 0.0


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
) -> Ended:
    """Run a program in a session of its own, and wait for its end.

    Args:
        command: The program and its arguments.
        environment: All of its environment variables.
        folder: Its working directory.
        what: What it is, for the log.
        input: What it can read; its standard input ends with this process.
        tied: Whether it knows nothing of that, and is to be ended with this process by one that watches.
        server: Forks it, where it can, by its module: the command is this interpreter's `-P -m MODULE`, and more.
        timeout: Seconds that it may take.
        cancelled: Asked again and again; once it says so, the program is ended.
        mask: Takes out of a line what is not to be logged.

    Returns:
        How it ended, by whatever exit code.

    Raises:
        Cancelled: The caller cancelled.
        TimeoutError: It took too long.
        OSError: It can't be started.
    """
    if cancelled():
        raise Cancelled
    started = time.monotonic()
    watched = [sys.executable, "-P", "-S", lifeline.__file__, str(_GRACE), *command] if tied else command
    theirs, ours = _pipes()
    try:
        process = _forked(server, command, environment, folder, theirs) or subprocess.Popen(
            watched,
            stdin=theirs[0],
            stdout=theirs[1],
            stderr=theirs[2],
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )
    except BaseException:
        for stream in ours:
            stream.close()
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    stdin, stdout, stderr = ours
    ended = Ended()
    readers = [
        threading.Thread(target=_keep, args=(stdout, ended), name=f"{what}-output", daemon=True),
        threading.Thread(target=_tell, args=(stderr, ended, what, mask), name=f"{what}-log", daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        _write(stdin, input)
        while not has_ended(process.pid, _POLL_SECONDS):
            if cancelled():
                raise Cancelled
            if time.monotonic() - started > timeout:
                raise TimeoutError(f"{what} took longer than {timeout:g} s")
    finally:
        ended.code = _end(process, stdin, tied=tied)
        for reader in readers:
            # A process that left the group may hold the pipes for ever.
            reader.join(_GRACE)
    ended.seconds = time.monotonic() - started
    return ended


def _pipes() -> tuple[list[int], list[IO[bytes]]]:
    """Make pipes for a program: its standard input, output and error, and the other ends of them."""
    pipes = [os.pipe() for _ in range(3)]
    ours: list[IO[bytes]] = [os.fdopen(pipes[0][1], "wb"), *(os.fdopen(read, "rb") for read, _ in pipes[1:])]
    return [pipes[0][0], pipes[1][1], pipes[2][1]], ours


def _forked(
    server: ForkServer | None,
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    folder: Path,
    fds: Sequence[int],
) -> ForkedProcess | None:
    if server is None:
        return None
    _, _, _, module, *arguments = map(str, command)
    # Without it the program is started by itself.
    with contextlib.suppress(ForkFailed):
        return server.fork(module, arguments, environment, folder, fds)
    return None


def _write(stdin: IO[bytes], input: bytes) -> None:
    if input:
        # One that ended at once tells so by its exit code.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(input)
            stdin.flush()


def _end(process: subprocess.Popen[bytes] | ForkedProcess, stdin: IO[bytes], *, tied: bool) -> int:
    """End a process with its group, where it has not ended yet."""
    with contextlib.suppress(BrokenPipeError):
        stdin.close()
    if tied:
        # The watching one ends the program, whose group is another one, and then itself.
        has_ended(process.pid, 2 * _GRACE + 1.0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    reap_orphans(-process.pid)
    return code


def _keep(stream: IO[bytes], ended: Ended) -> None:
    with stream:
        while part := stream.read1(65536):  # type: ignore[attr-defined]  # it is a buffered reader
            ended.output += part[: _MOST_BYTES - len(ended.output)]


def _tell(stream: IO[bytes], ended: Ended, what: str, mask: Callable[[str], str]) -> None:
    """Log what a program says, line by line."""
    lines, kept = 0, 0
    with stream:
        while line := stream.readline(_LONGEST_LINE):
            text = mask(line.decode("utf-8", "replace").rstrip())
            if not text:
                continue
            lines += 1
            if lines <= _MOST_LINES:
                _log.info("program output", program=what, line=text)
            kept += len(line)
            if kept <= _MOST_BYTES:
                ended.said.append(text)
    if lines > _MOST_LINES:
        _log.warning("program output left out", program=what, lines=lines - _MOST_LINES)
