"""One worker process: given its model, spoken to over a socket, and ended."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog

from prinz_enricher.errors import EnricherError, InvalidInput, ModelError, OutputMismatch, Violation
from prinz_enricher.ipc.batches import BatchReader, BatchWriter, has_at_most
from prinz_enricher.ipc.faults import FrameError, FrameTooLarge
from prinz_enricher.ipc.frames import Frame, FrameKind, FrameSocket, encode_value
from prinz_enricher.provision.file_lock import PrivateFolder
from prinz_enricher.provision.memory import resident
from prinz_enricher.provision.progress import report_step
from prinz_enricher.scoring.launch.child import Child, poll, poller_of
from prinz_enricher.scoring.launch.provisions import Provide, Provisions
from prinz_enricher.scoring.launch.spares import Spares
from prinz_enricher.scoring.ports import Target
from prinz_enricher.scoring.worker import Answer, Loaded, LoadFailed, OutputsObserved, WorkerDied
from prinz_enricher.signature.arrow import input_schema, output_schema
from prinz_enricher.signature.types import Origin, Signature

_MOST_AHEAD = 1 << 20
"""Bytes of a batch that is sent while its worker makes another call: of more, the sealed memory that it takes so that
nobody blocks costs more than the wait that it saves (88 MB: 118 ms, and 40 by the socket)."""


_LONGEST_STEP = 100


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a worker process may do.

    Attributes:
        memory: Bytes of memory that it may hold; None for no limit.
        file: Bytes that a file of it may have; None for no limit.
        open_files: Descriptors that it may have; None for no limit.
        network: Whether it may use the network.
    """

    memory: int | None = None
    file: int | None = None
    open_files: int | None = None
    network: bool = False


