"""Reads MLmodel files from stores that only their own clients can read; run by `python -m`.

The front knows no store's client. It writes lines `{"uri": …}` to the standard input of this process, and gets for
each `{"content": …}` in base64, or `{"error": …}` and its `kind`: `missing`, `refused`, `unreadable`, or `unreachable`,
which may pass. The process ends with its input, or when nobody has asked for a while.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import resource
import select
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .download import prepare_environment

IDLE_SECONDS = 30.0
MAX_BYTES = 10 * 1024 * 1024
"""How long an MLmodel file may be; the front has the same limit."""

_FILE = "MLmodel"
_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_REFUSED = {"401", "403", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What libraries print goes where logs go; nothing but answers goes to the front.
    os.dup2(2, 1)
    # A store may say anything of a file's size; what is written is bounded here.
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_BYTES + 1, MAX_BYTES + 1))
    prepare_environment()
    for line in _lines(sys.stdin.fileno()):
        answers.write(json.dumps(_answer(str(json.loads(line)["uri"]))) + "\n")
        answers.flush()


def _lines(descriptor: int) -> Iterator[bytes]:
    """Give the lines of a stream as they come; end where none has come for a while."""
    rest = b""
    while select.select([descriptor], [], [], IDLE_SECONDS)[0]:
        read = os.read(descriptor, 65536)
        if not read:
            return
        *lines, rest = (rest + read).split(b"\n")
        yield from lines


def _answer(uri: str) -> dict[str, object]:
    try:
        return {"content": base64.b64encode(_read(uri)).decode()}
    except Exception as exc:  # noqa: BLE001 - the clients of stores raise what they like
        # Without the words of the store, which show addresses; a missing package is the operator's to install.
        why = f"{type(exc).__name__} ({exc.name})" if isinstance(exc, ImportError) else type(exc).__name__
        return {"error": why, "kind": _kind(exc)}


def _kind(exc: Exception) -> str:
    code = _code(exc)
    if isinstance(exc, FileNotFoundError) or code in _MISSING:
        return "missing"
    if code in _REFUSED:
        return "refused"
    if isinstance(exc, ImportError) or (isinstance(exc, OSError) and exc.errno == errno.EFBIG):
        return "unreadable"
    return "unreachable"


def _read(uri: str) -> bytes:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _FILE
        # What every repository has; `download_artifacts` would hide the store's own exception.
        repository: Any = get_artifact_repository(uri)
        repository._download_file(_FILE, str(path))  # noqa: SLF001 - as said
        return path.read_bytes()


def _code(exc: BaseException | None) -> str:
    """Return the error code that an S3 client tells, of an exception or of what it came from."""
    while exc is not None:
        response = getattr(exc, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        exc = exc.__cause__ or exc.__context__
    return ""


if __name__ == "__main__":
    main()
