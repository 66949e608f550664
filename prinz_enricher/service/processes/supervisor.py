"""The front processes of a service: started, listened to, started again, drained and ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase

import structlog

from prinz_enricher.provision.variables import SYSTEM
from prinz_enricher.scoring import WorkerPool
from prinz_enricher.service.processes.frames import Frame, FrameReader, Kind
from prinz_enricher.service.processes.hub import Hub
from prinz_enricher.service.processes.pool_server import PoolServer
from prinz_enricher.service.processes.sender import Sender
from prinz_enricher.worker.frames import FrameError

log = structlog.stdlib.get_logger(__name__)

PROGRAM = "prinz_enricher.cli.front_process"
"""The module that is run; by its name, for the command line is above the service."""

FIRST_PAUSE = 0.5
MOST_PAUSE = 30.0
"""Seconds before a process that ended is started again; twice as long each time."""

STEADY_SECONDS = 60.0
"""How long a process has run whose end is not counted with those before."""

PATIENCE_SECONDS = 30.0
"""How long a process may read nothing of what it is sent, before it counts as hung and is killed."""

END_SECONDS = 5.0
"""How long a process may take to end, beyond the grace period of its calls."""

VARIABLES = (*SYSTEM, "TERM", "NO_COLOR", "FORCE_COLOR", "GRPC_*", "MALLOC_*")
"""The environment variables of a front process: nothing that says how a registry is reached."""


class FrontProcesses:
    """Runs processes beside the main one.

    Args:
        count: How many.
        hub: What they are told.
        pool: Where their jobs are scored.
    """

    def __init__(self, count: int, hub: Hub, pool: WorkerPool) -> None:
        self._hub = hub
        self._pool = pool
        self._lock = threading.Lock()
        self._running: dict[int, _Running] = {}
        self._ending = threading.Event()
        self._until = 0.0
        # Each is started by its own thread, which lives as long: the kernel ends a process with the thread that
        # started it (PR_SET_PDEATHSIG, prctl(2)).
        self._threads = [
            threading.Thread(target=self._keep, args=(number,), name=f"process-{number}", daemon=True)
            for number in range(1, count + 1)
        ]

    def start(self) -> None:
        """Start the processes; does not wait for them."""
        self._hub.start()
        for thread in self._threads:
            thread.start()

    def tell_health(self, health: dict[str, bool]) -> None:
        """Tell all processes what is SERVING."""
        self._hub.tell_health(health)

    def drain(self, grace: float) -> None:
        """Have all processes take no new calls and end within a time; does not wait for it.

        Args:
            grace: Seconds that calls in flight get to end.
        """
        with self._lock:
            self._ending.set()
            self._until = time.monotonic() + grace
            running = list(self._running.values())
        for one in running:
            one.sender.send(Kind.DRAIN, meta={"grace": grace})

    def stop(self) -> None:
        """Wait until all processes have ended after `drain`; those that do not in time are killed."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, self._until - time.monotonic()) + END_SECONDS)
        with self._lock:
            running = list(self._running.items())
        for number, one in running:
            log.error("front process does not end", process=number)
            one.kill()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(END_SECONDS)
        self._hub.stop()

    def _keep(self, number: int) -> None:
        """Run one process, again and again."""
        pause = FIRST_PAUSE
        while not self._ending.is_set():
            began = time.monotonic()
            how = self._run(number)
            if self._ending.is_set():
                return
            if time.monotonic() - began > STEADY_SECONDS:
                pause = FIRST_PAUSE
            log.warning("front process ended", process=number, how=how, again_in_seconds=pause)
            self._ending.wait(pause)
            pause = min(2 * pause, MOST_PAUSE)

    def _run(self, number: int) -> str:
        """Run one process until its end; tells how it ended."""
        # What it leaves in a temporary folder goes with it, however it ends.
        with tempfile.TemporaryDirectory(prefix="prinz-process-", ignore_cleanup_errors=True) as folder:
            try:
                with self._lock:
                    if self._ending.is_set():
                        return "not started"
                    one = self._running[number] = _Running(number, folder)
            except OSError as error:
                return f"it can't be started: {error}"
            try:
                self._hub.attach(one.sender)
                self._serve(one)
            except FrameError as error:
                log.error("front process sent what it must not", process=number, why=str(error))  # noqa: TRY400
            except Exception:
                log.exception("front process could not be served", process=number)
            finally:
                self._hub.detach(one.sender)
                how = one.end(END_SECONDS if self._ending.is_set() else 0.0)
                with self._lock:
                    del self._running[number]
            return how

    def _serve(self, one: _Running) -> None:
        """Do what a process asks, until it ends."""
        jobs = PoolServer(self._pool, self._hub.target_of, one.sender)
        reader = FrameReader(one.sock)
        try:
            while (frame := reader.read()) is not None:
                self._take(one, jobs, frame)
                # What is waited for next may take long; large rows must not wait with us.
                del frame
        finally:
            jobs.close()

    def _take(self, one: _Running, jobs: PoolServer, frame: Frame) -> None:
        kind = frame.kind
        if kind is Kind.SUBMIT:
            jobs.submit(frame)
        elif kind is Kind.CANCEL:
            jobs.cancel(frame.id)
        elif kind is Kind.LOAD:
            jobs.load(frame)
        elif kind is Kind.WANT:
            self._hub.want(frame.meta.get("model"), frame.meta.get("version"))
        elif kind is Kind.USED:
            self._hub.use(frame.meta.get("model"), frame.meta.get("alias"))
        elif kind is Kind.SYNC:
            self._hub.sync(one.sender, frame.id)
        elif kind is Kind.READY:
            log.info("front process started", process=one.number, pid=one.pid)
        else:
            raise FrameError(f"{kind.name} is for the main process to send")


class _Running:
    """A process that runs.

    Attributes:
        number: Of the process among those of the service.
        sock: To it.
        sender: Likewise.
        pid: Its id.
    """

    def __init__(self, number: int, folder: str) -> None:
        """Start it.

        Args:
            number: Of the process.
            folder: Its temporary folder.

        Raises:
            OSError: It can't be started.
        """
        self.number = number
        self.sock, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with other:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", PROGRAM, str(other.fileno()), str(number), str(os.getpid())],
                    pass_fds=(other.fileno(),),
                    stdin=subprocess.DEVNULL,
                    env={**_chosen(os.environ), "TMPDIR": folder},
                )
        except BaseException:
            self.sock.close()
            raise
        self.pid = self._process.pid
        self.sender = Sender(self.sock, PATIENCE_SECONDS)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def end(self, grace: float) -> str:
        """Wait for its end, and let go of it; tells how it ended.

        Args:
            grace: Seconds before it is killed.
        """
        self.sender.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(grace, 1.0))
        self._process.kill()
        code = self._process.wait()
        self.sock.close()
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _chosen(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if any(fnmatchcase(name, one) for one in VARIABLES)}
