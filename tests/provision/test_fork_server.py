"""Processes that are forked from one that has imported what they need."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prinz_enricher.provision.child_process import ForkedProcess, ForkFailed, ForkServer, can_fork, has_ended
from tests.support.deadline import wait_until
from tests.support.processes import is_there, named

SOURCES = Path(__file__).parents[2]
PATIENCE = 60.0

HEAVY = """
import os, sys
with open(os.path.join(os.path.dirname(__file__), "imported"), "a") as file:
    file.write(f"{os.getpid()}\\n")
import numpy
"""

JOB = """
# The name has a part before the first dot, as those of a package have.
import json, os, random, sys, threading
def main():
    kind = sys.argv[1]
    if kind == "tell":
        import numpy
        told = {"argv": sys.argv, "environment": dict(os.environ), "folder": os.getcwd(), "session": os.getsid(0),
            "pid": os.getpid(), "parent": os.getppid(), "heavy": "heavy" in sys.modules,
            "drawn": [random.random(), float(numpy.random.random())], "nice": os.nice(0),
            "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
            "temporary": __import__("tempfile").gettempdir()}
        print(json.dumps(told), flush=True)
        return 7
    if kind == "raise":
        raise ValueError("no")
    print("begun", flush=True)
    sys.stdin.read()
    return 3
"""


@pytest.fixture(autouse=True)
def _reaps() -> None:
    assert can_fork()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the modules that are imported and run."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").write_text("")
    (tmp_path / "jobs" / "job.py").write_text(JOB)
    (tmp_path / "heavy.py").write_text(HEAVY)
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    return tmp_path


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., ForkServer]]:
    """Makes servers that find the modules, and are closed."""
    made = []

    def make(*modules: str, **more: Any) -> ForkServer:
        server = ForkServer("test", modules, lambda _: variables(folder), **more)
        if "idle" not in more:
            server.start()
        made.append(server)
        return server

    yield make
    for server in made:
        server.close()


def variables(folder: Path) -> dict[str, str]:
    """Return what a process needs to find the modules."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}:{SOURCES}", "OF_THE_SERVER": "1"}


class Running:
    """A forked process with its pipes."""

    def __init__(self, server: ForkServer, folder: Path, kind: str, **environment: str) -> None:
        self.stdin, stdin = _pipe()
        stdout, self.stdout = _pipe()
        try:
            self.process: ForkedProcess = server.fork(
                "jobs.job", [kind], {"PATH": os.environ["PATH"], **environment}, folder, [stdin, stdout, stdout]
            )
        except BaseException:
            os.close(self.stdin)
            os.close(self.stdout)
            raise
        finally:
            os.close(stdin)
            os.close(stdout)

    def output(self) -> bytes:
        """Return what it prints, to its end."""
        with os.fdopen(self.stdout, "rb") as stream:
            return stream.read()

    def end(self) -> int:
        """End its input, and return its exit code."""
        os.close(self.stdin)
        assert has_ended(self.process.pid, PATIENCE)
        return self.process.wait()


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    return write, read


def told(server: ForkServer, folder: Path, **environment: str) -> dict[str, Any]:
    """Return what a forked process tells of itself, once it has ended."""
    running = Running(server, folder, "tell", **environment)
    # The order of the pipe's ends: ours first.
    content: dict[str, Any] = json.loads(running.output())
    assert running.end() == 7
    return content


def test_a_forked_process_is_a_child_with_what_was_asked_for_and_nothing_else(
    serve: Callable[..., ForkServer], folder: Path
) -> None:
    """It has its own session, folder, variables and arguments, none of the server's, and this process as its parent."""
    server = serve("heavy", nice=5)
    found = told(server, folder / "jobs", MINE="é\udcff")
    assert found["argv"] == ["jobs.job", "tell"]
    assert (
        found["environment"].items() <= {"PATH": os.environ["PATH"], "MINE": "é\udcff", "LC_CTYPE": "C.UTF-8"}.items()
    )
    assert found["folder"] == str(folder / "jobs")
    assert (found["session"], found["parent"], found["nice"]) == (found["pid"], os.getpid(), os.nice(0))
    assert found["heavy"]
    # Standard ones, the end of the server's input that none reads from is closed, and the one that lists them.
    assert len(found["fds"]) <= 5


