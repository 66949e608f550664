"""MLflow's own scoring server, for many models at once.

`mlflow models serve` takes a process and five seconds for each model. Here one process mounts the app that MLflow makes
for a model, `/invocations` and all, under a path for each. `python -m tests.support.scoring_server FOLDER` serves every
model in a folder, tells its port on standard output, and ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

_ROOT = Path(__file__).parent.parent.parent
_SECONDS = 60.0


class ScoringServer:
    """MLflow's scoring server forevery model in a folder, as long as its context lasts."""

    def __init__(self, folder: Path) -> None:
        """Start the server; it answers from when its context is entered.

        Args:
            folder: It has one folder for each model, whose name is the model's path.
        """
        self._log = folder.with_suffix(".log").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.scoring_server", str(folder)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
        self._client = httpx.Client(trust_env=False, timeout=_SECONDS)

    def __enter__(self) -> Self:
        """Wait until every model is loaded."""
        assert self._process.stdout is not None
        port = self._process.stdout.readline().decode().strip()
        if not port:
            self._log.seek(0)
            told = self._log.read().decode("utf-8", "replace")
            self.close()
            raise RuntimeError(f"the scoring server ended at its start: {told[-4000:]}")
        self._client.base_url = httpx.URL(f"http://127.0.0.1:{port}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the server."""
        self.close()

    def close(self) -> None:
        """End the server."""
        self._client.close()
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def invoke(self, model: str, body: Mapping[str, Any]) -> httpx.Response:
        """Post a request to a model."""
        return self._client.post(
            f"/{model}/invocations", content=json.dumps(body), headers={"content-type": "application/json"}
        )


def main(folder: Path) -> None:
    """Serve until standard input ends."""
    import mlflow.pyfunc
    import uvicorn
    from fastapi import FastAPI
    from mlflow.pyfunc.scoring_server import init

    app = FastAPI()
    for model in sorted(folder.iterdir()):
        app.mount(f"/{model.name}", init(mlflow.pyfunc.load_model(str(model))))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        threading.Thread(target=_end_with_parent, daemon=True).start()
        print(listener.getsockname()[1], flush=True)  # noqa: T201 - the parent reads it
        server.run(sockets=[listener])


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
