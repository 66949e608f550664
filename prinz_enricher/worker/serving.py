"""The worker's side of the connection: it loads one model, then scores one batch after the other."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa

from prinz_enricher.ipc.batches import BatchReader, BatchWriter
from prinz_enricher.ipc.faults import FrameError, FrameTooLarge, OutputDiffers, WorkerFault
from prinz_enricher.ipc.frames import Frame, FrameKind, FrameSocket, decode_value

from .sandbox import Policy, SandboxReport, confine
from .trial import OutputsDiffer, UnfitModel, sentence

_LONGEST_REASON = 400
_CREDENTIALS = re.compile(r"://[^/@\s]*@")
_STEPS = {
    "import": "importing MLflow",
    "confine": "confining the worker",
    "load": "loading the model",
    "try": "trying the model",
}


def serve(frames: FrameSocket) -> int:
    """Serve until the front closes the socket; return the exit code."""
    # A process that a model forks must not answer as well, nor keep the connection open.
    os.register_at_fork(after_in_child=frames.abandon)
    process = os.getpid()
    began = time.monotonic()
    if "mlflow.pyfunc" not in sys.modules:
        frames.send(FrameKind.STEP, {"step": _STEPS["import"]})
    failure = _import()
    imported = time.monotonic()
    frame = frames.receive()
    if frame is None:
        return 0
    if frame.kind is not FrameKind.LOAD:
        raise FrameError("the first frame is not LOAD")
    kind, meta, model = _load(frame, failure, [began, imported, time.monotonic()], frames)
    _end_if_forked(process)
    # What is there now stays: to look through all of it again and again would make some call wait each time.
    gc.collect()
    gc.freeze()
    frames.send(kind, meta)
    if model is None:
        return 1
    reader, writer = BatchReader(), BatchWriter()
    while (frame := frames.receive()) is not None:
        if frame.kind is not FrameKind.SCORE:
            raise FrameError("a frame is not SCORE")
        answer = _score(frame, model, reader, writer)
        _end_if_forked(process)
        try:
            frames.send(answer.kind, answer.meta, id=frame.id, body=answer.body, schema_size=answer.schema_size)
        except FrameTooLarge:
            # The writer counts its schema as sent.
            writer, why = BatchWriter(), "it has more bytes than a worker can hand on"
            meta = {"kind": OutputDiffers.kind, "exception": FrameTooLarge.__name__, "why": why}
            frames.send(FrameKind.RAISED, meta, id=frame.id)
        # Large, and of no use while the next one is waited for.
        del frame, answer
    return 0


def _import() -> BaseException | None:
    """Import all that is needed; return why that failed."""
    try:
        import mlflow.pyfunc

        from . import loaded_model

        del mlflow, loaded_model
    except BaseException as exc:  # noqa: BLE001 - the environment is the model's own
        return exc
    return None


def _end_if_forked(process: int) -> None:
    # A process that the model forked, and that returned from it.
    if os.getpid() != process:
        os._exit(0)


def _load(
    frame: Frame, failure: BaseException | None, times: list[float], frames: FrameSocket
) -> tuple[FrameKind, dict[str, object], Any]:
    """Confine the process and load the model; return the kind and meta of the answer, and the model."""
    stage = "import"
    try:
        if failure is not None:
            raise failure  # noqa: TRY301 - it is reported like any other
        import mlflow

        from .loaded_model import LoadedModel

        stage = "confine"
        report = confine(Policy.read(frame.meta["sandbox"])) if "sandbox" in frame.meta else SandboxReport()
        times.append(time.monotonic())
        stage = "load"
        frames.send(FrameKind.STEP, {"step": _STEPS[stage]})
        observed: Any = frame.meta.get("observed")
        inputs, outputs = _schemas(frame)
        accelerate = frame.meta.get("accelerate") is True
        model = LoadedModel(str(frame.meta["path"]), inputs, outputs, observed, accelerate=accelerate)
        times.append(time.monotonic())
        params, stage = _params(frame), "try"
        frames.send(FrameKind.STEP, {"step": _STEPS[stage]})
        model.warm(params, exact=frame.meta.get("exact") is True)
        times.append(time.monotonic())
    except BaseException as exc:  # noqa: BLE001 - a model raises what it likes
        # Loading runs the model's code too: whatever it raises is the reason, and the front decides what then.
        with contextlib.suppress(Exception):
            traceback.print_exc()
        why = str(exc) if isinstance(exc, UnfitModel) else f"{_STEPS[stage]} failed: {sentence(exc)}"
        failed: dict[str, object] = {"stage": stage, "why": _CREDENTIALS.sub("://", why)[:_LONGEST_REASON]}
        if isinstance(exc, OutputsDiffer) and frame.meta.get("observe") is True:
            failed["observed"] = model.observe(exc.sample.rows, params)
        return FrameKind.FAILED, failed, None
    spans = [round(end - start, 4) for start, end in pairwise(times)]
    ready: dict[str, object] = {
        "pid": os.getpid(),
        "path": model.path,
        "why": model.why,
        "batching": model.sharing.shared,
        "batching_why": model.sharing.why,
        "note": "; ".join(filter(None, (model.acceleration, model.sharing.note))),
        "python": platform.python_version(),
        "mlflow": mlflow.__version__,
        "seconds": dict(zip(("import", "wait", "confine", "load", "warm"), spans, strict=True)),
        "confined": report.confined,
        "unconfined": report.unconfined,
    }
    return FrameKind.READY, ready, model


def _schemas(frame: Frame) -> list[pa.Schema]:
    sizes = frame.meta.get("schemas")
    if not isinstance(sizes, list) or len(sizes) != 2 or sum(sizes) != frame.body.size:
        raise FrameError("LOAD is without its schemas")
    return [pa.ipc.read_schema(part) for part in (frame.body.slice(0, sizes[0]), frame.body.slice(sizes[0]))]


def _params(frame: Frame) -> Any:
    return decode_value(frame.meta["params"]) if "params" in frame.meta else None


class _Answer(NamedTuple):
    kind: FrameKind
    meta: Mapping[str, object]
    body: Sequence[pa.Buffer | bytes] = ()
    schema_size: int = 0


def _score(frame: Frame, model: Any, reader: BatchReader, writer: BatchWriter) -> _Answer:
    array = reader.array(frame) if model.takes_array else None
    batch = reader.read(frame) if array is None else None
    try:
        params = _params(frame)
        began = time.monotonic()
        scores = model.score(batch, params) if array is None else model.score_array(array, params)
        compute = time.monotonic() - began
        if isinstance(scores, pa.RecordBatch):
            parts, schema_size = writer.parts(scores)
        else:
            parts, schema_size = writer.parts_of_doubles(scores, model.outputs)
    except WorkerFault as exc:
        return _Answer(FrameKind.RAISED, {"kind": exc.kind, "exception": type(exc).__name__, "why": str(exc)})
    except BaseException as exc:  # noqa: BLE001 - a model raises what it likes
        # Any of the model's exceptions, SystemExit and KeyboardInterrupt too: none of them ends the worker.
        # Out of memory, or with the stack used up, writing it may fail as well.
        with contextlib.suppress(Exception):
            print(f"the model raised (correlation id {frame.meta.get('correlation')})", file=sys.stderr)  # noqa: T201 - the front logs what a worker prints
            traceback.print_exc()
        return _Answer(FrameKind.RAISED, {"kind": "model_error", "exception": type(exc).__name__})
    return _Answer(FrameKind.SCORES, {"compute": compute}, parts, schema_size)
