"""Models served by `mlflow models serve`, each in processes of its own, which a test kills, freezes and restarts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.support.deadline import wait_until

START_SECONDS = 90.0


class ServedModel:
    """One model version behind MLflow's scoring server; ends with its context, whatever happened to it.

    Args:
        registry: The registry's URL.
        model: Such as `wine/1`.
        log: A file for what it says.
    """

    def __init__(self, registry: str, model: str, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.url = f"http://{self.address}"
        self._registry = registry
        self._model = model
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it; it answers a while later."""
        host, port = self.address.split(":")
        command = [
            *(sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", f"models:/{self._model}"),
            *("--env-manager", "local", "--host", host, "--port", port),
        ]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        # It starts `uvicorn`, which is next to this Python.
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        environment = {
            **kept, "PATH": path, "MLFLOW_TRACKING_URI": self._registry, "MLFLOW_DISABLE_TELEMETRY": "true"
        }  # fmt: skip
        with self._log.open("ab") as log:
            # A group of its own, so that it can be stopped and killed with all its processes.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until it answers."""
        wait_until(self._answers, START_SECONDS)

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
        assert self._process.poll() is None, f"the model server ended: {self._log.read_text()[-4000:]}"
        try:
            return httpx.get(f"{self.url}/ping", trust_env=False, timeout=5.0).is_success
        except httpx.TransportError:
            return False


@contextmanager
def served_models(models: Sequence[tuple[str, str]], folder: Path) -> Iterator[list[ServedModel]]:
    """Start to serve models, all at the same time, and do not wait; one that stands there twice has two replicas.

    Args:
        models: The registry's URL, and a version such as `wine/1`.
        folder: For the logs.
    """
    with ExitStack() as stack:
        served = [
            stack.enter_context(ServedModel(registry, model, folder / f"served-{number}.log"))
            for number, (registry, model) in enumerate(models)
        ]
        for one in served:
            one.start()
        yield served