class WorkerProcess:
    """Runs one model version in a process of its own."""

    def __init__(
        self,
        target: Target,
        provide: Provide,
        *,
        variables: Callable[[Path, Path | None], dict[str, str]],
        end_grace: float,
        confinement: Confinement | None = None,
        spares: Spares | None = None,
        on_observed: Callable[[Target, str], object] = lambda *_: None,
        exact_batching: bool = False,
    ) -> None:
        """Prepare a worker that is not started.

        Args:
            target: The version.
            provide: Gets the model's files and its environment.
            variables: Gives the process's environment variables for its private folder, and the folder of the worker's
                code where its interpreter is not this one.
            end_grace: Seconds that the process gets to end when asked to.
            confinement: What it may do; all by default.
            spares: What the process is forked from; by default it is started by itself.
            on_observed: Called with the outputs that the model gives, as MLflow's JSON of a schema, where they are not
                those declared and may take their place.
            exact_batching: Whether rows may share a call only where that changes no bit of an answer.
        """
        self._target = target
        self._provide = provide
        self._variables = variables
        self._end_grace = end_grace
        self._confinement = confinement
        self._spares = spares
        self._spawned = False
        self._on_observed = on_observed
        self._exact_batching = exact_batching
        self._log = structlog.get_logger(__name__).bind(model=target.name, version=target.version)
        self._outputs = output_schema(target.signature)
        self._lock = threading.Lock()
        self._killed = False
        self._child: Child | None = None
        self._frames: FrameSocket | None = None
        # Of one child, and made with the first answer that is waited for.
        self._poller: select.poll | None = None
        self._provisions: Provisions | None = None
        self._writer = BatchWriter()
        self._reader = BatchReader()
        self._given: dict[int, tuple[int, str]] = {}
        self._folder: PrivateFolder | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    # The life of the process.

    def start(self) -> Loaded:
        """Get what the model needs, spawn the process and have it load the model."""
        began = time.monotonic()
        self._folder = PrivateFolder()
        self._provisions = self._provide(self._target, lambda: self._killed)
        report_step("starting a worker")
        self._spawn(self._folder.path, self._provisions)
        try:
            ready = self._load(self._provisions.model)
        except WorkerDied:
            if self._spares is not None:
                self._spares.avoid(self._target)
            raise
        self._log.info("a worker is ready", **{key: ready[key] for key in sorted(ready)})
        seconds = {**self._provisions.seconds, **_numbers(ready.get("seconds")), "all": time.monotonic() - began}
        note = str(ready.get("note") or "")
        return Loaded(str(ready.get("path")), ready.get("batching") is True, seconds, note)

    def _load(self, model: Path) -> dict[str, Any]:
        signature = self._target.signature
        schemas = [input_schema(signature).serialize(), self._outputs.serialize()]
        meta: dict[str, object] = {
            "path": str(model),
            "schemas": [schema.size for schema in schemas],
            "exact": self._exact_batching,
            "observe": self._target.observe,
        }
        if signature.origin is Origin.OBSERVED:
            meta["observed"] = _named_outputs(signature)
        if self._confinement is not None and self._folder is not None:
            meta["sandbox"] = {**asdict(self._confinement), "writable": [str(self._folder.path)]}
        if signature.params:
            meta["params"] = encode_value({param.name: param.default for param in signature.params})
        self._send(FrameKind.LOAD, meta, body=schemas)
        while (frame := self._receive()).kind is FrameKind.STEP:
            report_step(str(frame.meta.get("step"))[:_LONGEST_STEP])
        if frame.kind is FrameKind.FAILED:
            why = str(frame.meta.get("why", "unknown"))
            if isinstance(outputs := frame.meta.get("observed"), str):
                self._on_observed(self._target, outputs)
                raise OutputsObserved(why, outputs)
            raise LoadFailed(why)
        if frame.kind is not FrameKind.READY:
            raise WorkerDied("it spoke out of turn")
        return frame.meta

    def _spawn(self, folder: Path, provisions: Provisions) -> None:
        server = None
        if self._spares is not None:
            self._spawned = True
            server = self._spares.of(self._target, provisions.python, provisions.code)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            child = Child(
                "prinz_enricher.worker",
                theirs.fileno(),
                environment=self._variables(folder, provisions.code),
                folder=folder,
                log=self._log,
                python=provisions.python,
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

    def kill(self) -> None:
        """End the process, and those it started, at once."""
        with self._lock:
            self._killed = True
            if self._child is not None:
                self._child.kill()
        self.wake()

    def end(self) -> str:
        """End the process: by the end of its input, then by SIGTERM, then by SIGKILL."""
        ended = self._let_go_of_child()
        with self._lock:
            for fd in (self._wake_read, self._wake_write):
                if fd >= 0:
                    os.close(fd)
            self._wake_read = self._wake_write = -1
        if self._provisions is not None:
            if self._spares is not None and self._spawned:
                self._spares.let_go(self._provisions.python)
            self._provisions.close()
            self._provisions = None
        if self._folder is not None:
            self._folder.remove()
        return ended

    def _let_go_of_child(self) -> str:
        self._poller = None
        if self._frames is not None:
            self._frames.close()
            self._frames = None
        child = self._child
        if child is None:
            return "not started"
        ended = child.end(self._end_grace)
        with self._lock:
            self._child = None
        return ended

    def memory(self) -> int:
        """Tell the bytes of memory that the process holds."""
        with self._lock:
            return resident(self._child.pid) if self._child is not None else 0

    # Talking with the process.

    def give(
        self, id: int, batch: pa.RecordBatch, params: Mapping[str, object], correlation: str, deadline: float | None
    ) -> bool:
        """Send a batch to the process; a second one only where its frame is sure not to wait.

        One that waits would block here while the process blocks on its own large answer, for ever.
        """
        behind = bool(self._given)
        if behind and not has_at_most(batch, _MOST_AHEAD):
            return False
        meta: dict[str, object] = {"correlation": correlation}
        if params:
            meta["params"] = encode_value(params)
        parts, schema_size = self._writer.parts(batch)
        if not self._send(FrameKind.SCORE, meta, id=id, body=parts, schema_size=schema_size, small_only=behind):
            # Its schema is not known to the process then.
            self._writer = BatchWriter()
            return False
        self._given[id] = (batch.num_rows, correlation)
        return True

    def take(self, seconds: float | None = None) -> Answer | None:
        """Receive the process's next answer."""
        frames = self._frames
        if frames is None:
            raise WorkerDied("not started")
        exit_fd = self._child.exit_fd if self._child is not None else None
        if self._poller is None:
            self._poller = poller_of([self._wake_read, frames.fileno(), *(() if exit_fd is None else (exit_fd,))])
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

    def _read_answer(self, frame: Frame) -> Answer:
        rows, correlation = self._given.pop(frame.id, (0, ""))
        if not rows:
            raise WorkerDied("it answered what it was not asked")
        if frame.kind is FrameKind.RAISED:
            return Answer(frame.id, self._error(frame, correlation), 0.0)
        if frame.kind is not FrameKind.SCORES:
            raise WorkerDied("it spoke out of turn")
        try:
            scores = self._reader.read(frame)
        except FrameError as exc:
            raise WorkerDied(str(exc)) from exc
        if not scores.schema.equals(self._outputs) or scores.num_rows != rows:
            raise WorkerDied("it sent scores of another schema")
        compute = frame.meta.get("compute")
        return Answer(frame.id, scores, compute if isinstance(compute, float) else 0.0)

    def _error(self, frame: Frame, correlation: str) -> EnricherError:
        why = str(frame.meta.get("why", ""))
        match frame.meta.get("kind"):
            case "invalid_input":
                return InvalidInput([Violation("input", why)])
            case "output_mismatch":
                return OutputMismatch(self._target.name, self._target.version, why)
        exception = str(frame.meta.get("exception", "unknown"))
        return ModelError(self._target.name, self._target.version, exception, correlation)

    def _send(
        self,
        kind: FrameKind,
        meta: Mapping[str, object],
        *,
        id: int = 0,
        body: list[pa.Buffer | bytes] | list[pa.Buffer],
        schema_size: int = 0,
        small_only: bool = False,
    ) -> bool:
        if self._frames is None:
            raise WorkerDied("not started")
        try:
            return self._frames.send(kind, meta, id=id, body=body, schema_size=schema_size, small_only=small_only)
        except FrameTooLarge as exc:
            # Nothing was sent: the worker goes on.
            self._writer = BatchWriter()
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
        """Block until there is something to read; a process that is gone leaves nothing to wait for.

        The end of the stream alone does not show it: a process that the model forked holds the socket open too.
        """
        if self._frames is not None and self._child is not None and self._child.exit_fd is not None:
            socket_fd = self._frames.fileno()
            if socket_fd not in poll([socket_fd, self._child.exit_fd], None):
                raise WorkerDied("it ended")

    def wake(self) -> None:
        """End a `take`."""
        with self._lock:
            if self._wake_write >= 0:
                # A full pipe wakes as well.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b"\0")


def _named_outputs(signature: Signature) -> tuple[bool, list[str]]:
    """Return whether the outputs have names, and which of them every row has."""
    # Outputs without names were given these when the signature was read.
    named = any(field.name != f"output_{place}" for place, field in enumerate(signature.outputs))
    return named, [field.name for field in signature.outputs if named and field.required]


def _numbers(value: object) -> dict[str, float]:
    """Give the seconds that a worker tells, or what of it is numbers."""
    return {str(k): v for k, v in value.items() if isinstance(v, float | int)} if isinstance(value, dict) else {}
