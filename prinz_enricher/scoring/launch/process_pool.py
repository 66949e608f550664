"""Worker processes, each spoken to over a socket, and the pool of them."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog

from prinz_enricher.config import WorkerSettings
from prinz_enricher.errors import EnricherError, InvalidInput, ModelError, OutputMismatch, Violation
from prinz_enricher.ipc.batches import BatchReader, BatchWriter, has_at_most
from prinz_enricher.ipc.faults import FrameError, FrameTooLarge
from prinz_enricher.ipc.frames import Frame, FrameKind, FrameSocket, encode_value
from prinz_enricher.provision.child_process import can_fork
from prinz_enricher.provision.file_lock import PrivateFolder, sweep_folders
from prinz_enricher.provision.memory import resident
from prinz_enricher.provision.progress import report_step
from prinz_enricher.provision.variables import worker_variables
from prinz_enricher.scoring.launch.child import Child, poller_of
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import (
    Loaded,
    LoadFailed,
    ModelCall,
    OutputsObserved,
    Provide,
    Target,
    WorkerAnswer,
    WorkerDied,
)
from prinz_enricher.scoring.runtime.spares import Spares, Variables
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from prinz_enricher.signature.arrow import input_schema, output_schema
from prinz_enricher.signature.types import Origin, Signature
from prinz_enricher.telemetry.series import Series

_MAX_AHEAD = 1 << 20
"""Bytes of a batch that is sent while its worker makes another call: for more, the sealed memory that it needs so that
nobody blocks costs more than the wait that it saves (88 MB: 118 ms, and 40 by the socket)."""

_MAX_AT_ONCE = 1 << 16
"""Bytes of a batch that a socket takes whole, and its frame with it."""

_MAX_STEP = 100


class WorkerProcess:
    """Runs one model version in a process of its own."""

    def __init__(
        self,
        target: Target,
        provide: Provide,
        settings: PoolSettings,
        variables: Variables,
        sandbox: Mapping[str, object],
        spares: Spares | None,
        on_observed: Callable[[Target, str], object],
    ) -> None:
        """Prepare a worker that is not started; it will be forked from one of the spares, or started by itself.

        `sandbox` is what it may do: `memory` and `file` (bytes), `open_files`, each None for no limit, and `network`.
        """
        self._target = target
        self._provide = provide
        self._settings = settings
        self._variables = variables
        self._sandbox = sandbox
        self._spares = spares
        self._on_observed = on_observed
        self._log = structlog.get_logger(__name__).bind(model=target.name, version=target.version)
        self._outputs = output_schema(target.signature)
        self._lock = threading.Lock()
        self._killed = False
        self._child: Child | None = None
        self._frames: FrameSocket | None = None
        # Of one child, and made with the first answer that is waited for.
        self._poller: select.poll | None = None
        self._writer = BatchWriter()
        self._reader = BatchReader()
        # Rows and correlation of each batch that was sent, by its id.
        self._sent: dict[int, tuple[int, str]] = {}
        # What is released when the process has ended.
        self._held = contextlib.ExitStack()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    # The life of the process.

    def start(self) -> Loaded:
        """Get what the model needs, start the process and have it load the model."""
        began = time.monotonic()
        folder = PrivateFolder()
        self._held.callback(folder.remove)
        provisions = self._provide(self._target, lambda: self._killed)
        self._held.callback(provisions.close)
        report_step("starting a worker")
        self._spawn(folder.path, provisions.python, provisions.code)
        try:
            ready = self._load(provisions.model, folder.path)
        except WorkerDied:
            if self._spares is not None:
                self._spares.avoid(self._target)
            raise
        self._log.info("a worker is ready", **{key: ready[key] for key in sorted(ready)})
        seconds = {**provisions.seconds, **_numbers(ready.get("seconds")), "all": time.monotonic() - began}
        note = str(ready.get("note") or "")
        return Loaded(str(ready.get("path")), ready.get("batching") is True, seconds, note)

    def _spawn(self, folder: Path, python: Path | None, code: Path | None) -> None:
        server = None
        if self._spares is not None:
            server = self._spares.acquire(self._target, python, code)
            self._held.callback(self._spares.release, python)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            child = Child(
                "prinz_enricher.worker",
                theirs.fileno(),
                environment=self._variables(folder, code),
                folder=folder,
                log=self._log,
                python=python,
                server=server,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._frames = FrameSocket(ours, before_read=self._await_answer)
        with self._lock:
            self._child = child
            if self._killed:
                child.kill()

    def _load(self, model: Path, folder: Path) -> dict[str, Any]:
        signature = self._target.signature
        schemas = [input_schema(signature).serialize(), self._outputs.serialize()]
        meta: dict[str, object] = {
            "path": str(model),
            "schemas": [schema.size for schema in schemas],
            "exact": self._settings.batching == "exact",
            "observe": self._target.observe,
            "accelerate": self._target.accelerate,
            "sandbox": {**self._sandbox, "writable": [str(folder)]},
        }
        if signature.origin is Origin.OBSERVED:
            meta["observed"] = _named_outputs(signature)
        if signature.params:
            meta["params"] = encode_value({param.name: param.default for param in signature.params})
        self._send(FrameKind.LOAD, meta, body=schemas)
        while (frame := self._receive()).kind is FrameKind.STEP:
            report_step(str(frame.meta.get("step"))[:_MAX_STEP])
        if frame.kind is FrameKind.FAILED:
            why = str(frame.meta.get("why", "unknown"))
            if isinstance(outputs := frame.meta.get("observed"), str):
                self._on_observed(self._target, outputs)
                raise OutputsObserved(why, outputs)
            raise LoadFailed(why)
        if frame.kind is not FrameKind.READY:
            raise WorkerDied("it spoke out of turn")
        return frame.meta

    def kill(self) -> None:
        """End the process, and those it started, at once."""
        with self._lock:
            self._killed = True
            if self._child is not None:
                self._child.kill()
        self.wake()

    def end(self) -> str:
        """End the process: by the end of its input, then by SIGTERM, then by SIGKILL."""
        self._poller = None
        if self._frames is not None:
            self._frames.close()
            self._frames = None
        ended = "not started" if self._child is None else self._child.end(self._settings.end_grace)
        with self._lock:
            self._child = None
            for fd in (self._wake_read, self._wake_write):
                if fd >= 0:
                    os.close(fd)
            self._wake_read = self._wake_write = -1
        self._held.close()
        return ended

    def memory(self) -> int:
        """Return the bytes of memory that the process holds."""
        with self._lock:
            return resident(self._child.pid) if self._child is not None else 0

    def wake(self) -> None:
        """End a `receive`."""
        with self._lock:
            if self._wake_write >= 0:
                # A full pipe wakes as well.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b"\0")

    # Batches and answers.

    def send(self, id: int, call: ModelCall) -> bool:
        """Send a call to the process; a second one only if its frame is sure not to wait.

        One that waits would block here while the process blocks on its own large answer, forever.
        """
        ahead = bool(self._sent)
        if ahead and not has_at_most(call.batch, _MAX_AHEAD):
            return False
        meta: dict[str, object] = {"correlation": call.correlation}
        if call.params:
            meta["params"] = encode_value(call.params)
        parts, schema_size = self._writer.parts(call.batch)
        # Before it is sent: another thread may receive its answer.
        self._sent[id] = (call.batch.num_rows, call.correlation)
        sent = False
        try:
            sent = self._send(FrameKind.SCORE, meta, id=id, body=parts, schema_size=schema_size, small_only=ahead)
        finally:
            if not sent:
                # Its schema is not known to the process then.
                del self._sent[id]
                self._writer = BatchWriter()
        return sent

    def sends_at_once(self, batch: pa.RecordBatch) -> bool:
        """Return whether a batch has room in the socket of a process that has nothing to do."""
        return has_at_most(batch, _MAX_AT_ONCE)

    def receive(self, seconds: float | None = None) -> WorkerAnswer | None:
        """Receive the process's next answer."""
        frames = self._frames
        if frames is None:
            raise WorkerDied("not started")
        exit_fd = self._child.exit_fd if self._child is not None else None
        if self._poller is None:
            self._poller = poller_of(self._wake_read, frames.fileno(), exit_fd)
        ready = {fd for fd, _ in self._poller.poll(None if seconds is None else seconds * 1000)}
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        if self._killed:
            raise WorkerDied("killed")
        if frames.fileno() in ready:
            return self._read_answer(self._receive())
        if exit_fd in ready:
            raise WorkerDied("it ended")
        return None

    def _read_answer(self, frame: Frame) -> WorkerAnswer:
        rows, correlation = self._sent.pop(frame.id, (0, ""))
        if not rows:
            raise WorkerDied("it answered what it was not asked")
        if frame.kind is FrameKind.RAISED:
            return WorkerAnswer(frame.id, self._error(frame, correlation), 0.0)
        if frame.kind is not FrameKind.SCORES:
            raise WorkerDied("it spoke out of turn")
        try:
            scores = self._reader.read(frame)
        except FrameError as exc:
            raise WorkerDied(str(exc)) from exc
        if not scores.schema.equals(self._outputs) or scores.num_rows != rows:
            raise WorkerDied("it sent scores of another schema")
        compute = frame.meta.get("compute")
        return WorkerAnswer(frame.id, scores, compute if isinstance(compute, float) else 0.0)

    def _error(self, frame: Frame, correlation: str) -> EnricherError:
        why = str(frame.meta.get("why", ""))
        match frame.meta.get("kind"):
            case "invalid_input":
                return InvalidInput([Violation("input", why)])
            case "output_mismatch":
                return OutputMismatch(self._target.name, self._target.version, why)
        exception = str(frame.meta.get("exception", "unknown"))
        return ModelError(self._target.name, self._target.version, exception, correlation)

    def _send(self, kind: FrameKind, meta: Mapping[str, object], **options: Any) -> bool:
        if self._frames is None:
            raise WorkerDied("not started")
        try:
            return self._frames.send(kind, meta, **options)
        except FrameTooLarge as exc:
            # Nothing was sent: the worker goes on.
            raise InvalidInput([Violation("input", "has more bytes than a model can be given in one call")]) from exc
        except (OSError, FrameError) as exc:
            raise WorkerDied(str(exc)) from exc

    def _receive(self) -> Frame:
        if self._frames is None:
            raise WorkerDied("not started")
        try:
            frame = self._frames.receive()
        except (OSError, FrameError) as exc:
            raise WorkerDied(str(exc)) from exc
        if frame is None:
            raise WorkerDied("it ended")
        return frame

    def _await_answer(self) -> None:
        # The end of the stream alone does not show that a process is gone: one that the model forked holds it open too.
        if self._frames is not None and self._child is not None and self._child.exit_fd is not None:
            fd = self._frames.fileno()
            if fd not in dict(poller_of(fd, self._child.exit_fd).poll()):
                raise WorkerDied("it ended")


