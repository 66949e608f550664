"""What only real worker processes can show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.typing import EventDict

from prinz_enricher.errors import DeadlineExceeded, EnricherError, InvalidInput, ModelError, ModelLoadFailed
from prinz_enricher.scoring.launch.process_pool import ProcessPool
from prinz_enricher.scoring.ports import Job, Provisions, ScoreResult, WorkerState
from tests.scoring.scripted import FAST, PATIENCE, Call, rows, target_of, until


@pytest.fixture(scope="module")
def logged() -> Iterator[list[EventDict]]:
    """What the pool logs, the output of its workers among it."""
    with structlog.testing.capture_logs() as logs:
        yield logs


@pytest.fixture(scope="module")
def processes(logged: list[EventDict], model_folder: Path) -> Iterator[ProcessPool]:
    """A pool of processes that starts when its logs are kept."""
    assert logged == []
    pool = ProcessPool(lambda target, _: Provisions(model_folder / target.version.replace("1", ".")), FAST)
    try:
        yield pool
    finally:
        pool.close(5.0)


def last_pid(logged: list[EventDict]) -> int:
    """Tell the process id of the newest worker."""
    return int([entry["pid"] for entry in logged if entry["event"] == "a worker is ready"][-1])


def exists(pid: int) -> bool:
    """Tell whether a process is there and runs; one that is dead but not reaped is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_a_model_prints_is_logged_and_disturbs_nothing(processes: ProcessPool, logged: list[EventDict]) -> None:
    """Python's prints and raw writes to the standard output both end as log lines with the model's name."""
    assert Call(processes, target_of(), rows(("print", 1.0))).values() == [2.0]
    until(lambda: {"a line of the model", "a raw line of the model"} <= {str(entry.get("line")) for entry in logged})
    line = next(entry for entry in logged if entry.get("line") == "a line of the model")
    assert (line["model"], line["version"]) == ("scripted", "1")


def test_the_traceback_is_in_the_log_under_the_correlation_id(processes: ProcessPool, logged: list[EventDict]) -> None:
    """The caller gets an id; whoever runs the service finds the traceback with it."""
    outcome = Call(processes, target_of(), rows(("raise", 1.0))).outcome()
    assert isinstance(outcome, ModelError)
    correlation = outcome.metadata["correlation_id"]
    until(lambda: any(correlation in str(entry.get("line")) for entry in logged))
    until(lambda: any("ValueError: the caller's 1.0" in str(entry.get("line")) for entry in logged))


def test_a_model_that_raises_system_exit_goes_on(processes: ProcessPool, logged: list[EventDict]) -> None:
    """Even what would end an interpreter is an exception of the model and no more."""
    Call(processes, target_of(), rows(("", 1.0))).values()
    before = last_pid(logged)
    outcome = Call(processes, target_of(), rows(("leave", 1.0))).outcome()
    assert isinstance(outcome, ModelError)
    assert outcome.metadata["exception"] == "SystemExit"
    assert Call(processes, target_of(), rows(("", 1.0))).values() == [2.0]
    assert last_pid(logged) == before


def test_too_few_rows_from_a_model_are_an_output_mismatch(processes: ProcessPool) -> None:
    """Rows out must equal rows in."""
    assert Call(processes, target_of(), rows(("few", 1.0), ("", 1.0))).reason() == "OUTPUT_MISMATCH"


def test_how_a_worker_died_is_told(processes: ProcessPool, logged: list[EventDict]) -> None:
    """An exit code or a signal is in the error."""
    outcome = Call(processes, target_of(), rows(("exit", 3.0))).outcome()
    assert isinstance(outcome, ModelError)
    assert outcome.metadata["exception"] == "worker died: exit code 3"
    Call(processes, target_of(), rows(("", 1.0))).values()
    call = Call(processes, target_of(), rows(("sleep", 30.0)))
    until(lambda: Path(f"/proc/{last_pid(logged)}").exists())
    first = last_pid(logged)
    os.kill(first, signal.SIGKILL)
    # A death may be chance: the job gets one more worker.
    until(lambda: last_pid(logged) != first)
    os.kill(last_pid(logged), signal.SIGKILL)
    killed = call.outcome()
    assert isinstance(killed, ModelError)
    assert killed.metadata["exception"] == "worker died: killed by signal 9"
    assert Call(processes, target_of(), rows(("", 1.0))).values() == [2.0]


def test_a_worker_that_dies_idle_costs_no_job(processes: ProcessPool, logged: list[EventDict]) -> None:
    """The death is noticed when it happens, so that the next job meets a fresh worker."""
    Call(processes, target_of(), rows(("", 1.0))).values()
    os.kill(last_pid(logged), signal.SIGKILL)
    until(lambda: processes.status(target_of()).state is WorkerState.LOADING)
    assert Call(processes, target_of(), rows(("", 1.0))).values() == [2.0]


def test_what_no_worker_can_be_given_harms_nobody(processes: ProcessPool, logged: list[EventDict]) -> None:
    """Parameters of megabytes are refused, and the worker that they were for goes on."""
    Call(processes, target_of(), rows(("", 1.0))).values()
    before = last_pid(logged)
    answered = threading.Event()
    outcomes: list[ScoreResult | EnricherError] = []

    def done(outcome: ScoreResult | EnricherError) -> None:
        outcomes.append(outcome)
        answered.set()

    processes.submit(Job(target_of(), rows(("", 1.0)), {"factor": 2.0, "text": "ж" * 800_000}, None, done))
    assert answered.wait(PATIENCE)
    assert isinstance(outcomes[0], InvalidInput)
    assert Call(processes, target_of(), rows(("", 1.0))).values() == [2.0]
    assert last_pid(logged) == before


