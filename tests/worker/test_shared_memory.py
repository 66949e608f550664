"""Bodies in sealed memory, and what a hostile side may hand over in their place."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import mmap
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from prinz_enricher.ipc import frames
from prinz_enricher.ipc.batches import BatchReader, BatchWriter
from prinz_enricher.ipc.faults import FrameError
from prinz_enricher.ipc.frames import Frame, FrameKind, FrameSocket
from prinz_enricher.ipc.shared_memory import SHARED_FROM, can_share, mapped_memory, sealed_memory
from tests.support.deadline import wait_until

pytestmark = pytest.mark.skipif(not can_share(), reason="this platform has no sealed memory")

HEADER = struct.Struct("<4sBB2xQIIQ")
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
LARGE = bytes(range(256)) * 1024


def descriptors() -> set[str]:
    """Tell which descriptors of the kinds that are handed over there are; other threads open sockets and files."""
    gc.collect()
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(path.readlink())
            if "memfd:" in target or target in ("/dev/null", __file__) or target.endswith("/environ"):
                found.add(f"{path} {target}")
    return found


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    """Whatever a test does, no descriptor stays open."""
    before = descriptors()
    yield
    # A thread of another test's server may have such a file open for a moment.
    wait_until(lambda: not descriptors() - before)


@contextmanager
def pair(**limits: Any) -> Iterator[tuple[FrameSocket, FrameSocket, socket.socket]]:
    """Connect two ends, the first with an answer due; the third is the raw socket of the first."""
    left, right = socket.socketpair()
    left.settimeout(20)
    right.settimeout(20)
    with left, right:
        sender, receiver = FrameSocket(left), FrameSocket(right, **limits)
        sender.send(FrameKind.SCORE, {})
        assert receiver.receive() is not None
        yield sender, receiver, left


def received(receiver: FrameSocket) -> Frame:
    """Take a frame."""
    frame = receiver.receive()
    assert frame is not None
    return frame


def sealed(content: bytes = LARGE, seals: int = SEALS, size: int | None = None) -> int:
    """Make memory with some seals."""
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(descriptor, content)
    if size is not None:
        os.ftruncate(descriptor, size)
    if seals:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def header(size: int, *, shared: int = 1) -> bytes:
    """Write the head of a frame and its meta."""
    return HEADER.pack(b"PRZ1", 4, shared, 1, 2, 0, size) + b"{}"


def hand_over(raw: socket.socket, head: bytes, *given: int) -> None:
    """Send bytes with descriptors."""
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(given)}i", *given))] if given else []
    raw.sendmsg([head], control)
    for one in set(given):
        os.close(one)


def test_a_large_body_goes_out_though_nobody_reads() -> None:
    """More than the socket holds; both sides may so send ahead without waiting for each other."""
    body = [LARGE[i : i + 1000] for i in range(0, len(LARGE), 1000)] * 20
    with pair() as (sender, receiver, _):
        assert sender.send(FrameKind.SCORE, {"a": 1}, id=7, body=[b"", *body], schema_size=8, small_only=True)
        frame = received(receiver)
        assert (frame.kind, frame.id, frame.meta, frame.schema_size) == (FrameKind.SCORE, 7, {"a": 1}, 8)
        assert frame.body.to_pybytes() == b"".join(body)
        del frame


def test_where_the_other_side_reads_bodies_go_through_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the cheaper way: as long as no answer is due, and forevery answer."""

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(frames, "sealed_memory", refuse)
    left, right = socket.socketpair()
    with left, right:
        front, worker = FrameSocket(left), FrameSocket(right)
        body = [b"x" * SHARED_FROM]
        front.send(FrameKind.SCORE, {}, body=body)
        received(worker)
        worker.send(FrameKind.SCORES, {}, body=body)
        received(front)
        front.send(FrameKind.SCORE, {}, body=body)
        with pytest.raises(AssertionError):
            front.send(FrameKind.SCORE, {}, body=body)


