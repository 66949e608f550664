"""`python -P -m prinz_enricher.provision.fetch`: MLflow's clients in a process with credentials, which runs no model.

    download   reads a line `{"registry", "uri", "folder", "max_bytes"}` from standard input, and writes `{"path"}`, the
               folder with the MLmodel file relative to `folder`; or `{"error", "may_pass"}`, a sentence, which the
               front masks, and whether the same may work later
    mlmodels   reads lines `{"uri"}` and answers each with `{"content"}`, the folder's MLmodel file in base64, or with
               `{"error", "kind"}`: `missing`, `refused`, `unreadable` or `unreachable`; ends with its input, or when
               idle

The front checks where a URI leads to. It never imports this module: MLflow costs it seconds and memory, and keeps
credentials for a whole process. Libraries print to standard error.
"""

import argparse
import base64
import errno
import json
import os
import re
import resource
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from prinz_enricher.worker.startup import die_with_parent

IDLE_SECONDS = 30
MAX_MLMODEL_BYTES = 4 * 1024 * 1024  # The front has the same limit.
_MEASURE_SECONDS = 0.2
_MAX_REASON = 10_000
_MAX_LINE = 1 << 20

# Marks a failure that may pass where MLflow gives nothing but its text.
_TRANSIENT = re.compile(
    r"ConnectionError|Connection (refused|reset|aborted)|RemoteDisconnected|IncompleteRead|Max retries|[Tt]imed? ?out"
    r"|\b50[0-4]\b|\b429\b|SlowDown"
)

