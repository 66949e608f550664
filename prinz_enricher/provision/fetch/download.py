"""`python -P -m prinz_enricher.provision.fetch.download`: downloads one model version from its registry, and ends.

It reads one line `{"registry", "uri", "folder", "max_bytes"}` from its standard input, and writes one: `{"path": …}`,
the folder with the MLmodel file, relative to `folder`; or `{"error": …, "may_pass": …}`, a sentence, in which the front
hides addresses and credentials, and whether the same may work later. The front has looked where `uri` leads to. What
libraries print goes to standard error.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import resource
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from prinz_enricher.worker.parent import die_with_parent

_MEASURE_SECONDS = 0.2
_LONGEST_REASON = 10_000
_LONGEST_LINE = 1 << 20

_PASSING = re.compile(
    r"ConnectionError|Connection (refused|reset|aborted)|RemoteDisconnected|IncompleteRead|Max retries|[Tt]imed? ?out"
    r"|\b50[0-4]\b|\b429\b|SlowDown"
)
"""What is told of a failure that may pass, where MLflow gives nothing but the text of it."""

_DEFAULTS = {
    # A registry that is down must show within a minute or so, not after MLflow's own ten.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class Refused(Exception):
    """What a registry offers is not what a model may be; the message says why."""


class RegistryUnreachable(Exception):
    """The registry, or the store of its files, gives no answer, or not to us; it may later."""


def prepare_environment() -> None:
    """Set what MLflow reads at its import: no telemetry, and failures that show in reasonable time."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def fetch_model(registry: str, uri: str, folder: str) -> str:
    """Download a model version.

    Args:
        registry: The registry's tracking URI.
        uri: Of the folder with its files.
        folder: A folder that is made, and that the caller removes.

    Returns:
        The path of the folder with the MLmodel file.

    Raises:
        RegistryUnreachable: The registry, or the store of its files, gives no answer, or not to us.
        mlflow.exceptions.MlflowException: The registry refused, or has no such version.
        OSError: The disk is full.
    """
    try:
        return _download(registry, uri, folder)
    except Exception as exc:
        if _is_unauthenticated(exc):
            # A token that ended meanwhile; the next worker gets another.
            raise RegistryUnreachable("the registry does not accept our credentials (HTTP 401)") from exc
        if may_pass(exc):
            # Without the words of the libraries below, which show addresses.
            raise RegistryUnreachable("the registry gives no answer") from exc
        raise


def _download(registry: str, uri: str, folder: str) -> str:
    import mlflow

    # Unity Catalog is a registry only; what tracks the runs of its workspace has a name of its own.
    tracking = "databricks" if registry.startswith("databricks-uc") else registry
    mlflow.set_tracking_uri(tracking)
    mlflow.set_registry_uri(registry)
    return mlflow.artifacts.download_artifacts(
        artifact_uri=uri, dst_path=folder, tracking_uri=tracking, registry_uri=registry
    )


def _is_unauthenticated(exc: BaseException) -> bool:
    """Tell whether an exception comes of credentials that are missing or wrong (HTTP 401)."""
    from mlflow.exceptions import MlflowException

    return any(
        _status(one) == 401 or (isinstance(one, MlflowException) and one.error_code == "UNAUTHENTICATED")
        for one in _chain(exc)
    )


def may_pass(exc: BaseException) -> bool:
    """Tell whether an exception comes of no connection, no answer in time, or a server's own fault (HTTP 5xx)."""
    import requests
    from mlflow.exceptions import MlflowException

    unreachable = (requests.ConnectionError, requests.Timeout, ConnectionError, TimeoutError)
    return any(
        isinstance(one, unreachable)
        or _status(one) >= 500
        or (isinstance(one, MlflowException) and one.error_code == "TEMPORARILY_UNAVAILABLE")
        for one in _chain(exc)
    )


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _status(exc: BaseException) -> int:
    """Return the HTTP status that an exception of requests carries; 0 where it carries none."""
    status = getattr(getattr(exc, "response", None), "status_code", 0)
    return status if isinstance(status, int) else 0


class _Answer:
    """The one line that the front gets, whoever has it first."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def end(self, content: dict[str, object]) -> NoReturn:
        """Write it, and end the process; threads of MLflow's may still be at work."""
        with self._lock:
            os.write(self._descriptor, json.dumps(content).encode() + b"\n")
            sys.stderr.flush()
            os._exit(1 if "error" in content else 0)


