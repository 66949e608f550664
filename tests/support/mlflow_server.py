"""A real `mlflow server` on a port of its own, which a test kills, freezes and starts again."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.support.deadline import wait_until

START_SECONDS = 90.0


class MlflowServer:
    """The server of one SQLite store; ends with its context, whatever happened to it.

    Args:
        store: The folder of its database.
        port: Where it listens.
        variables: More environment variables of it.
        artifact_root: A store that clients read and write by themselves; empty where the server does it for them.
        start_seconds: How long it may take to start.
    """

    def __init__(
        self,
        store: Path,
        port: int,
        variables: Mapping[str, str] | None = None,
        *,
        artifact_root: str = "",
        start_seconds: float = START_SECONDS,
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.database = store / "mlflow.db"
        self.artifacts = store / "mlartifacts"
        self.artifacts.mkdir(exist_ok=True)
        self._port = port
        self._start_seconds = start_seconds
        served = ["--artifacts-destination", str(self.artifacts)]
        self._store = ["--no-serve-artifacts", "--default-artifact-root", artifact_root] if artifact_root else served
        self._variables = dict(variables or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)),
            *("--backend-store-uri", f"sqlite:///{self.database}", "--workers", "1"),
            *self._store,
        ]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | self._variables
        # A group of its own, so that it can be stopped and killed with all its processes.
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
        )
        wait_until(self._answers, self._start_seconds)

    def kill(self) -> None:
        """Kill it with all its processes."""
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def freeze(self) -> None:
        """Let it answer nothing, while its connections stay open."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the server ended"
        try:
            return httpx.get(f"{self.url}/health", trust_env=False, timeout=5.0).is_success
        except httpx.TransportError:
            return False