def test_what_was_too_slow_is_imported_at_full_priority(
    serve: Callable[..., ForkServer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imports that did not end in time have no higher niceness in the next server."""
    monkeypatch.setattr("prinz_enricher.provision.child_process._FORK_SECONDS", 0.2)
    seen, go = folder / "seen", folder / "go"
    (folder / "slow.py").write_text(
        "import os, pathlib, threading, time\n"
        f"with open({str(seen)!r}, 'a') as file:\n"
        "    print(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), file=file)\n"
        f"while not pathlib.Path({str(go)!r}).exists():\n"
        "    time.sleep(0.01)\n"
    )
    server = serve("slow", nice=5)
    wait_until(lambda: seen.exists() and "\n" in seen.read_text(), PATIENCE)
    with pytest.raises(ForkFailed, match=r"no answer within 0\.2 s"):
        Running(server, folder, "tell")
    monkeypatch.undo()
    server.start()
    wait_until(lambda: seen.read_text().count("\n") == 2, PATIENCE)
    go.touch()
    assert told(server, folder)["nice"] == os.nice(0)
    assert [int(line) - os.nice(0) for line in seen.read_text().split()] == [5, 0]


def test_what_is_imported_is_imported_once_and_chance_is_anew(serve: Callable[..., ForkServer], folder: Path) -> None:
    """Three processes share one import, and no two draw the same numbers or use the same temporary folder."""
    server = serve("heavy")
    several = [told(server, folder, TMPDIR=str(folder / name)) for name in ("jobs", ".", "..")]
    assert len((folder / "imported").read_text().splitlines()) == 1
    assert len({str(one["drawn"][0]) for one in several}) == len({str(one["drawn"][1]) for one in several}) == 3
    assert len({one["temporary"] for one in several}) == 3


def test_more_modules_are_imported_later(serve: Callable[..., ForkServer], folder: Path) -> None:
    """What is expected later is there for later processes, in a server that was started before as in a new one."""
    server = serve("json")
    assert not told(server, folder)["heavy"]
    server.preload(["heavy"])
    while not told(server, folder)["heavy"]:
        continue
    server.stop()
    assert told(server, folder)["heavy"]


def test_the_thread_that_imports_is_gone_before_threads_are_counted() -> None:
    """A thread that has just ended is no reason against forks, however busy the machine is."""
    script = """
import os, socket
from prinz_enricher.worker.fork_server import _Server
ours, theirs = socket.socketpair()
server = _Server(theirs, [], nice=0, idle=0.0)
print(sum(server._import("json", 0) or len(os.listdir("/proc/self/task")) > 1 for _ in range(2_000)))
"""
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True, cwd=SOURCES)
    assert done.stdout.strip() == "0"


def test_a_module_that_cannot_be_imported_is_left_out(serve: Callable[..., ForkServer], folder: Path) -> None:
    """The others are imported; who needs it will tell."""
    assert told(serve("there_is_no_such_module", "heavy"), folder)["heavy"]


def test_a_process_that_raises_ends_with_one(serve: Callable[..., ForkServer], folder: Path) -> None:
    """Its traceback is printed, and the server goes on."""
    server = serve()
    running = Running(server, folder, "raise")
    assert b"ValueError: no" in running.output()
    assert running.end() == 1
    assert told(server, folder)["pid"]


def test_a_process_outlives_the_server_and_the_next_comes_from_a_new_one(
    serve: Callable[..., ForkServer], folder: Path
) -> None:
    """A server that is killed takes nothing with it, and is started anew when it is tended."""
    server = serve("heavy")
    running = Running(server, folder, "wait")
    first = _server_of()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_there(first))
    server.restart_if_needed(1 << 40)
    assert _server_of() != first
    assert told(server, folder)["heavy"]
    assert running.end() == 3
    assert running.output() == b"begun\n"


def test_a_killed_server_is_started_anew_by_who_needs_it(serve: Callable[..., ForkServer], folder: Path) -> None:
    """Nobody has to tend it for that."""
    server = serve("heavy")
    os.kill(_server_of(), signal.SIGKILL)
    # One that has just died may still be asked.
    with contextlib.suppress(ForkFailed):
        told(server, folder)
    assert told(server, folder)["heavy"]


def test_a_stopped_server_fails_at_once_and_is_replaced(serve: Callable[..., ForkServer], folder: Path) -> None:
    """Nobody waits for one that does not go on."""
    server = serve("heavy")
    told(server, folder)
    os.kill(_server_of(), signal.SIGSTOP)
    with pytest.raises(ForkFailed, match="it is stopped"):
        Running(server, folder, "tell")
    assert told(server, folder)["heavy"]
    stopped = _server_of()
    os.kill(stopped, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{stopped}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    server.restart_if_needed(1 << 40)
    assert _server_of() != stopped


def test_a_server_that_holds_too_much_is_started_anew(serve: Callable[..., ForkServer], folder: Path) -> None:
    """It runs nothing that grows; if it grows all the same, another one takes its place."""
    server = serve("heavy")
    told(server, folder)
    first = _server_of()
    assert server.memory() > 1 << 20
    server.restart_if_needed(1 << 40)
    assert _server_of() == first
    server.restart_if_needed(1 << 20)
    assert _server_of() != first


def test_what_starts_threads_is_not_forked(serve: Callable[..., ForkServer], folder: Path) -> None:
    """A thread that runs would be lost in a fork, with what it holds: the server refuses, and is not tried again."""
    server = serve("threaded")
    with pytest.raises(ForkFailed):
        Running(server, folder, "tell")
    with pytest.raises(ForkFailed, match="runs threads, which a fork would lose"):
        Running(server, folder, "tell")
    assert server.memory() == 0


def test_a_server_ends_when_nobody_needs_it(serve: Callable[..., ForkServer], folder: Path) -> None:
    """With an idle time it ends by itself; the next who needs it starts it anew."""
    server = serve("heavy", idle=0.05)
    told(server, folder)
    assert server._running is not None
    first = server._running[0].pid
    wait_until(lambda: not is_there(first))
    assert told(server, folder)["heavy"]
    assert server._running[0].pid != first


def test_nothing_is_forked_after_close(serve: Callable[..., ForkServer], folder: Path) -> None:
    """A closed server refuses, and its process has gone."""
    server = serve("heavy")
    told(server, folder)
    pid = _server_of()
    server.close()
    assert not is_there(pid)
    with pytest.raises(ForkFailed, match="closed"):
        Running(server, folder, "tell")


FRONT = """
import os, sys, time
from pathlib import Path
from prinz_enricher.provision.child_process import ForkServer, can_fork
can_fork()
folder = Path(sys.argv[1])
server = ForkServer("test", ["heavy"], lambda _: {"PYTHONPATH": os.environ["PYTHONPATH"]})
read, write = os.pipe()
os.set_inheritable(write, False)
job = server.fork("jobs.job", ["wait"], {}, folder, [read, 2, 2])
print(job.pid, server._running[0].pid, flush=True)
time.sleep(600)
"""


def test_nothing_outlives_this_process(folder: Path) -> None:
    """When the one that asked is killed, the server ends, and what it forked finds its input at an end."""
    front = subprocess.Popen(
        [sys.executable, "-c", FRONT, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}:{SOURCES}"},
    )
    assert front.stdout is not None
    with front.stdout:
        job, server = map(int, front.stdout.readline().split())
    assert is_there(job)
    assert is_there(server)
    front.kill()
    front.wait()
    wait_until(lambda: not is_there(job) and not is_there(server))


def _server_of() -> int:
    """Return the id of the one server of this process, once it has its name."""
    wait_until(lambda: len(named("prinz-test")) == 1)
    return named("prinz-test")[0]
