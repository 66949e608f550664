"""The worker's side of the conversation: load one model, then score one batch after the other."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
import time
import traceback
from itertools import pairwise
from typing import Any

import pyarrow as pa

from .faults import WorkerFault
from .fetch import RegistryUnreachable, fetch_model, prepare_environment
from .frames import BatchReader, BatchWriter, Frame, FrameError, FrameSocket, Kind, decode_value

_LONGEST_REASON = 400
_CREDENTIALS = re.compile(r"://[^/@\s]*@")


def serve(frames: FrameSocket) -> int:
    """Serve until the front closes the socket.

    Returns:
        The exit code.
    """
    frame = frames.receive()
    if frame is None:
        return 0
    if frame.kind is not Kind.LOAD:
        raise FrameError("the first frame is not LOAD")
    model = _load(frames, frame)
    if model is None:
        return 1
    reader, writer = BatchReader(), BatchWriter()
    while (frame := frames.receive()) is not None:
        if frame.kind is not Kind.SCORE:
            raise FrameError("a frame is not SCORE")
        _score(frames, frame, model, reader, writer)
    return 0


def _load(frames: FrameSocket, frame: Frame) -> Any:
    """Load the model and say so; None where it can't be loaded."""
    stage = "import"
    marks = [time.monotonic()]
    try:
        meta = frame.meta
        inputs, outputs = _schemas(frame)
        prepare_environment()
        import mlflow

        from .model import LoadedModel

        marks.append(time.monotonic())
        stage = "fetch"
        if "path" in meta:
            folder = str(meta["path"])
        else:
            folder = fetch_model(str(meta["registry"]), str(meta["name"]), str(meta["version"]), str(meta["folder"]))
        marks.append(time.monotonic())
        stage = "load"
        model = LoadedModel(folder, inputs, outputs)
        marks.append(time.monotonic())
        params: Any = decode_value(meta["params"]) if "params" in meta else None
        model.warm(folder, inputs, params, exact=meta.get("exact") is True)
        marks.append(time.monotonic())
    except BaseException as exc:  # noqa: BLE001 - a model raises what it likes
        # Loading runs the model's code too: whatever it raises is the reason, and the front decides what then.
        with contextlib.suppress(Exception):
            traceback.print_exc()
        why = {"stage": stage, "why": f"{_VERBS[stage]} failed: {_sentence(exc)}"}
        frames.send(Kind.FAILED, {**why, "may_pass": isinstance(exc, RegistryUnreachable)})
        return None
    spans = [round(end - start, 4) for start, end in pairwise(marks)]
    frames.send(
        Kind.READY,
        {
            "pid": os.getpid(),
            "path": model.path,
            "why": model.why,
            "batching": model.batching,
            "batching_why": model.batching_why,
            "python": platform.python_version(),
            "mlflow": mlflow.__version__,
            "seconds": dict(zip(("import", "fetch", "load", "warm"), spans, strict=True)),
        },
    )
    return model


_VERBS = {"import": "importing MLflow", "fetch": "downloading the model", "load": "loading the model"}


def _schemas(frame: Frame) -> tuple[pa.Schema, pa.Schema]:
    sizes = frame.meta.get("schemas")
    if not isinstance(sizes, list) or len(sizes) != 2 or sum(sizes) != frame.body.size:
        raise FrameError("LOAD is without its schemas")
    first, second = frame.body.slice(0, sizes[0]), frame.body.slice(sizes[0])
    return pa.ipc.read_schema(first), pa.ipc.read_schema(second)


def _sentence(exc: BaseException) -> str:
    """Give an exception as one sentence without line breaks, credentials or a traceback."""
    try:
        first = next((line.strip() for line in str(exc).splitlines() if line.strip()), "")
    except Exception:  # noqa: BLE001 - a model raises what it likes
        first = ""
    text = f"{type(exc).__name__}: {first}" if first else type(exc).__name__
    return _CREDENTIALS.sub("://", text)[:_LONGEST_REASON]


def _score(frames: FrameSocket, frame: Frame, model: Any, reader: BatchReader, writer: BatchWriter) -> None:
    batch = reader.read(frame)
    try:
        params = decode_value(frame.meta["params"]) if "params" in frame.meta else None
        began = time.monotonic()
        scores = model.score(batch, params)
        compute = time.monotonic() - began
    except WorkerFault as exc:
        frames.send(Kind.RAISED, {"kind": exc.kind, "exception": type(exc).__name__, "why": str(exc)}, id=frame.id)
    except BaseException as exc:  # noqa: BLE001 - a model raises what it likes
        # The model's exceptions of any kind, SystemExit and KeyboardInterrupt too: none of them ends the worker.
        _log_traceback(frame)
        frames.send(Kind.RAISED, {"kind": "model_error", "exception": type(exc).__name__}, id=frame.id)
    else:
        parts, schema_size = writer.parts(scores)
        frames.send(Kind.SCORES, {"compute": compute}, id=frame.id, body=parts, schema_size=schema_size)


def _log_traceback(frame: Frame) -> None:
    # Out of memory, or with the stack used up, writing it may fail as well.
    with contextlib.suppress(Exception):
        print(f"the model raised (correlation id {frame.meta.get('correlation')})", file=sys.stderr)  # noqa: T201 - the front logs what a worker prints
        traceback.print_exc()