def test_a_shared_body_lives_as_long_as_what_is_made_of_it() -> None:
    """It is mapped where it is, can't be written, holds no descriptor, and is unmapped when the last use is gone."""
    batch = pa.RecordBatch.from_arrays([pa.array(np.arange(20_000.0))], names=["a"])
    with pair() as (sender, receiver, _):
        parts, schema_size = BatchWriter().parts(batch)
        sender.send(FrameKind.SCORE, {}, body=parts, schema_size=schema_size)
        before = descriptors()
        frame = received(receiver)
        wait_until(lambda: not descriptors() - before)
        assert not frame.body.is_mutable
        back = BatchReader().read(frame)
        address = frame.body.address
        del frame
        assert back.equals(batch)
        assert f"{address:x}-" in Path("/proc/self/maps").read_text()
        assert not back.column(0).to_numpy().flags.writeable
        del back
        gc.collect()
        assert f"{address:x}-" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("missing", [fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW])
def test_memory_that_may_still_change_is_refused(missing: int) -> None:
    """What was checked could become something else, or be gone."""
    with pair() as (_, receiver, raw):
        hand_over(raw, header(len(LARGE)), sealed(seals=SEALS & ~missing))
        with pytest.raises(FrameError, match="sealed"):
            receiver.receive()


@pytest.mark.parametrize(
    "make",
    [
        lambda: os.open(os.devnull, os.O_RDWR),
        lambda: os.open(__file__, os.O_RDONLY),
        lambda: os.open("/proc/self/environ", os.O_RDONLY),
        lambda: socket.socket().detach(),
        lambda: os.memfd_create("plain"),
    ],
    ids=["device", "file", "proc", "socket", "memory without seals"],
)
def test_a_descriptor_of_something_else_is_refused(make: Callable[[], int]) -> None:
    """Only sealed memory is mapped."""
    with pair() as (_, receiver, raw):
        hand_over(raw, header(len(LARGE)), make())
        with pytest.raises(FrameError, match="sealed"):
            receiver.receive()


@pytest.mark.parametrize("size", [0, 1, len(LARGE) - 1, len(LARGE) + 1, 2**40])
def test_memory_of_another_size_than_announced_is_refused(size: int) -> None:
    """Shorter, it would end whoever reads it; longer, it would hide what was not announced."""
    with pair() as (_, receiver, raw):
        hand_over(raw, header(len(LARGE)), sealed(size=size))
        with pytest.raises(FrameError, match="size"):
            receiver.receive()


def test_an_empty_body_is_not_shared() -> None:
    """There is nothing to map."""
    with pair() as (_, receiver, raw):
        hand_over(raw, header(0), sealed(b""))
        with pytest.raises(FrameError, match="size"):
            receiver.receive()


def test_more_than_the_limit_is_refused_in_shared_memory_too() -> None:
    """Before it is mapped."""
    with pair(max_body=1000) as (_, receiver, raw):
        hand_over(raw, header(len(LARGE)), sealed())
        with pytest.raises(FrameError, match="limits"):
            receiver.receive()


@pytest.mark.parametrize(("shared", "count"), [(0, 1), (0, 2), (0, 100), (1, 2), (1, 3), (1, 100), (2, 1), (2, 2)])
def test_descriptors_that_no_frame_needs_are_closed_and_an_error(shared: int, count: int) -> None:
    """With a frame that has its body behind it, and more than one with a frame that has not."""
    with pair() as (_, receiver, raw):
        hand_over(raw, header(len(LARGE), shared=shared), *[sealed() for _ in range(count)])
        with pytest.raises(FrameError):
            receiver.receive()


def test_a_frame_without_its_descriptor_is_an_error() -> None:
    """There is no body to read."""
    with pair() as (_, receiver, raw):
        hand_over(raw, header(len(LARGE)))
        with pytest.raises(FrameError):
            receiver.receive()


@pytest.mark.parametrize("at", [1, HEADER.size, HEADER.size + 1])
def test_descriptors_may_come_with_the_header_alone(at: int) -> None:
    """With meta or a body they are an error; however the header is cut, its own descriptor is found."""
    with pair() as (_, receiver, raw):
        whole = header(len(LARGE))
        hand_over(raw, whole[:at], *([sealed()] if at > 1 else []))
        hand_over(raw, whole[at:], sealed())
        if at > 1:
            with pytest.raises(FrameError):
                receiver.receive()
        else:
            assert received(receiver).body.to_pybytes() == LARGE