def main() -> None:
    """Download what the line says."""
    parser = argparse.ArgumentParser(description="Downloads one model version.")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="the process that this one ends with")
    die_with_parent(parser.parse_args().parent)
    answer = _Answer(os.dup(1))
    # Nothing but the answer goes to the front.
    os.dup2(2, 1)
    try:
        asked = json.loads(sys.stdin.buffer.readline(_LONGEST_LINE))
        folder, max_bytes = Path(str(asked["folder"])).resolve(), int(asked["max_bytes"])
        _limit_files(max_bytes)
        watch = threading.Thread(target=_watch, args=(folder, max_bytes, answer), daemon=True)
        watch.start()
        prepare_environment()
        found = Path(fetch_model(str(asked["registry"]), str(asked["uri"]), str(folder)))
        path = checked_path(folder, found, max_bytes)
    except BaseException as exc:  # noqa: BLE001 - the clients of registries and stores raise what they like
        error, passing = told(exc)
        answer.end({"error": error, "may_pass": passing})
    answer.end({"path": path})


def checked_path(folder: Path, found: Path, max_bytes: int) -> str:
    """Check what was downloaded: a registry can lie.

    Args:
        folder: Where it was to be downloaded to; an absolute path without symbolic links.
        found: Where MLflow says that the model is.
        max_bytes: How large all files together may be.

    Returns:
        The model's path, relative to the folder.

    Raises:
        Refused: It is outside of the folder, too large, no model, or holds what is neither file nor folder.
    """
    place = found.resolve()
    if not place.is_relative_to(folder):
        raise Refused("the model was not downloaded into the folder for it")
    if _size(folder, strict=True) > max_bytes:
        raise Refused(_too_large(max_bytes))
    if not (place / "MLmodel").is_file():
        raise Refused("there is no MLmodel file in what was downloaded")
    return place.relative_to(folder).as_posix()


def told(exc: BaseException) -> tuple[str, bool]:
    """Tell an exception to the front: in one sentence, and whether it may pass."""
    if isinstance(exc, RegistryUnreachable | Refused):
        return str(exc), isinstance(exc, RegistryUnreachable)
    text = str(exc)
    number = next((one.errno for one in _chain(exc) if isinstance(one, OSError)), None)
    if number in {errno.ENOSPC, errno.EDQUOT} or os.strerror(errno.ENOSPC) in text:
        return "the disk is full", True
    if number == errno.EFBIG or os.strerror(errno.EFBIG) in text:
        return _too_large(resource.getrlimit(resource.RLIMIT_FSIZE)[0]), False
    if isinstance(exc, ImportError):
        return f"the store of its files needs the Python package {exc.name}, which is not installed", False
    if getattr(exc, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
        return "the registry has no such version, or not its files", False
    if _PASSING.search(text):
        return "the registry, or the store of its files, gives no answer", True
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # MLflow tells with a heading what became of each file.
    sentence = " ".join(lines[:3]) if lines and lines[0].startswith("The following failures") else " ".join(lines[:1])
    return f"{type(exc).__name__}: {sentence}"[:_LONGEST_REASON], False


def _limit_files(max_bytes: int) -> None:
    """Let no single file become larger than all of them may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def _watch(folder: Path, max_bytes: int, answer: _Answer) -> None:
    """End the process once the folder holds more than it may."""
    pause = threading.Event()
    while not pause.wait(_MEASURE_SECONDS):
        if _size(folder) > max_bytes:
            answer.end({"error": _too_large(max_bytes), "may_pass": False})


def _too_large(max_bytes: int) -> str:
    return f"the model is larger than the {max_bytes} bytes that it may have"


def _size(folder: Path, *, strict: bool = False) -> int:
    """Add up the files of a folder, in bytes; `strict` refuses all that is neither file nor folder."""
    total = 0
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            try:
                status = os.lstat(os.path.join(root, name))  # noqa: PTH118 - many files, measured again and again
            except FileNotFoundError:
                # A temporary file of the download.
                continue
            if stat.S_ISREG(status.st_mode):
                total += status.st_size
            elif strict and not stat.S_ISDIR(status.st_mode):
                raise Refused("a model may hold files and folders only, and no links")
    return total


if __name__ == "__main__":
    main()
