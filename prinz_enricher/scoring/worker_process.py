"""One worker process: spawned, spoken to over a socket, watched, and ended with all it started."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import pyarrow as pa
import structlog

from prinz_enricher.errors import EnricherError, InvalidInput, ModelError, OutputMismatch, Violation
from prinz_enricher.scoring.environment import worker_environment
from prinz_enricher.scoring.folder import PrivateFolder
from prinz_enricher.scoring.pool import Target
from prinz_enricher.scoring.worker import FetchFailed, Loaded, LoadFailed, WorkerDied
from prinz_enricher.signature.arrow import input_schema, output_schema
from prinz_enricher.worker.frames import (
    BatchReader,
    BatchWriter,
    Frame,
    FrameError,
    FrameSocket,
    Kind,
    encode_value,
)

_MOST_LINES = 200
"""Lines of a worker's output that are logged in a second; the rest is counted."""

_LONGEST_LINE = 8192
"""Bytes of a worker's output that are logged as one line."""


class WorkerProcess:
    """Runs one model version in a process of its own."""

    def __init__(
        self,
        target: Target,
        source: Mapping[str, str],
        *,
        end_grace: float,
        access: Callable[[Path], Mapping[str, str] | None] = lambda _: None,
        extra_environment: tuple[str, ...] = (),
        exact_batching: bool = False,
    ) -> None:
        """Prepare a worker that is not started.

        Args:
            target: The version.
            source: Where the model is: `path`, or `registry`, `name` and `version`.
            end_grace: Seconds that the process gets to end when asked to.
            access: Gives the environment variables by which the process reaches its registry, or None.
            extra_environment: More environment variables that the process gets, by name or pattern.
            exact_batching: Whether rows may share a call only where that changes no bit of an answer.
        """
        self._target = target
        self._source = dict(source)
        self._end_grace = end_grace
        self._access = access
        self._extra_environment = extra_environment
        self._exact_batching = exact_batching
        self._log = structlog.get_logger(__name__).bind(model=target.name, version=target.version)
        self._outputs = output_schema(target.signature)
        self._lock = threading.Lock()
        self._killed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._exit_fd: int | None = None
        self._frames: FrameSocket | None = None
        self._writer = BatchWriter()
        self._reader = BatchReader()
        self._jobs = 0
        self._printed: threading.Thread | None = None
        self._folder: PrivateFolder | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    # The life of the process.

    def start(self) -> Loaded:
        """Spawn the process and have it load the model."""
        self._folder = PrivateFolder()
        # Now and not earlier: a token does not live long.
        access = self._access(self._folder.path)
        self._spawn(str(self._folder.path), access)
        schemas = [input_schema(self._target.signature).serialize(), self._outputs.serialize()]
        meta: dict[str, object] = {
            **self._source,
            "folder": str(self._folder.path / "model"),
            "schemas": [schema.size for schema in schemas],
            "exact": self._exact_batching,
        }
        if self._target.signature.params:
            meta["params"] = encode_value({param.name: param.default for param in self._target.signature.params})
        frame = self._ask(Kind.LOAD, meta, body=schemas)
        if frame.kind is Kind.FAILED:
            kind = FetchFailed if frame.meta.get("may_pass") else LoadFailed
            raise kind(str(frame.meta.get("why", "unknown")))
        if frame.kind is not Kind.READY:
            raise WorkerDied("it spoke out of turn")
        self._log.info("a worker is ready", **{key: frame.meta[key] for key in sorted(frame.meta)})
        return Loaded(str(frame.meta.get("path")), frame.meta.get("batching") is True)

    def _spawn(self, folder: str, access: Mapping[str, str] | None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        read_end, write_end = os.pipe()
        try:
            with self._lock:
                if self._killed:
                    raise WorkerDied("killed")  # noqa: TRY301 - the clean-up below is for it too
                self._process = subprocess.Popen(
                    # -P: neither the working directory nor a script's folder is a place for modules.
                    [
                        *(sys.executable, "-P", "-m", "prinz_enricher.worker"),
                        *("--fd", str(theirs.fileno()), "--parent", str(os.getpid())),
                    ],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=write_end,
                    stderr=write_end,
                    env=worker_environment(os.environ, folder, self._extra_environment, access),
                    cwd=folder,
                    # Ctrl-C in a terminal goes to a whole session; how a worker ends is the pool's to say.
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            os.close(read_end)
            raise
        finally:
            theirs.close()
            os.close(write_end)
        self._frames = FrameSocket(ours, before_read=self._await_answer)
        if hasattr(os, "pidfd_open"):
            self._exit_fd = os.pidfd_open(self._process.pid)
        self._printed = threading.Thread(
            target=self._log_output, args=(os.fdopen(read_end, "rb"),), name="worker-output", daemon=True
        )
        self._printed.start()

    def kill(self) -> None:
        """End the process, and those it started, at once."""
        with self._lock:
            self._killed = True
            if self._process is not None and self._process.returncode is None:
                self._signal_group(signal.SIGKILL)
        self.wake()

    def end(self) -> str:
        """End the process: by the end of its input, then by SIGTERM, then by SIGKILL."""
        if self._frames is not None:
            self._frames.close()
        ended = self._reap() if self._process is not None else "not started"
        if self._printed is not None:
            # A process that the model started, and that left its group, may hold the pipe for ever.
            self._printed.join(1.0)
        with self._lock:
            for fd in (self._exit_fd, self._wake_read, self._wake_write):
                if fd is not None:
                    os.close(fd)
            self._exit_fd = None
            self._wake_read = self._wake_write = -1
        if self._folder is not None:
            self._folder.remove()
        return ended

    def _reap(self) -> str:
        process = self._process
        if process is None:
            return "not started"
        if not self._exits_within(self._end_grace):
            self._signal_group(signal.SIGTERM)
            self._exits_within(1.0)
        # What the model started ends with it. The process itself is not reaped yet, so its id is still its own.
        self._signal_group(signal.SIGKILL)
        with self._lock:
            code = process.wait()
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def _exits_within(self, seconds: float) -> bool:
        process = self._process
        if process is None:
            return True
        if self._exit_fd is not None:
            return bool(_poll([self._exit_fd], seconds))
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _signal_group(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _log_output(self, stream: IO[bytes]) -> None:
        """Pass on what the process prints, line by line."""
        second, lines = 0, 0
        with stream:
            while line := stream.readline(_LONGEST_LINE):
                now = int(time.monotonic())
                if now != second:
                    if lines > _MOST_LINES:
                        self._log.warning("worker output left out", lines=lines - _MOST_LINES)
                    second, lines = now, 0
                text = line.decode("utf-8", "replace").rstrip()
                lines += 1
                # A model that prints for each row must not fill the disk that the logs are on.
                if text and lines <= _MOST_LINES:
                    self._log.info("worker output", line=text)

    # Talking with the process.

    def score(
        self, batch: pa.RecordBatch, params: Mapping[str, object], correlation: str
    ) -> tuple[pa.RecordBatch, float]:
        """Have the process score a batch."""
        meta: dict[str, object] = {"correlation": correlation}
        if params:
            meta["params"] = encode_value(params)
        self._jobs += 1
        parts, schema_size = self._writer.parts(batch)
        frame = self._ask(Kind.SCORE, meta, id=self._jobs, body=parts, schema_size=schema_size)
        if frame.id != self._jobs:
            raise WorkerDied("it answered another job")
        if frame.kind is Kind.RAISED:
            raise self._error(frame, correlation)
        if frame.kind is not Kind.SCORES:
            raise WorkerDied("it spoke out of turn")
        try:
            scores = self._reader.read(frame)
        except FrameError as exc:
            raise WorkerDied(str(exc)) from exc
        if not scores.schema.equals(self._outputs) or scores.num_rows != batch.num_rows:
            raise WorkerDied("it sent scores of another schema")
        compute = frame.meta.get("compute")
        return scores, compute if isinstance(compute, float) else 0.0

    def _error(self, frame: Frame, correlation: str) -> EnricherError:
        why = str(frame.meta.get("why", ""))
        match frame.meta.get("kind"):
            case "invalid_input":
                return InvalidInput([Violation("input", why)])
            case "output_mismatch":
                return OutputMismatch(self._target.name, self._target.version, why)
        exception = str(frame.meta.get("exception", "unknown"))
        return ModelError(self._target.name, self._target.version, exception, correlation)

    def _ask(
        self,
        kind: Kind,
        meta: Mapping[str, object],
        *,
        id: int = 0,
        body: list[pa.Buffer | bytes] | list[pa.Buffer],
        schema_size: int = 0,
    ) -> Frame:
        if self._frames is None:
            raise WorkerDied("not started")
        try:
            self._frames.send(kind, meta, id=id, body=body, schema_size=schema_size)
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
        if self._frames is not None and self._exit_fd is not None:
            socket_fd = self._frames.fileno()
            if socket_fd not in _poll([socket_fd, self._exit_fd], None):
                raise WorkerDied("it ended")

    def wait(self, seconds: float | None = None) -> bool:
        """Block until woken, or some seconds have passed; False where the process has ended."""
        if self._frames is None:
            return False
        ready = _poll([self._wake_read, self._frames.fileno(), *filter(None, [self._exit_fd])], seconds)
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
            ready.discard(self._wake_read)
        # A worker never speaks unasked: anything else that is ready is its end, or as good as that.
        return not ready and not self._killed

    def wake(self) -> None:
        """End a `wait`."""
        with self._lock:
            if self._wake_write >= 0:
                # A full pipe wakes as well.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b"\0")


def _poll(fds: list[int], seconds: float | None) -> set[int]:
    """Wait until one of the descriptors can be read or has ended."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return {fd for fd, _ in poller.poll(None if seconds is None else seconds * 1000)}
