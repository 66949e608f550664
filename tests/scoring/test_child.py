"""The process of a worker: started, killed and ended without holding anybody up."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from prinz_enricher.scoring.launch import child as module
from prinz_enricher.scoring.launch.child import Child
from tests.scoring.scripted import PATIENCE
from tests.support.deadline import wait_until
from tests.support.processes import children, is_there

WAIT = "import sys, time\ntime.sleep(600)\n"


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Any]:
    """Makes children that wait, and ends those that are left."""
    (tmp_path / "waits.py").write_text(WAIT)
    made: list[Child] = []

    def make() -> Child:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            made.append(
                Child(
                    "waits",
                    theirs.fileno(),
                    environment={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
                    folder=tmp_path,
                    log=structlog.get_logger(),
                )
            )
        return made[-1]

    yield make
    for one in made:
        if is_there(one.pid):
            one.end(0.0)


def descriptors() -> set[str]:
    """Return what this process has open; a thread of another test's server opens files for a moment."""
    links = set()
    for path in Path("/proc/self/fd").iterdir():
        # The one that lists them is closed by now.
        with contextlib.suppress(OSError):
            links.add(str(path.readlink()))
    return links


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM])
def test_a_process_that_can_not_be_watched_is_ended(waiting: Any, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Neither it nor a descriptor is left behind."""

    def refuse(_: int) -> int:
        raise OSError(code, os.strerror(code))

    before, there = descriptors(), set(children(os.getpid()))
    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match=os.strerror(code)):
        waiting()
    wait_until(lambda: not descriptors() - before, PATIENCE)
    assert set(children(os.getpid())) <= there


def test_a_process_is_ended_where_no_thread_can_log_its_output(waiting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither it nor a descriptor is left behind."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before, there = descriptors(), set(children(os.getpid()))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        waiting()
    wait_until(lambda: not descriptors() - before, PATIENCE)
    assert set(children(os.getpid())) <= there


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_a_system_without_such_descriptors_does_without(
    waiting: Any, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """An old kernel, or one whose filter forbids them."""

    def refuse(_: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    child = waiting()
    assert child.exit_fd is None
    assert child.end(0.0) == "killed by signal 15"


def test_a_kill_holds_nobody_up(waiting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer's thread kills, with a version's lock held; to look through /proc may take long."""
    look, looking = threading.Event(), threading.Event()

    def descendants(_: int) -> set[int]:
        looking.set()
        assert look.wait(PATIENCE)
        return set()

    child = waiting()
    monkeypatch.setattr(module, "_descendants", descendants)
    child.kill()
    assert looking.wait(PATIENCE)
    assert is_there(child.pid)
    look.set()
    assert child.end(PATIENCE) == "killed by signal 9"


def test_a_kill_does_not_wait_for_an_end_that_takes_long(waiting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs in the kernel can't be waited for with a lock that others need."""
    go, waits = threading.Event(), threading.Event()
    waitid = os.waitid

    def slow(*given: Any) -> Any:
        waits.set()
        assert go.wait(PATIENCE)
        return waitid(*given)

    child = waiting()
    monkeypatch.setattr(os, "waitid", slow)
    ending = threading.Thread(target=child.end, args=(0.0,))
    ending.start()
    assert waits.wait(PATIENCE)
    killing = threading.Thread(target=child._kill)
    killing.start()
    killing.join(PATIENCE / 2)
    assert not killing.is_alive()
    go.set()
    ending.join(PATIENCE)
    assert not ending.is_alive()
