"""A core behind a front that does what a test says, and a front that runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.errors import ModelNotFound
from prinz_enricher.service.front import SERVICE, Call, Front, Source
from prinz_enricher.service.status import to_status

LIMIT = 64 * 1024
WAIT = 30.0


@dataclass
class Numbers:
    """A source of a stream: sends what the test puts in."""

    wake: Callable[[], None]
    left: list[bytes | status_pb2.Status] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    def pull(self) -> bytes | status_pb2.Status | None:
        """Return the next."""
        return self.left.pop(0) if self.left else None

    def close(self) -> None:
        """Note it."""
        self.closed.set()

    def put(self, *items: bytes | status_pb2.Status) -> None:
        """Have more to send."""
        self.left += items
        self.wake()


@dataclass
class Core:
    """What stands behind a front: echoes, refuses, or keeps calls for the test to answer."""

    kept: list[Call] = field(default_factory=list)
    came: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    sources: list[Numbers] = field(default_factory=list)

    def handle(self, calls: Sequence[Call]) -> None:
        """Do what the request says."""
        for call in calls:
            if call.request == b"keep":
                self.kept.append(call)
                self.came.release()
            elif call.request == b"refuse":
                call.fail(to_status(ModelNotFound("wíne")))
            elif call.request == b"much":
                call.respond(bytes(LIMIT + 1))
            elif call.request == b"threads":
                threading.Thread(target=call.respond, args=(call.method.encode(),)).start()
            else:
                call.respond(call.method.encode() + b":" + call.request)

    def open_source(self, method: str, request: bytes, wake: Callable[[], None]) -> Source | status_pb2.Status:
        """Open a stream, or refuse it."""
        if request == b"refuse":
            return to_status(ModelNotFound(method))
        source = Numbers(wake)
        self.sources.append(source)
        self.came.release()
        return source

    def next_kept(self) -> Call:
        """Wait for a call that is kept, and return it."""
        assert self.came.acquire(timeout=WAIT)
        return self.kept[-1]


@dataclass
class Running:
    """A front that listens, its core, and a channel to it."""

    front: Front
    core: Core
    port: int
    channel: grpc.Channel

    def method(self, name: str) -> Any:
        """Return a unary method that takes and gives bytes."""
        return self.channel.unary_unary(f"/{SERVICE.full_name}/{name}")

    def watch(self, request: bytes) -> Any:
        """Open a server stream of bytes."""
        watch: Any = self.channel.unary_stream(f"/{SERVICE.full_name}/WatchModels")
        return watch(request, timeout=WAIT)


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, str]:
    """Expect an error; return its code, the reason of its details (empty without), and its text."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    details = [entry.value for entry in error.trailing_metadata() or () if entry.key == "grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    if details:
        status = status_pb2.Status.FromString(details[0])
        assert (status.code, status.message) == (error.code().value[0], error.details())
        assert status.details[0].Unpack(info)
    return error.code(), info.reason, error.details()


def eventually(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    limit = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < limit
        threading.Event().wait(0.005)