def test_a_worker_that_hangs_is_killed_and_replaced(processes: ProcessPool, logged: list[EventDict]) -> None:
    """At its deadline the caller is told, after the grace the worker is gone, then the next one serves."""
    Call(processes, target_of(), rows(("", 1.0))).values()
    hung = last_pid(logged)
    call = Call(processes, target_of(), rows(("sleep", 600.0)), within=0.2)
    behind = Call(processes, target_of(), rows(("", 1.0)))
    outcome = call.outcome()
    assert isinstance(outcome, DeadlineExceeded)
    assert outcome.metadata["where"] == "compute"
    assert behind.values() == [2.0]
    assert not exists(hung)


def test_a_death_is_seen_though_a_child_of_the_model_lives(processes: ProcessPool) -> None:
    """A process that the model forked holds the socket open, and ends with the worker."""
    Call(processes, target_of(), rows(("", 1.0))).values()
    began = time.monotonic()
    outcome = Call(processes, target_of(), rows(("fork", 600.0))).outcome()
    assert isinstance(outcome, ModelError)
    assert outcome.metadata["exception"] == "worker died: exit code 4"
    assert time.monotonic() - began < PATIENCE / 2
    assert Call(processes, target_of(), rows(("", 1.0))).values() == [2.0]


def test_a_large_batch_comes_back_whole(processes: ProcessPool) -> None:
    """More than a socket's buffer holds, both ways."""
    call = Call(processes, target_of(), rows(*[("", float(i)) for i in range(200_000)]))
    assert call.values() == [2.0 * i for i in range(200_000)]


def test_why_a_model_can_not_be_loaded_is_told(processes: ProcessPool) -> None:
    """The reason is one sentence without a traceback."""
    outcome = Call(processes, target_of(version="7"), rows(("", 1.0))).outcome()
    assert isinstance(outcome, ModelLoadFailed)
    assert "loading the model failed" in outcome.message
    assert "\n" not in outcome.message
    assert processes.status(target_of(version="7")).state is WorkerState.FAILED


def test_close_does_not_wait_for_a_model_that_nobody_waits_for(model_folder: Path) -> None:
    """Loading is broken off, since no job needs it."""
    pool = ProcessPool(lambda _target, _cancelled: Provisions(model_folder), FAST)
    try:
        pool.load(target_of())
        assert pool.status(target_of()).state is WorkerState.LOADING
    finally:
        began = time.monotonic()
        pool.close(PATIENCE)
    assert time.monotonic() - began < PATIENCE / 2


FRONT = """
import json, sys, threading, time
from pathlib import Path
import numpy as np, pyarrow as pa, structlog
sys.path.insert(0, sys.argv[2])
import scripted
from prinz_enricher.scoring.launch.process_pool import ProcessPool
from prinz_enricher.scoring.ports import Job, Provisions
from prinz_enricher.signature import input_schema


def batch_of(do, value):
    # pa.array imports pandas; how the front builds its arrays is not what is looked at here.
    offsets = pa.py_buffer(np.array([0, len(do)], "i4"))
    text = pa.Array.from_buffers(pa.utf8(), 1, [None, offsets, pa.py_buffer(do)])
    number = pa.Array.from_buffers(pa.float64(), 1, [None, pa.py_buffer(np.array([value]))])
    return pa.RecordBatch.from_arrays([text, number], schema=input_schema(scripted.SIGNATURE))


pool = ProcessPool(lambda target, cancelled: Provisions(Path(sys.argv[1])))
done = threading.Event()
with structlog.testing.capture_logs() as logged:
    pool.submit(Job(scripted.target_of(), batch_of(b"", 1.0), {"factor": 2.0}, None, lambda outcome: done.set()))
    done.wait()
pid = next(entry["pid"] for entry in logged if entry["event"] == "a worker is ready")
print(json.dumps({"pid": pid, "modules": [m for m in ("mlflow", "pandas", "sklearn") if m in sys.modules]}), flush=True)
pool.submit(Job(scripted.target_of(), batch_of(b"sleep", 600.0), {"factor": 2.0}, None, print))
time.sleep(600)
"""


def test_the_front_imports_no_model_library_and_its_workers_do_not_outlive_it(
    model_folder: Path, tmp_path: Path
) -> None:
    """A front that is killed while a model computes leaves no process behind."""
    front = subprocess.Popen(
        [sys.executable, "-c", FRONT, str(model_folder), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert front.stdout is not None
        told = json.loads(front.stdout.readline())
        assert told["modules"] == []
        assert exists(told["pid"])
    finally:
        front.kill()
        front.wait()
        if front.stdout is not None:
            front.stdout.close()
    until(lambda: not exists(told["pid"]))


def test_nothing_is_left_behind(logged: list[EventDict], processes: ProcessPool) -> None:
    """After close no worker lives, and no folder of one is there. The last test of the shared pool."""
    Call(processes, target_of(), rows(("", 1.0))).values()
    folder = Path(f"/proc/{last_pid(logged)}/cwd").readlink()
    assert folder.name.startswith("prinz-worker-")
    processes.close(5.0)
    assert not any(exists(int(entry["pid"])) for entry in logged if entry["event"] == "a worker is ready")
    assert not folder.exists()
