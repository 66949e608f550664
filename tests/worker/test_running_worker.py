"""What a model in a real worker process can do, and what it can't."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from prinz_enricher.ipc.batches import BatchReader, BatchWriter
from prinz_enricher.ipc.frames import FrameKind
from prinz_enricher.provision.child_process import ForkServer, can_fork, has_ended
from prinz_enricher.scoring.runtime.spares import IMPORTS
from tests.worker.running import INPUTS, PATIENCE, RunningWorker, running, save_model, worker_environment

POLICY: dict[str, Any] = {"memory": 1 << 30, "file": 1 << 20, "open_files": 128, "network": False}
ALL = {
    *("threads", "privileges", "memory", "file", "open_files", "calls", "network"),
    *("files", "processes", "signals", "sockets"),
}
REFUSED = "PermissionError 13"
NOT_PERMITTED = "PermissionError 1"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model."""
    return save_model(tmp_path_factory.mktemp("scripted"))


@pytest.fixture(scope="module", params=["started", "forked"])
def server(request: pytest.FixtureRequest) -> Iterator[ForkServer | None]:
    """What workers are forked from; None where they are started by themselves. What holds for one holds for both."""
    if request.param == "started":
        yield None
        return
    assert can_fork()
    made = ForkServer("test", IMPORTS, worker_environment)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def confined(
    model: Path, tmp_path_factory: pytest.TempPathFactory, server: ForkServer | None
) -> Iterator[RunningWorker]:
    """A worker that is confined as far as can be; tests leave it usable."""
    folder = tmp_path_factory.mktemp("confined")
    with running(folder, model, server=server, sandbox={**POLICY, "writable": [str(folder)]}) as worker:
        yield worker


def need(worker: RunningWorker, *names: str) -> None:
    """Skip a test where the system has no means for what it is about."""
    for name in names:
        if name in worker.unconfined:
            pytest.skip(f"{name} can't be had here: {worker.unconfined[name]}")


@pytest.fixture(scope="module")
def free(model: Path, tmp_path_factory: pytest.TempPathFactory, server: ForkServer | None) -> Iterator[RunningWorker]:
    """A worker without a policy: it shows that the model does what the other one refuses."""
    with running(tmp_path_factory.mktemp("free"), model, server=server) as worker:
        yield worker


def test_ready_tells_how_long_each_part_took_and_what_is_in_force(model: Path, tmp_path: Path) -> None:
    """The import comes before there is anything to load."""
    worker = RunningWorker(tmp_path)
    try:
        meta = worker.load(model, sandbox={**POLICY, "writable": [str(tmp_path)]}).meta
        assert isinstance(meta["seconds"], dict)
        assert list(meta["seconds"]) == ["import", "wait", "confine", "load", "warm"]
        assert meta["path"] == "short", meta["why"]
        assert isinstance(meta["confined"], list)
        assert {*meta["confined"], *worker.unconfined} == ALL
        assert len(meta["confined"]) + len(worker.unconfined) == len(ALL)
    finally:
        assert worker.end() == 0


def test_without_a_policy_nothing_is_confined(free: RunningWorker) -> None:
    """The model computes as anywhere."""
    assert free.do("echo", "words") == "words"
    assert free.do("connect", "AF_INET") == "made"


def test_the_collector_leaves_what_was_loaded_alone(free: RunningWorker) -> None:
    """Looking through the libraries of a model again and again would make some calls wait."""
    assert int(free.do("frozen", "")) > 10_000


def test_a_worker_that_is_not_needed_ends_quietly(tmp_path: Path) -> None:
    """The front may close the socket while it imports."""
    worker = RunningWorker(tmp_path)
    assert worker.end() == 0


def test_a_folder_without_a_model_fails_with_its_stage(tmp_path: Path) -> None:
    """And the worker ends."""
    worker = RunningWorker(tmp_path)
    try:
        frame = worker.load(tmp_path)
        assert frame.kind is FrameKind.FAILED
        assert frame.meta["stage"] == "load"
        assert str(frame.meta["why"]).startswith("loading the model failed: ")
        assert has_ended(worker.process.pid, PATIENCE)
        assert worker.process.wait() == 1
    finally:
        worker.end()


def test_a_policy_that_can_not_be_read_loads_no_model(model: Path, tmp_path: Path) -> None:
    """No code of the model runs then."""
    worker = RunningWorker(tmp_path)
    try:
        frame = worker.load(model, sandbox={"netwrok": False})
        assert (frame.kind, frame.meta["stage"]) == (FrameKind.FAILED, "confine")
    finally:
        worker.end()


