"""MLmodel files as `ModelFile`s: a large one is read by a process of its own, so that no call waits for that.

Run as `python -P -m prinz_enricher.catalog.mlmodel_parser` it answers each line `{"content"}`, a file in base64, with
`{"file"}` as `store.write_file` writes it, with `{"error"}` if it can't be read, or with `{"file": null}` for what has
no exact form there. It ends with its input, or when idle.
"""

import base64
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from prinz_enricher.catalog.snapshot import ModelFile
from prinz_enricher.catalog.store import StoredFile, read_file, write_file
from prinz_enricher.provision.variables import worker_variables
from prinz_enricher.registry.line_process import LineProcess
from prinz_enricher.registry.mlmodel_yaml import read_mlmodel
from prinz_enricher.registry.registry_errors import MlmodelUnreadable
from prinz_enricher.signature.mlflow_json import read_signature
from prinz_enricher.signature.types import Origin, SignatureError

# From here on a file is read elsewhere: of a thousand columns, or of whatever costs as much.
LARGE = 64 * 1024
MAX_FLAVORS = 100
MAX_NAME_CHARACTERS = 255  # Of a flavour or a loader.
_MAX_FAULT_CHARACTERS = 500
_IDLE_SECONDS = 60


class MlmodelParser:
    """Reads files, one large one at a time; thread-safe."""

    def __init__(self, *, timeout: float = 20.0) -> None:
        self._process = LineProcess(
            [__name__],
            lambda: worker_variables(os.environ, Path(tempfile.gettempdir()), ()),
            what="what reads large MLmodel files",
            timeout=timeout,
        )

    def parse(self, content: bytes) -> ModelFile:
        """Return what a file holds; raises RegistryError, MlmodelUnreadable for one that is invalid or too large."""
        if len(content) < LARGE:
            return parse_mlmodel(content)
        answer = self._process.ask({"content": base64.b64encode(content).decode()})
        if "error" in answer:
            raise MlmodelUnreadable(str(answer["error"]))
        # What has no exact form is within all bounds.
        return _decode(answer["file"]) or parse_mlmodel(content)

    def close(self) -> None:
        """Stop the process until it is needed again."""
        self._process.close()


def parse_mlmodel(content: bytes) -> ModelFile:
    """Return what a file holds, read here; raises MlmodelUnreadable."""
    entries = read_mlmodel(content)
    listed = entries.get("flavors")
    flavors = tuple(sorted(listed)) if isinstance(listed, Mapping) else ()
    python = listed.get("python_function") if isinstance(listed, Mapping) else None
    named = python.get("loader_module") if isinstance(python, Mapping) else None
    loader = named if isinstance(named, str) else ""
    if len(flavors) > MAX_FLAVORS or any(len(name) > MAX_NAME_CHARACTERS for name in (*flavors, loader)):
        most = f"more than {MAX_FLAVORS} flavours, or names longer than {MAX_NAME_CHARACTERS} characters"
        raise MlmodelUnreadable(f"its MLmodel file has {most}, which MLflow never writes")
    try:
        signature = read_signature(entries)
    except SignatureError as error:
        # It may quote names of any length.
        why = str(error)[:_MAX_FAULT_CHARACTERS]
        return ModelFile(None, flavors, f"has a signature that can't be read: {why}", loader=loader)
    fault = "has no signature" if signature.origin is Origin.MISSING else ""
    return ModelFile(signature, flavors, fault, loader=loader)


def main() -> None:
    """Answer questions until there are none."""
    # Calls go first.
    os.nice(10)
    while True:
        # An idle process is ended by this signal.
        signal.alarm(_IDLE_SECONDS)
        line = sys.stdin.buffer.readline()
        signal.alarm(0)
        if not line:
            return
        try:
            answer: dict[str, object] = {"file": _encode(parse_mlmodel(base64.b64decode(json.loads(line)["content"])))}
        except MlmodelUnreadable as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _encode(file: ModelFile) -> list[object] | None:
    written = write_file(file)
    if written is None:
        return None
    return [None if written.signature is None else base64.b64encode(written.signature).decode(), *written[1:]]


def _decode(written: object) -> ModelFile | None:
    if not isinstance(written, list):
        return None
    signature, flavors, fault, loader = written
    return read_file(
        StoredFile(None if signature is None else base64.b64decode(signature), tuple(flavors), fault, loader)
    )


if __name__ == "__main__":
    main()
