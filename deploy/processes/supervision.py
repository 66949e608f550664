"""supervisord: started, told what to run, and ended with all that it runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import xmlrpc.client
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport

from deploy.processes.place import Place
from deploy.processes.strays import MARK, strays

END_SECONDS = 90.0
"""How long all programs together may take to end."""

_LONGEST_SOCKET = 100
"""Bytes of a Unix socket's path; Linux takes 107, and supervisord appends the number of its process."""


class Supervisor:
    """The supervisor of a place.

    Args:
        place: Where everything is.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    @property
    def _server(self) -> Any:
        # Anew for each call: a connection that once failed stays so.
        transport = SupervisorTransport(None, None, f"unix://{self._place.socket}")
        return xmlrpc.client.ServerProxy("http://supervisor", transport=transport)

    @property
    def runs(self) -> bool:
        """Whether it answers."""
        try:
            self._server.supervisor.getState()
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def start(self) -> None:
        """Start it where it does not run, and have it read its configuration.

        Raises:
            RuntimeError: It does not start.
        """
        if len(str(self._place.socket)) > _LONGEST_SOCKET:
            raise RuntimeError(f"the path {self._place.socket} is too long for a socket: set ENVIRONMENT_HOME")
        if not self.runs:
            self._clear()
            program = self._place.service / "bin" / "supervisord"
            variables = {**os.environ, MARK: str(self._place.home)}
            subprocess.run([program, "-c", self._place.home / "supervisord.conf"], check=True, env=variables)
            end = time.monotonic() + 20
            while not self.runs:
                if time.monotonic() > end:
                    raise RuntimeError(f"supervisord does not start; see {self._place.logs}/supervisor.log")
                time.sleep(0.1)
        self._update()

    def run(self, name: str) -> None:
        """Start a program that does not run."""
        try:
            self._server.supervisor.startProcess(name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.ALREADY_STARTED:
                raise RuntimeError(f"{name} can't be started: {fault.faultString}") from None

    def stop(self, name: str) -> None:
        """Stop a program."""
        self._server.supervisor.stopProcess(name)

    def signal(self, name: str, number: str) -> None:
        """Send a signal to a program."""
        self._server.supervisor.signalProcess(name, number)

    def state(self, name: str) -> dict[str, Any]:
        """Return what it knows of a program."""
        known: dict[str, Any] = self._server.supervisor.getProcessInfo(name)
        return known

    def end(self) -> Sequence[int]:
        """End it and all programs; returns the processes that it left."""
        if self.runs:
            number = int(self._server.supervisor.getPID())
            self._server.supervisor.shutdown()
            end = time.monotonic() + END_SECONDS
            while Path(f"/proc/{number}").exists() and time.monotonic() < end:
                time.sleep(0.1)
        return self._clear()

    def _clear(self) -> Sequence[int]:
        """End what is left, where the supervisor was killed itself; returns what it was."""
        left = strays(self._place)
        for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            for process in strays(self._place):
                # It may have ended with another one. PostgreSQL recovers when it is started again.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
            end = time.monotonic() + patience
            while strays(self._place) and time.monotonic() < end:
                time.sleep(0.1)
        self._place.socket.unlink(missing_ok=True)
        return left

    def _update(self) -> None:
        """Take over a configuration that changed: programs that are other than before are stopped."""
        added, changed, removed = self._server.supervisor.reloadConfig()[0]
        for name in [*changed, *removed]:
            self._server.supervisor.stopProcessGroup(name)
            self._server.supervisor.removeProcessGroup(name)
        for name in [*added, *changed]:
            self._server.supervisor.addProcessGroup(name)