def test_an_environment_without_mlflow_fails_at_the_import(tmp_path: Path) -> None:
    """It is told when there is somebody to tell it to."""
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "__init__.py").write_text("raise ImportError('no such thing')")
    root = Path(__file__).parents[2]
    worker = RunningWorker(tmp_path, {"PYTHONPATH": f"{root}:{tmp_path}"})
    try:
        frame = worker.load(tmp_path)
        assert frame.meta == {"stage": "import", "why": "importing MLflow failed: ImportError: no such thing"}
    finally:
        worker.end()


def test_what_a_model_prints_disturbs_nothing(confined: RunningWorker) -> None:
    """Neither Python's prints nor raw writes to the standard output meet the frames."""
    assert confined.do("say", "a line of the model") == "said"
    assert confined.printed().count("a line of the model") == 2


def test_too_much_memory_is_an_error_of_the_model(confined: RunningWorker) -> None:
    """The worker goes on, and what is within the limit can be had."""
    need(confined, "memory")
    frame = confined.ask(("allocate", str(2 << 30)))
    assert (frame.kind, frame.meta) == (FrameKind.RAISED, {"kind": "model_error", "exception": "MemoryError"})
    assert confined.do("allocate", str(256 << 20)) == str(256 << 17)


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"])
def test_the_network_is_refused_where_it_is_off(confined: RunningWorker, family: str) -> None:
    """In threads and in what the model starts as well; Unix sockets are left."""
    need(confined, "calls")
    assert confined.do("connect", family) == REFUSED
    assert confined.do("in_thread", family) == REFUSED
    assert confined.do("started", f"import socket; socket.socket(socket.{family})").startswith("PermissionError")
    assert confined.do("connect", "AF_UNIX") == "made"


def test_the_network_is_there_where_it_is_on(model: Path, tmp_path: Path) -> None:
    """All else stays confined."""
    policy = {**POLICY, "network": True, "writable": [str(tmp_path)]}
    with running(tmp_path, model, sandbox=policy) as worker:
        need(worker, "files")
        assert worker.do("listen") == "connected"
        assert worker.do("write", f"{tmp_path.parent}/outside") == REFUSED


def test_files_are_written_in_its_own_folder_alone(confined: RunningWorker, model: Path, tmp_path: Path) -> None:
    """Nothing else is made, changed or removed, the model itself among it; all is read as before."""
    need(confined, "files")
    kept = tmp_path / "kept"
    kept.write_text("kept")
    assert confined.do("write", "inside") == "5"
    assert confined.do("write", os.devnull) == "5"
    for path in (tmp_path / "new", kept, model / "MLmodel", Path("/proc/self/mem"), Path("/proc/self/oom_score_adj")):
        assert confined.do("write", str(path)) == REFUSED
    for change, path in (("remove", kept), ("rmdir", tmp_path), ("mkdir", tmp_path / "m"), ("mkfifo", tmp_path / "m")):
        change_it = f"import os\ntry:\n os.{change}({str(path)!r})\nexcept OSError as exc:\n found = exc.errno"
        assert confined.do("python", change_it) == "13"
    assert confined.do("read", str(kept)) == "kept"
    assert list(tmp_path.iterdir()) == [kept]


def test_a_file_has_a_largest_size(confined: RunningWorker) -> None:
    """It is an error to whoever writes it; larger answers than that come nevertheless."""
    need(confined, "file")
    assert confined.do("grow", "1000") == "grown"
    assert confined.do("grow", str(2 << 20)) == "OSError 27"
    assert len(confined.do("python", f"found = 'x' * {3 << 20}")) == 3 << 20


def test_an_answer_needs_no_descriptor(confined: RunningWorker) -> None:
    """A model may have used up all that it may have."""
    need(confined, "open_files")
    assert len(confined.do("descriptors", str(1 << 20))) == 1 << 20
    assert confined.do("echo", "words") == "words"
    assert confined.do("release") == "released"


def test_nothing_of_the_front_is_seen_or_touched(confined: RunningWorker, free: RunningWorker) -> None:
    """Its environment, its memory, its descriptors, its limits; and it can't be ended."""
    need(confined, "processes", "signals", "calls")
    front = os.getpid()
    for path in ("environ", "mem", "maps", "fd/0", "cwd/mlflow.db"):
        assert confined.do("read", f"/proc/{front}/{path}") == REFUSED
    assert confined.do("kill", str(front)) == NOT_PERMITTED
    assert confined.do("limit", str(front)) == NOT_PERMITTED
    assert confined.do("limit", "0") == "limited"
    # Neither are other workers.
    assert confined.do("kill", str(free.process.pid)) == NOT_PERMITTED
    assert confined.do("read", f"/proc/{free.process.pid}/environ") == REFUSED
    # A worker that is not confined can do it all.
    assert "PATH=" in free.do("read", f"/proc/{front}/environ")
    assert free.do("kill", str(front)) == "could be killed"


