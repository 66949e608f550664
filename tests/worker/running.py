"""A real worker process, and a model that tries what its rows say."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from prinz_enricher.ipc.batches import BatchReader, BatchWriter
from prinz_enricher.ipc.frames import Frame, FrameKind, FrameSocket
from prinz_enricher.provision.child_process import ForkedProcess, ForkServer, has_ended
from tests.support.script import run_script

PATIENCE = 60.0
"""Seconds after which what should have come counts as lost."""

INPUTS = pa.schema([pa.field("do", pa.utf8(), nullable=False), pa.field("value", pa.utf8(), nullable=False)])
OUTPUTS = pa.schema([pa.field("output_0", pa.utf8(), nullable=False)])

MODEL = """
import ctypes, gc, mmap, os, resource, signal, socket, subprocess, sys, threading, time
import numpy as np
import mlflow.models
from mlflow.pyfunc import PythonModel


def echo(value):
    return value


def say(value):
    print(value, flush=True)
    os.write(1, value.encode())
    return "said"


def allocate(value):
    return str(len(np.ones(int(value) // 8)))


def connect(value):
    socket.socket(getattr(socket, value), socket.SOCK_STREAM).close()
    return "made"


def frozen(value):
    return str(gc.get_freeze_count())


def listen(value):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()):
            return "connected"


def write(value):
    with open(value, "w") as file:
        return str(file.write("words"))


def grow(value):
    with open("grown", "wb") as file:
        file.write(bytes(int(value)))
    return "grown"


def read(value):
    with open(value, "rb") as file:
        return file.read().decode("utf-8", "replace")


def kill(value):
    os.kill(int(value), 0)
    return "could be killed"


def limit(value):
    resource.prlimit(int(value), resource.RLIMIT_CORE, (0, 0))
    return "limited"


def environment(value):
    return repr(dict(os.environ))


def twice(value):
    return "child" if os.fork() == 0 else "parent"


def leave_child(value):
    child = os.fork()
    if not child:
        time.sleep(600)
        os._exit(0)
    return str(child)


def call(value):
    # Parts of a system call: its number, and its arguments.
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(*[ctypes.c_long(int(one)) for one in value.split()])
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return str(result)


def started(value):
    return subprocess.run([sys.executable, "-c", value], capture_output=True, text=True).stderr.strip().splitlines()[-1]


def in_thread(value):
    found = []
    thread = threading.Thread(target=lambda: found.append(attempt("connect", value)))
    thread.start()
    thread.join()
    return found[0]


def processes(value):
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return str(pool.apply(abs, (int(value),)))


def python(value):
    names = {}
    exec(value, names)
    return str(names["found"])


def descriptors(value):
    kept = []
    try:
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        # Kept, so that the answer has to go without one.
        globals()["_kept"] = kept
        return "x" * int(value)


def release(value):
    for one in globals().pop("_kept"):
        os.close(one)
    return "released"


def attempt(do, value):
    try:
        return globals()[do](value)
    except OSError as exc:
        return type(exc).__name__ + " " + str(exc.errno)


class Scripted(PythonModel):
    def load_context(self, context):
        self.loaded = os.environ.get("PRINZ_TEST_AT_LOAD")
        if self.loaded:
            attempt(*self.loaded.split(" ", 1))

    def predict(self, context, model_input, params=None):
        return [
            attempt(do, value) if do in globals() else "" for do, value in zip(model_input["do"], model_input["value"])
        ]


mlflow.models.set_model(Scripted())
"""

SAVE = """
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

signature = ModelSignature(
    Schema([ColSpec("string", "do"), ColSpec("string", "value")]), Schema([ColSpec("string")])
)
mlflow.pyfunc.save_model(sys.argv[1], python_model=sys.argv[2], signature=signature, pip_requirements=["mlflow"])
"""


def save_model(folder: Path) -> Path:
    """Save the model with MLflow."""
    code = folder / "scripted_model.py"
    code.write_text(MODEL)
    run_script(SAVE, str(folder / "model"), str(code), folder=folder)
    return folder / "model"


def worker_environment(folder: Path) -> dict[str, str]:
    """Return the environment variables of a worker whose own folder this is."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONPYCACHEPREFIX": os.environ.get("PYTHONPYCACHEPREFIX", ""),
        "TMPDIR": str(folder),
    }


class RunningWorker:
    """A worker process and this side of its socket.

    Attributes:
        process: The process; its output goes to `printed`.
        folder: Its working directory, which is its own.
        frames: This side.
        unconfined: What is not in force, as it told when it was ready.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str] | None = None, server: ForkServer | None = None
    ) -> None:
        self.folder = folder
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        variables = worker_environment(folder) | dict(environment or {})
        self.process: subprocess.Popen[bytes] | ForkedProcess
        with theirs:
            if server is not None:
                output = self._output.fileno()
                with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device
                    fds = [nothing.fileno(), output, output, theirs.fileno()]
                    self.process = server.fork(
                        "prinz_enricher.worker.__main__", ["--parent", str(os.getpid())], variables, folder, fds
                    )
            else:
                self.process = subprocess.Popen(
                    [
                        *(sys.executable, "-P", "-m", "prinz_enricher.worker"),
                        *("--fd", str(theirs.fileno()), "--parent", str(os.getpid())),
                    ],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=self._output,
                    env=variables,
                    cwd=folder,
                    start_new_session=True,
                )
        self.frames = FrameSocket(ours)
        self._writer, self._reader = BatchWriter(), BatchReader()
        self._jobs = 0
        self.unconfined: dict[str, str] = {}

    def load(self, model: Path, **meta: object) -> Frame:
        """Have it load a model."""
        schemas = [INPUTS.serialize(), OUTPUTS.serialize()]
        sizes = [schema.size for schema in schemas]
        self.frames.send(FrameKind.LOAD, {"path": str(model), "schemas": sizes, **meta}, body=schemas)
        while (frame := self.answer()).kind is FrameKind.STEP:
            assert frame.meta["step"] in ("importing MLflow", "loading the model", "trying the model")
        told = frame.meta.get("unconfined")
        self.unconfined = told if isinstance(told, dict) else {}
        return frame

    def answer(self) -> Frame:
        """Wait for the next frame."""
        frame = self.frames.receive()
        assert frame is not None, self.printed()
        return frame

    def ask(self, *pairs: tuple[str, str]) -> Frame:
        """Have it score rows."""
        self._jobs += 1
        dos, values = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        batch = pa.RecordBatch.from_arrays([pa.array(dos), pa.array(values)], schema=INPUTS)
        parts, schema_size = self._writer.parts(batch)
        self.frames.send(FrameKind.SCORE, {}, id=self._jobs, body=parts, schema_size=schema_size)
        frame = self.answer()
        assert frame.id == self._jobs
        return frame

    def do(self, what: str, value: str = "") -> str:
        """Have the model do one thing, and tell what came of it."""
        frame = self.ask((what, value))
        assert frame.kind is FrameKind.SCORES, frame.meta
        return str(self._reader.read(frame).column(0)[0].as_py())

    def printed(self) -> str:
        """Give what it has printed so far."""
        return os.pread(self._output.fileno(), 1 << 20, 0).decode("utf-8", "replace")

    def end(self) -> int:
        """End it by the end of its input.

        Returns:
            Its exit code.
        """
        self.frames.close()
        try:
            assert self.process.returncode is not None or has_ended(self.process.pid, PATIENCE)
            return self.process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            self.process.wait()
            self._output.close()


@contextlib.contextmanager
def running(
    folder: Path,
    model: Path | None = None,
    *,
    environment: Any = None,
    server: ForkServer | None = None,
    **meta: object,
) -> Iterator[RunningWorker]:
    """Run a worker, started by itself or forked by a server; with a model, load it."""
    worker = RunningWorker(folder, environment, server)
    try:
        if model is not None:
            frame = worker.load(model, **meta)
            assert frame.kind is FrameKind.READY, worker.printed()
        yield worker
    finally:
        worker.end()