def test_a_header_that_never_ends_leaves_no_descriptor() -> None:
    """Its descriptor has come with its first byte."""
    with pair() as (sender, receiver, raw):
        hand_over(raw, header(len(LARGE))[:5], sealed())
        sender.close()
        with pytest.raises(FrameError):
            receiver.receive()


def test_giving_up_to_wait_leaves_no_descriptor() -> None:
    """Whoever waits may find meanwhile that the other side has died."""
    left, right = socket.socketpair()
    calls: list[int] = []

    def give_up() -> None:
        calls.append(1)
        if len(calls) > 1:
            raise InterruptedError

    with left, right:
        hand_over(left, header(len(LARGE))[:5], sealed())
        with pytest.raises(InterruptedError):
            FrameSocket(right, before_read=give_up).receive()


class NoDescriptors(socket.socket):
    """A socket over which the kernel hands no descriptors any more."""

    def sendmsg(self, buffers: Any, ancillary: Any = (), flags: int = 0, address: Any = None) -> int:
        """Send, unless with a descriptor."""
        if ancillary:
            raise OSError(errno.ETOOMANYREFS, "too many references")
        return super().sendmsg(buffers, ancillary, flags)


def test_where_no_descriptor_can_be_handed_over_the_socket_is_left() -> None:
    """So many may be under way for a user; what would have to wait is then not sent, if so wished."""
    left, right = socket.socketpair()
    with NoDescriptors(fileno=left.detach()) as raw, right:
        sender, receiver = FrameSocket(raw), FrameSocket(right)
        sender.send(FrameKind.SCORE, {})
        assert not sender.send(FrameKind.SCORE, {}, body=[LARGE], small_only=True)
        assert sender.send(FrameKind.SCORE, {}, body=[LARGE[:SHARED_FROM]], small_only=True)
        received(receiver)
        assert received(receiver).body.to_pybytes() == LARGE[:SHARED_FROM]


LIMITED = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
from prinz_enricher.ipc.shared_memory import sealed_memory
kept = []
if sys.argv[2] == "file":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
else:
    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
    try:
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
print(sealed_memory([memoryview(bytes(200_000))], 200_000))
"""


@pytest.mark.parametrize("limit", ["file", "descriptors"])
def test_limits_leave_no_sealed_memory_and_end_no_process(limit: str) -> None:
    """The size of files counts for memory as well; a signal would be the end."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, root, limit], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("None\n", 0), done.stderr


def test_sealed_memory_can_not_be_changed_by_who_made_it() -> None:
    """Neither written nor cut nor mapped to be written."""
    descriptor = sealed_memory([memoryview(LARGE)], len(LARGE))
    assert descriptor is not None
    try:
        for change in (
            lambda: os.pwrite(descriptor, b"y", 0),
            lambda: os.ftruncate(descriptor, 1),
            lambda: os.ftruncate(descriptor, len(LARGE) * 2),
            lambda: mmap.mmap(descriptor, len(LARGE)),
            lambda: fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL),
        ):
            with pytest.raises(PermissionError):
                change()
        assert mapped_memory(descriptor, len(LARGE)).to_pybytes() == LARGE
    finally:
        os.close(descriptor)


def test_a_platform_without_sealed_memory_goes_on_by_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """And sends nothing that would have to wait, if so wished."""
    monkeypatch.delattr(os, "memfd_create")
    with pair() as (sender, receiver, _):
        assert not sender.send(FrameKind.SCORE, {}, body=[LARGE], small_only=True)
        assert not sender.send(FrameKind.SCORE, {"long": "x" * 500_000}, small_only=True)
        assert sender.send(FrameKind.SCORE, {}, body=[LARGE[:SHARED_FROM]], small_only=True)
        assert received(receiver).body.to_pybytes() == LARGE[:SHARED_FROM]


def test_a_kernel_that_does_not_know_all_flags_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 6.3."""
    create = os.memfd_create

    def old(name: str, flags: int) -> int:
        if flags & ~(os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING):
            raise OSError(errno.EINVAL, "invalid argument")
        return create(name, flags)

    monkeypatch.setattr(os, "memfd_create", old)
    descriptor = sealed_memory([memoryview(LARGE)], len(LARGE))
    assert descriptor is not None
    os.close(descriptor)