def test_sockets_of_others_in_the_abstract_namespace_are_out_of_reach(confined: RunningWorker) -> None:
    """They have no place in the file system that could be guarded."""
    need(confined, "sockets")
    with socket.socket(socket.AF_UNIX) as server:
        name = f"prinz-test-{os.getpid()}"
        server.bind(f"\0{name}")
        server.listen()
        connect = f"import socket\nwith socket.socket(socket.AF_UNIX) as s:\n found = s.connect_ex(chr(0) + '{name}')"
        assert confined.do("python", connect) == "1"


def test_calls_that_no_model_needs_are_refused(confined: RunningWorker) -> None:
    """A trace of its own parent, a ring, and what else the filter names."""
    need(confined, "calls")
    numbers = {"x86_64": (101, 425, 272), "aarch64": (117, 425, 97)}
    trace, ring, unshare = numbers[os.uname().machine]
    assert confined.do("call", f"{trace} 16 {os.getpid()}") == NOT_PERMITTED
    assert confined.do("call", f"{ring} 8 0") == NOT_PERMITTED
    assert confined.do("call", f"{unshare} {0x10000000}") == NOT_PERMITTED


def test_processes_of_a_model_work(confined: RunningWorker) -> None:
    """Pools of processes, with their semaphores, and commands."""
    assert confined.do("processes", "-3") == "3"
    assert confined.do("started", "raise SystemExit('ran')") == "ran"


def test_joblib_and_matplotlib_work(confined: RunningWorker) -> None:
    """What models bring most; each writes caches or needs processes."""
    parallel = "import joblib\nfound = sum(joblib.Parallel(2)(joblib.delayed(abs)(one) for one in [-1, -2]))"
    assert confined.do("python", parallel) == "3"
    assert confined.do("python", "import matplotlib\nfound = matplotlib.get_cachedir()").startswith(
        str(confined.folder)
    )


def test_a_model_that_forks_answers_once(confined: RunningWorker) -> None:
    """The child that comes back with an answer of its own ends without a word."""
    assert confined.do("twice") == "parent"
    assert confined.do("echo", "words") == "words"


def test_a_child_that_lives_on_does_not_hold_the_connection(model: Path, tmp_path: Path) -> None:
    """The end of the worker is the end of the stream."""
    with running(tmp_path, model) as worker:
        child = int(worker.do("leave_child"))
        os.kill(worker.process.pid, signal.SIGKILL)
        began = time.monotonic()
        assert worker.frames.receive() is None
        assert time.monotonic() - began < PATIENCE / 2
        os.kill(child, signal.SIGKILL)


def test_a_model_that_forks_at_load_is_ready_once(model: Path, tmp_path: Path) -> None:
    """Loading is code of the model too."""
    with running(tmp_path, model, environment={"PRINZ_TEST_AT_LOAD": "twice now"}) as worker:
        assert worker.do("echo", "words") == "words"


def test_the_environment_is_what_the_front_gave(confined: RunningWorker) -> None:
    """No more than that, the worker's own switches aside."""
    found = confined.do("environment")
    assert "MLFLOW_DISABLE_TELEMETRY" in found
    assert "UV_CACHE_DIR" not in found


def test_batches_may_be_sent_ahead(model: Path, tmp_path: Path) -> None:
    """Large ones too: the second waits in shared memory, and both are answered in their order."""
    writer, reader = BatchWriter(), BatchReader()
    with running(tmp_path, model) as worker:
        for number in (1, 2):
            values = [str(number) * 100] * 20_000
            batch = pa.RecordBatch.from_arrays([pa.array(["echo"] * len(values)), pa.array(values)], schema=INPUTS)
            parts, schema_size = writer.parts(batch)
            sent = worker.frames.send(
                FrameKind.SCORE, {}, id=number, body=parts, schema_size=schema_size, small_only=number > 1
            )
            assert sent
        for number in (1, 2):
            frame = worker.answer()
            assert (frame.kind, frame.id) == (FrameKind.SCORES, number), frame.meta
            assert set(reader.read(frame).column(0).to_pylist()) == {str(number) * 100}
