"""A core behind a front that does what a test says, and a front that runs."""

from __future__ import annotations

import importlib.util
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.batch.wire import fields_of, prefix, read_varint
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import ModelNotFound
from prinz_enricher.fronts.grpc import PACKAGE, SERVICE, FrontLimits, FrontSecurity, GrpcioFront
from prinz_enricher.security.principal import Principal
from prinz_enricher.service.calls import Call, CallLog, Front, Source
from prinz_enricher.service.status import to_status
from prinz_enricher.telemetry.series import Series
from prinz_enricher.telemetry.tracing import Tracing

LIMIT = 64 * 1024
WAIT = 30.0
MAX_CALLS = 20
MAX_INFLIGHT = 2 * LIMIT
PATIENCE = 1.0
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
IS_BUILT = importlib.util.find_spec(PACKAGE) is not None
"""Whether `make front` has built the Rust front: without it the tests of it are skipped."""

FRONTS: dict[str, Any] = {"grpcio": GrpcioFront}
if IS_BUILT:
    from prinz_enricher.fronts.grpc.rust_front import RustFront

    FRONTS["rust"] = RustFront

NEEDS_RUST = pytest.mark.skipif(
    not IS_BUILT, reason="the Rust front is not built: `make front` builds it where cargo is"
)
KINDS = [*FRONTS] if IS_BUILT else [*FRONTS, pytest.param("rust", marks=NEEDS_RUST)]
"""Each kind of front, as the parameters of a test."""


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
    principals: list[Principal | None] = field(default_factory=list)
    handled: int = 0

    def handle(self, calls: Sequence[Call]) -> None:
        """Do what the request says."""
        for call in calls:
            self.handled += 1
            if call.request.startswith(b"keep"):
                self.kept.append(call)
                self.came.release()
            elif call.request == b"refuse":
                call.fail(to_status(ModelNotFound("wíne")))
            elif call.request == b"raise":
                raise RuntimeError("can't start new thread")
            elif call.request == b"much":
                call.respond(bytes(LIMIT + 1))
            elif call.request == b"threads":
                threading.Thread(target=call.respond, args=(call.method.encode(),)).start()
            else:
                call.respond(call.method.encode() + b":" + call.request)

    def open_source(
        self, method: str, request: bytes, wake: Callable[[], None], principal: Principal | None
    ) -> Source | status_pb2.Status:
        """Open a stream, or refuse it."""
        if request == b"refuse":
            return to_status(ModelNotFound(method))
        if request == b"raise":
            raise RuntimeError("can't start new thread")
        self.principals.append(principal)
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

    def score_stream(self, timeout: float | None = WAIT) -> ScoreStreamCaller:
        """Open a stream of scorings."""
        return ScoreStreamCaller(self.channel, timeout)


class ScoreStreamCaller:
    """A caller of `ScoreStream`, who sends what a test says.

    Args:
        channel: To the front.
        timeout: The deadline of the stream, in seconds; None for none.
    """

    def __init__(self, channel: grpc.Channel, timeout: float | None) -> None:
        self._sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        method: Any = channel.stream_stream(f"/{SERVICE.full_name}/ScoreStream")
        self.call = method(iter(self._sent.get, None), timeout=timeout)

    def send(self, sequence: int, request: bytes, timeout: float | None = None) -> None:
        """Send a message; the request in it may be any bytes."""
        duration = None if timeout is None else Duration(nanos=0)
        if duration is not None and timeout is not None:
            duration.FromNanoseconds(int(timeout * 1e9))
        envelope = pb.ScoreStreamRequest(sequence=sequence, timeout=duration).SerializeToString()
        self.send_raw(envelope + prefix(2, len(request)) + request)

    def send_raw(self, message: bytes) -> None:
        """Send a message as it is."""
        self._sent.put(message)

    def close(self) -> None:
        """Say that nothing more is sent."""
        self._sent.put(None)

    def receive(self) -> tuple[int, bytes | status_pb2.Status]:
        """Wait for an answer: its sequence, and the bytes of its scores or its error."""
        message = memoryview(next(self.call))
        sequence, result, is_error = 0, b"", False
        for one in fields_of(message, 2):
            if one.number == 1:
                sequence = read_varint(message, one.start + 1, 10)[0]
            else:
                result = bytes(message[one.value : one.end])
                is_error = one.number == 3
        return sequence, status_pb2.Status.FromString(result) if is_error else result


def reason(answer: bytes | status_pb2.Status) -> str:
    """Return the reason of an error that a stream was answered with."""
    assert isinstance(answer, status_pb2.Status)
    info = error_details_pb2.ErrorInfo()
    assert answer.details[0].Unpack(info)
    return str(info.reason)


@contextmanager
def running_front(
    kind: str,
    security: FrontSecurity | None = None,
    log: CallLog | None = None,
    series: Series | None = None,
    tracing: Tracing | None = None,
    **limits: Any,
) -> Iterator[Running]:
    """Run a front of a kind, with these limits in place of the usual ones; the channel has no TLS."""
    front, core = make_front(kind, security=security, series=series, tracing=tracing, **limits), Core()
    port = front.start(core.handle, core.open_source, log)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        yield Running(front, core, port, channel)
        front.drain(0.1)


def make_front(
    kind: str,
    port: int = 0,
    security: FrontSecurity | None = None,
    series: Series | None = None,
    tracing: Tracing | None = None,
    *,
    flight: bool = False,
    **limits: Any,
) -> Front:
    """Make a front of a kind, which does not listen yet, with these limits in place of the usual ones."""
    usual: Any = FrontLimits(LIMIT, MAX_CALLS, MAX_INFLIGHT, PATIENCE)
    limited, security = replace(usual, **limits), security or FrontSecurity()
    address = f"127.0.0.1:{port}"
    front: Front = FRONTS[kind](address, limited, security, series, tracing, flight=address if flight else None)
    return front


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
