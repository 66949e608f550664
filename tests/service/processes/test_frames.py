"""Frames over a socket: whole, in order, of any size, and never waited for."""

from __future__ import annotations

import os
import socket
import threading

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.service.processes.codec import Batches
from prinz_enricher.service.processes.frames import Frame, FrameReader, Kind
from prinz_enricher.service.processes.sender import Sender
from prinz_enricher.worker.frames import FrameError
from tests.support.deadline import wait_until


@given(
    st.lists(st.tuples(st.sampled_from(list(Kind)), st.integers(0, 2**64 - 1), st.binary(max_size=400_000)), max_size=9)
)
def test_what_is_sent_is_received(frames: list[tuple[Kind, int, bytes]]) -> None:
    """Frames come in their order, each as it was sent, and then the end; sending waits for nobody."""
    here, there = socket.socketpair()
    with here, there:
        sender = Sender(here)
        for kind, id, body in frames:
            sender.send(kind, id=id, meta={"size": len(body)}, body=body)
        reader = FrameReader(there)
        received = [reader.read() for _ in frames]
        assert [(f.kind, f.id, f.body.to_pybytes()) for f in received if f] == frames
        assert [f.meta for f in received if f] == [{"size": len(body)} for _, _, body in frames]
        sender.close()
        assert reader.read() is None


def test_batches_of_several_schemas() -> None:
    """Batches keep their values and schemas, small or large, whichever came before."""
    small = pa.record_batch({"x": [1.0, None, -0.0]}, schema=pa.schema([("x", pa.float64())], {"m": "d"}))
    large = pa.record_batch({"y": pa.array(range(200_000)), "z": pa.array(["é"] * 200_000)})
    sent = [small, small.slice(1, 1), large, large.slice(5, 100_000), small, large.slice(0, 0)]
    here, there = socket.socketpair()
    with here, there:
        sender = Sender(here)
        for batch in sent:
            sender.send(Kind.SCORES, batch=batch)
        reader, batches = FrameReader(there), Batches()
        for batch in sent:
            frame = reader.read()
            assert frame is not None
            got = batches.read(frame)
            assert got.equals(batch, check_metadata=True)
        sender.close()


def test_many_threads_send() -> None:
    """Frames of several threads do not run into each other, and those of each keep their order."""
    here, there = socket.socketpair()
    with here, there:
        sender = Sender(here)

        def send(number: int) -> None:
            for turn in range(200):
                sender.send(Kind.SCORES, id=number, meta={"turn": turn}, body=bytes([number]) * (turn * 97))

        threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        reader = FrameReader(there)
        turns: dict[int, list[object]] = {number: [] for number in range(4)}
        for _ in range(800):
            frame = reader.read()
            assert frame is not None
            turn = frame.meta["turn"]
            assert isinstance(turn, int)
            assert frame.body.to_pybytes() == bytes([frame.id]) * (turn * 97)
            turns[frame.id].append(turn)
        assert all(told == list(range(200)) for told in turns.values())
        for thread in threads:
            thread.join()
        sender.close()


def test_a_side_that_reads_nothing_is_given_up() -> None:
    """Sending goes on at once while the other side reads nothing; after a while the connection is ended."""
    here, there = socket.socketpair()
    with here, there:
        sender = Sender(here, patience=1)
        for _ in range(100):
            sender.send(Kind.CATALOG, body=bytes(100_000))
        # The end is seen on this side too.
        assert here.recv(1) == b""
        sender.send(Kind.CATALOG)
        sender.close()


def test_a_side_that_has_gone() -> None:
    """What is sent to a side that has gone is dropped, without an error."""
    here, there = socket.socketpair()
    with here:
        sender = Sender(here)
        there.close()
        for _ in range(3):
            sender.send(Kind.NEWS, body=bytes(1000))
        sender.close()


@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_damage_is_seen(data: bytes, begins_well: bool) -> None:
    """What is no frame is told as that, or as the end; memory is not taken for a length that can't be."""
    here, there = socket.socketpair()
    with here, there:
        here.sendall((b"PRP1" if begins_well else b"") + data)
        here.shutdown(socket.SHUT_WR)
        try:
            frame: Frame | None = FrameReader(there).read()
            assert frame is None or frame.kind in Kind
        except FrameError:
            pass


def test_the_end_in_a_frame() -> None:
    """A stream that ends in the middle of a frame is an error."""
    here, there = socket.socketpair()
    with here, there:
        Sender(here).send(Kind.NEWS, body=b"12345")
        whole = there.recv(1000)
    for size in range(1, len(whole)):
        here, there = socket.socketpair()
        with here, there:
            here.sendall(whole[:size])
            here.shutdown(socket.SHUT_WR)
            with pytest.raises(FrameError):
                FrameReader(there).read()


def test_no_thread_is_left() -> None:
    """A sender that is closed leaves no thread behind."""
    before = set(threading.enumerate())
    here, there = socket.socketpair()
    with here, there:
        sender = Sender(here)
        sender.send(Kind.CATALOG, body=os.urandom(5_000_000))
        sender.close()
    wait_until(lambda: set(threading.enumerate()) <= before)