_DEFAULTS = {
    # A registry that is down must show within a minute or so, not after MLflow's own ten.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_ENDING = threading.Lock()
_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_REFUSED = {"401", "403", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


class InvalidModel(Exception):
    """What a registry offers is not what a model may be."""


def prepare_environment() -> None:
    """Set what MLflow reads at its import: no telemetry, and failures that show in reasonable time."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def fetch_model(registry: str, uri: str, folder: str) -> str:
    """Download the folder of a URI into another one; return the path of the files. Raises whatever MLflow does."""
    import mlflow

    # Unity Catalog is a registry only; what tracks the runs of its workspace has a name of its own.
    tracking = "databricks" if registry.startswith("databricks-uc") else registry
    mlflow.set_tracking_uri(tracking)
    mlflow.set_registry_uri(registry)
    return mlflow.artifacts.download_artifacts(
        artifact_uri=uri, dst_path=folder, tracking_uri=tracking, registry_uri=registry
    )


def checked_path(folder: Path, found: Path, max_bytes: int) -> str:
    """Return the path of a model within its download folder; raises InvalidModel if it is not a valid model."""
    place = found.resolve()
    if not place.is_relative_to(folder):
        raise InvalidModel("the model was not downloaded into the folder for it")
    if _size(folder, strict=True) > max_bytes:
        raise InvalidModel(_too_large(max_bytes))
    if not (place / "MLmodel").is_file():
        raise InvalidModel("there is no MLmodel file in what was downloaded")
    return place.relative_to(folder).as_posix()


def describe_error(exc: BaseException) -> tuple[str, bool]:
    """Describe an exception to the front in one sentence, with whether it may pass."""
    import requests

    text, chain = str(exc), list(_chain(exc))
    if isinstance(exc, InvalidModel):
        return text, False
    # Without the words of the libraries, which show addresses.
    codes = [getattr(one, "error_code", None) for one in chain]
    statuses = [getattr(getattr(one, "response", None), "status_code", None) for one in chain]
    if 401 in statuses or "UNAUTHENTICATED" in codes:
        # The token may have expired meanwhile; the next process gets another.
        return "the registry does not accept our credentials (HTTP 401)", True
    unreachable = (requests.ConnectionError, requests.Timeout, ConnectionError, TimeoutError)
    if (
        "TEMPORARILY_UNAVAILABLE" in codes
        or any(isinstance(one, unreachable) for one in chain)
        or any(isinstance(status, int) and status >= 500 for status in statuses)
    ):
        return "the registry gives no answer", True
    number = next((one.errno for one in chain if isinstance(one, OSError)), None)
    if number in {errno.ENOSPC, errno.EDQUOT} or os.strerror(errno.ENOSPC) in text:
        return "the disk is full", True
    if number == errno.EFBIG or os.strerror(errno.EFBIG) in text:
        return _too_large(resource.getrlimit(resource.RLIMIT_FSIZE)[0]), False
    if isinstance(exc, ImportError):
        return f"the store of its files needs the Python package {exc.name}, which is not installed", False
    if getattr(exc, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
        return "the registry has no such version, or not its files", False
    if _TRANSIENT.search(text):
        return "the registry, or the store of its files, gives no answer", True
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # MLflow lists below a heading what became of each file.
    sentence = " ".join(lines[: 3 if lines and lines[0].startswith("The following failures") else 1])
    return f"{type(exc).__name__}: {sentence}"[:_MAX_REASON], False


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="Reads from registries and stores with MLflow's clients.")
    parser.add_argument("command", choices=["download", "mlmodels"])
    parser.add_argument("--parent", type=int, default=os.getppid(), help="the process that a download ends with")
    arguments = parser.parse_args()
    descriptor = os.dup(1)
    # Nothing but answers goes to the front.
    os.dup2(2, 1)
    answers = os.fdopen(descriptor, "w", encoding="utf-8")
    if arguments.command == "download":
        die_with_parent(arguments.parent)
        _download(answers)
    _answer_mlmodels(answers)


def _end(answers: IO[str], **answer: object) -> NoReturn:
    """Write the answer of whichever thread has it first, and end the process, whatever other threads still do."""
    with _ENDING:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        sys.stderr.flush()
        os._exit(1 if "error" in answer else 0)


def _download(answers: IO[str]) -> NoReturn:
    try:
        request = json.loads(sys.stdin.buffer.readline(_MAX_LINE))
        folder, max_bytes = Path(str(request["folder"])).resolve(), int(request["max_bytes"])
        # No single file may become larger than all of them may be.
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        threading.Thread(target=_watch_size, args=(folder, max_bytes, answers), daemon=True).start()
        prepare_environment()
        found = Path(fetch_model(str(request["registry"]), str(request["uri"]), str(folder)))
        path = checked_path(folder, found, max_bytes)
    except BaseException as exc:  # noqa: BLE001 - the clients of registries and stores raise what they like
        error, may_pass = describe_error(exc)
        _end(answers, error=error, may_pass=may_pass)
    _end(answers, path=path)


def _watch_size(folder: Path, max_bytes: int, answers: IO[str]) -> None:
    while _size(folder) <= max_bytes:
        time.sleep(_MEASURE_SECONDS)
    _end(answers, error=_too_large(max_bytes), may_pass=False)


def _too_large(max_bytes: int) -> str:
    return f"the model is larger than the {max_bytes} bytes of cache.max_model_bytes"


def _size(folder: Path, *, strict: bool = False) -> int:
    """Return the bytes of a folder's files; `strict` refuses anything but files and folders."""
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
                raise InvalidModel("a model may hold files and folders only, and no links")
    return total


def _answer_mlmodels(answers: IO[str]) -> None:
    # A store may lie about a file's size; what is written is limited here.
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_MLMODEL_BYTES + 1, MAX_MLMODEL_BYTES + 1))
    prepare_environment()
    while True:
        # An idle process is ended by this signal.
        signal.alarm(IDLE_SECONDS)
        line = sys.stdin.buffer.readline(_MAX_LINE)
        signal.alarm(0)
        if not line:
            return
        try:
            content = _read_mlmodel(str(json.loads(line)["uri"]))
            answer = {"content": base64.b64encode(content).decode()}
        except Exception as exc:  # noqa: BLE001 - the clients of stores raise what they like
            # Without the words of the store, which show addresses; a missing package is the operator's to install.
            why = f"{type(exc).__name__} ({exc.name})" if isinstance(exc, ImportError) else type(exc).__name__
            answer = {"error": why, "kind": _kind(exc)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _read_mlmodel(uri: str) -> bytes:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "MLmodel"
        # What every repository has; `download_artifacts` would hide the store's own exception.
        repository: Any = get_artifact_repository(uri)
        repository._download_file(path.name, str(path))  # noqa: SLF001 - as said
        return path.read_bytes()


def _kind(exc: Exception) -> str:
    code = _s3_code(exc)
    if isinstance(exc, FileNotFoundError) or code in _MISSING:
        return "missing"
    if code in _REFUSED:
        return "refused"
    if isinstance(exc, ImportError) or (isinstance(exc, OSError) and exc.errno == errno.EFBIG):
        return "unreadable"
    return "unreachable"


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _s3_code(exc: BaseException) -> str:
    """Return the error code of an S3 client's exception, or of what it came from; empty where there is none."""
    responses = (getattr(one, "response", None) for one in _chain(exc))
    return next((str(one.get("Error", {}).get("Code", "")) for one in responses if isinstance(one, dict)), "")


if __name__ == "__main__":
    main()
