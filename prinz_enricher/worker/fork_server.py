"""`python -P -m prinz_enricher.worker.fork_server`: imports once what many processes need, and forks each from that.

A fork shares all that is imported and takes milliseconds; starting Python and importing MLflow takes seconds. Neither
code of a model runs here, nor are requests read here: the process in between reads one, so that neither a model's data
nor credentials are in the memory that the next fork copies.

    standard input     lines with the names of modules to import
    --fd, a socket     requests: 4 bytes with the length of a JSON object, with descriptors, and the object: `module`,
                       whose `main()` is run; `arguments`; `environment`; `folder`. The descriptors become standard
                       input, output and error; a fourth one is passed to the module by `--fd`. The answer is the
                       process id in 4 bytes, once the process is a child of the one that asked, which must be a
                       subreaper (PR_SET_CHILD_SUBREAPER, prctl(2)).

It ends with the socket, or when there was no request for `--idle` seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import deque
from pathlib import Path
from typing import Any, NoReturn

from .startup import prepare_imports

# The exit code where what was imported runs threads: what they hold at a fork, such as a lock, is lost to the fork.
UNFIT = 3
# Threads, by the kernel's names of them, that hold nothing: the one of polars waits for files to remove.
_HARMLESS = {"polars-ooc-clea"}
# A descriptor above those that a process begins with.
_HIGH = 100
_LONGEST_REQUEST = 8 << 20
_END_SECONDS = 10.0


class _Server:
    def __init__(self, control: socket.socket, modules: list[str], *, nice: int, idle: float) -> None:
        self._control = control
        self._waiting = deque(modules)
        self._nice, self._idle = nice, idle
        self._poller = select.poll()
        self._poller.register(control, select.POLLIN)
        self._poller.register(0, select.POLLIN)
        self._rest = b""

    def serve(self) -> int:
        """Serve until the other side has gone; return the exit code."""
        # A fork before that would import all of it by itself, and so would each of ten that are wanted at once.
        while self._waiting:
            waited_for = bool(self._poller.poll(0))
            self._import(self._waiting.popleft(), 0 if waited_for else self._nice)
        if not _is_forkable():
            return UNFIT
        while True:
            pause = 0.0 if self._waiting else self._idle * 1000 or None
            ready = dict(self._poller.poll(pause))
            if 0 in ready:
                self._read_modules()
            # A request for a process goes before imports for later ones.
            if asked := ready.get(self._control.fileno()):
                if asked & select.POLLHUP or not self._fork():
                    return 0
            elif self._waiting:
                self._import(self._waiting.popleft(), self._nice)
                if not self._waiting and not _is_forkable():
                    return UNFIT
            elif not ready:
                return 0

    def _read_modules(self) -> None:
        read = os.read(0, 65536)
        if not read:
            self._poller.unregister(0)
        *lines, self._rest = (self._rest + read).split(b"\n")
        self._waiting += [line.decode() for line in lines if line]

    def _import(self, module: str, nice: int) -> None:
        """Import a module, in a thread that has ended before the next fork: niceness is a thread's, and forever."""

        def run() -> None:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + nice)
            # Whoever needs it will raise what is wrong with it.
            with contextlib.suppress(BaseException):
                importlib.import_module(module)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        # For the kernel it ends a little later, and until then `_is_forkable` would count it.
        task, end = Path(f"/proc/self/task/{thread.native_id}"), time.monotonic() + _END_SECONDS
        while task.exists() and time.monotonic() < end:
            time.sleep(0.0001)

    def _fork(self) -> bool:
        """Fork a process that forks the requested one, and ends; return whether there was a request."""
        between = _forked()
        if between:
            return os.waitpid(between, 0)[1] == 0
        code, between = 1, os.getpid()
        try:
            request = _receive(self._control)
            if request is not None and not _forked():
                _become(*request, self._control, between)
            code = 0 if request is not None else 1
        except BaseException:  # noqa: BLE001 - nothing of this may go on as a server
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)


def _forked() -> int:
    """Fork; return the process id, and 0 in the new process."""
    with warnings.catch_warnings():
        # About threads, which `_is_forkable` has checked.
        warnings.simplefilter("ignore")
        return os.fork()


def _is_forkable() -> bool:
    """Freeze what is imported, to be shared, and return whether no thread runs that would be lost in a fork."""
    gc.collect()
    gc.freeze()
    # OpenBLAS ends its threads before a fork, and starts others when next it needs them.
    child = _forked()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    if not sys.platform.startswith("linux"):
        return True
    names = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            if int(task.name) != os.getpid():
                names.add((task / "comm").read_text().strip())
    if names - _HARMLESS:
        print(f"what was imported runs threads: {', '.join(sorted(names))}", file=sys.stderr, flush=True)  # noqa: T201 - it is logged
    return not names - _HARMLESS


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Receive a request with its descriptors; None where the other side has gone."""
    head, fds, _, _ = socket.recv_fds(control, 4, 16)
    if len(head) < 4:
        return None
    (length,) = struct.unpack("=I", head)
    content = bytearray()
    while len(content) < min(length, _LONGEST_REQUEST):
        part = control.recv(length - len(content))
        if not part:
            return None
        content += part
    return json.loads(content), fds


def _become(request: dict[str, Any], fds: list[int], control: socket.socket, between: int) -> NoReturn:
    """Be the requested process, once the one in between has ended and this one is a child of the one that asked."""
    code = 1
    try:
        os.setsid()
        _make_standard(fds[:3])
        _set_name(f"prinz-{request['module'].removesuffix('.__main__').rpartition('.')[2]}")
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        # What was drawn, and found in the environment, before the fork would be the same in each of them.
        tempfile.tempdir = None
        if (numpy := sys.modules.get("numpy")) is not None:
            numpy.random.seed()
        arguments = [*request["arguments"], *(("--fd", str(fds[3])) if len(fds) > 3 else ())]
        sys.argv = [request["module"], *arguments]
        while os.getppid() == between:
            time.sleep(0.0005)
        control.sendall(struct.pack("=I", os.getpid()))
        control.close()
        code = importlib.import_module(request["module"]).main() or 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    except BaseException:  # noqa: BLE001 - printed as for any process
        traceback.print_exc()
    # The module may have started threads that never end.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _set_name(name: str) -> None:
    # The one that `ps` shows: the command line stays that of the server.
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _make_standard(fds: list[int]) -> None:
    """Make descriptors standard input, output and error."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for fd in fds]
    for number, (fd, copy) in enumerate(zip(fds, high, strict=True)):
        os.close(fd)
        os.dup2(copy, number, inheritable=True)
        os.close(copy)


def main() -> NoReturn:
    """Run the server."""
    parser = argparse.ArgumentParser(prog="prinz_enricher.worker.fork_server", description="Forks processes.")
    parser.add_argument("--fd", type=int, required=True, help="the socket that requests come over")
    parser.add_argument("--name", default="fork", help="the name that `ps` shows, after `prinz-`")
    parser.add_argument("--nice", type=int, default=0, help="the niceness of imports")
    parser.add_argument("--idle", type=float, default=0.0, help="seconds without a request to end after; 0 for never")
    parser.add_argument("modules", nargs="*", help="what is imported at the start")
    arguments = parser.parse_args()
    prepare_imports()
    _set_name(f"prinz-{arguments.name}")
    control = socket.socket(fileno=arguments.fd)
    control.set_inheritable(False)
    code = _Server(control, arguments.modules, nice=arguments.nice, idle=arguments.idle).serve()
    # At once: whoever sees the end of the socket must find this code.
    os._exit(code)


if __name__ == "__main__":
    main()
