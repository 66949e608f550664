"""A private `mlflow server` for a local store, which is so read like every other registry, without importing MLflow."""

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Self
from urllib.parse import unquote, urlsplit

import httpx

from prinz_enricher.registry import orphan_watchdog
from prinz_enricher.registry.registry_errors import PrivateServerError

_SQLITE_SCHEMES = ("sqlite", "sqlite+pysqlite")
_POLL_SECONDS = 0.05
_GRACE_SECONDS = 5.0
_ATTEMPTS = 3
_LOG_TAIL_BYTES = 4000
# MLflow reads the others as options of `mlflow server`; ours are on the command line, and complete.
_KEPT_VARIABLES = ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_S3_", "MLFLOW_GCS_", "MLFLOW_SQLALCHEMYSTORE_")


def is_local_store(registry: str) -> bool:
    """Return whether a registry is a local store, which needs a private server, and not the URL of a server."""
    return urlsplit(registry).scheme not in ("http", "https")


def store_folder(store_uri: str) -> Path:
    """Return the folder that a local store is in; raise PrivateServerError if it is none.

    A store is `sqlite:///relative.db`, `sqlite:////absolute.db` (SQLAlchemy's way of writing paths), or a folder.
    """
    parts = urlsplit(store_uri)
    if parts.scheme in _SQLITE_SCHEMES:
        # One slash ends the (empty) host; what follows is the path, relative unless it has a slash of its own.
        file = unquote(parts.path)[1:]
        if parts.netloc or not file or file == ":memory:":
            forms = "sqlite:///relative.db, or sqlite:////absolute/path.db with four slashes"
            raise PrivateServerError(f"A SQLite store needs a file: {forms}.")
        return Path(file).absolute().parent
    if parts.scheme in ("", "file"):
        folder = Path(unquote(parts.path))
        if folder.is_dir():
            return folder.absolute().parent
        raise PrivateServerError(f"There is no folder {folder}; a local store is such a folder, or sqlite:///file.db.")
    raise PrivateServerError(f"A registry is http(s)://…, sqlite:///file.db or a folder, not {parts.scheme}://…")


class PrivateServer:
    """A real `mlflow server`, with a base `url` while it runs; it ends with this context, or its process."""

    def __init__(
        self,
        store_uri: str,
        artifacts: Path | None = None,
        *,
        log_file: Path | None = None,
        start_timeout: float = 120.0,
        ended: threading.Event | None = None,
    ) -> None:
        """Check that the store is a local one; nothing is started yet.

        Artifacts are in `mlartifacts` beside the store by default. The server's log is appended to `log_file`, if any.
        A start under way is given up after `start_timeout` seconds, or once `ended` is set.
        """
        self.url = ""
        self._store_uri = store_uri
        self._artifacts = (artifacts or store_folder(store_uri) / "mlartifacts").absolute()
        self._start_timeout = start_timeout
        self._ended = ended or threading.Event()
        self._log_file = log_file
        self._running: tuple[subprocess.Popen[bytes], IO[bytes]] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers; raises PrivateServerError, with the log's end, if it does not."""
        if self._running is not None:
            return
        if importlib.util.find_spec("mlflow") is None:
            raise PrivateServerError(
                f"MLflow is not installed beside {sys.executable}; a local store needs it. "
                "Install it, or give the URL of an MLflow server."
            )
        folder = store_folder(self._store_uri)
        if not folder.is_dir():
            raise PrivateServerError(f"There is no folder {folder} for the store.")
        try:
            self._artifacts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PrivateServerError(f"The folder of the artifacts can't be made: {error}") from error
        for attempt in range(1, _ATTEMPTS + 1):
            # Without a name of its own, so that nothing is left of it if we are killed.
            log = self._log_file.open("a+b") if self._log_file else tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the server
            log_start = log.seek(0, os.SEEK_END)
            try:
                self._start_once(log)
            except BaseException as error:
                tail = _read_tail(log, log_start)
                self.close()
                if not isinstance(error, PrivateServerError):
                    raise
                # Another process may take the port before the server binds it.
                if "address already in use" not in tail or attempt == _ATTEMPTS:
                    raise PrivateServerError(f"{error}; its log ends with:\n{tail}") from None
            else:
                return

    def close(self) -> None:
        """Stop the server and all its processes, if it runs."""
        running, self._running = self._running, None
        self.url = ""
        if running is None:
            return
        process, log = running
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout=_GRACE_SECONDS + 5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_once(self, log: IO[bytes]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", self._store_uri),
            *("--artifacts-destination", str(self._artifacts)),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        ]
        process = subprocess.Popen(
            # -S, -E, -P: it needs nothing but the standard library, and so starts in no time.
            [sys.executable, "-S", "-E", "-P", orphan_watchdog.__file__, str(_GRACE_SECONDS), *server],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(os.environ),
            # Ctrl-C in a terminal must not end it before us.
            start_new_session=True,
        )
        self._running = (process, log)
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + self._start_timeout
        with httpx.Client(trust_env=False, timeout=5.0) as client:
            while time.monotonic() < deadline:
                with suppress(httpx.TransportError):
                    answer = client.get(f"{url}/health")
                    if answer.status_code == httpx.codes.OK and process.poll() is None:
                        self.url = url
                        return
                if process.poll() is not None:
                    raise PrivateServerError("The private MLflow server ended at its start")
                if self._ended.wait(_POLL_SECONDS):
                    raise PrivateServerError("The private MLflow server was stopped at its start")
        raise PrivateServerError(f"The private MLflow server did not answer within {self._start_timeout:g} s")


def _read_tail(log: IO[bytes], start: int) -> str:
    """Return the end of what was logged since a position."""
    end = log.seek(0, os.SEEK_END)
    log.seek(max(start, end - _LOG_TAIL_BYTES))
    return log.read().decode("utf-8", "replace").strip()


def _environment(current: Mapping[str, str]) -> dict[str, str]:
    """Return the server's environment: ours without what would change its options, or slow its start."""
    kept = {
        key: value for key, value in current.items() if not key.startswith("MLFLOW_") or key.startswith(_KEPT_VARIABLES)
    }
    kept |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # A registry needs no background jobs (judges, optimisation of prompts).
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # `python -m` would import what happens to lie in the current folder before the standard library.
        "PYTHONSAFEPATH": "1",
    }
    if kept.pop("PYTHONDONTWRITEBYTECODE", "") and "PYTHONPYCACHEPREFIX" not in kept:
        # The server imports MLflow in two processes. Compiling it anew each time takes ten seconds; so the bytecode
        # is kept, though not where none may be written.
        cache = Path(kept.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        kept["PYTHONPYCACHEPREFIX"] = str(cache / "prinz-enricher" / "bytecode")
    return kept