def _named_outputs(signature: Signature) -> tuple[bool, list[str]]:
    """Return whether the outputs have names, and which of them every row has."""
    # Outputs without names were given these when the signature was read.
    named = any(field.name != f"output_{place}" for place, field in enumerate(signature.outputs))
    return named, [field.name for field in signature.outputs if named and field.required]


def _numbers(value: object) -> dict[str, float]:
    return {str(k): v for k, v in value.items() if isinstance(v, float | int)} if isinstance(value, dict) else {}


class ProcessPool(VersionPool):
    """Scores in worker processes that load and run one model version each."""

    def __init__(
        self,
        provide: Provide,
        settings: PoolSettings | None = None,
        *,
        workers: WorkerSettings | None = None,
        on_change: Callable[[], object] = lambda: None,
        on_observed: Callable[[Target, str], object] = lambda *_: None,
        series: Series | None = None,
    ) -> None:
        """Make a pool without workers, which may do what the settings `workers` say.

        `on_observed` is called with the outputs that a model was seen to return, as MLflow's JSON of a schema.
        """
        chosen = settings or PoolSettings()
        allowed = workers or WorkerSettings()
        self._isolated = allowed.environment == "isolated"
        sweep_folders()

        def variables(folder: Path, code: Path | None) -> dict[str, str]:
            return worker_variables(os.environ, folder, allowed.pass_variables, code=code)

        def make_worker(target: Target) -> WorkerProcess:
            sandbox = {
                "memory": allowed.memory_limit or self._budget,
                "file": allowed.file_limit,
                "open_files": allowed.open_files,
                "network": any(fnmatchcase(target.name, pattern) for pattern in allowed.network),
            }
            return WorkerProcess(target, provide, chosen, variables, sandbox, self._spares, on_observed)

        spares = Spares(variables) if chosen.spare_workers and can_fork() else None
        super().__init__(make_worker, chosen, on_change, spares, series)

    def retain(self, targets: Collection[Target]) -> None:
        """Unload all other targets after their last job, and have what these will need imported already."""
        super().retain(targets)
        if self._spares is not None and targets:
            if not self._isolated:
                self._spares.expect(target.loader for target in targets)
            self._keep_watch()
