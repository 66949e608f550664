"""What `grpc.aio.Server` is to its handlers, over the Rust server: so streams, health and reflection are one code.

All of it belongs to one event loop, which watches a descriptor of the Rust server.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import grpc.aio
import structlog

from prinz_enricher.errors import Code
from prinz_enricher.fronts.grpc.grpcio_front import error_metadata
from prinz_enricher.service.status import internal_failure
from prinz_enricher.telemetry.tracing import Metadata

if TYPE_CHECKING:
    from prinz_enricher_front import Arrival, Server

    from prinz_enricher.security.principal import ClientCertificate

CONSUMED_AT_ONCE = 16
"""Messages of a stream after which the server hears that they were consumed, or when none is left."""

log = structlog.stdlib.get_logger(__name__)


class _Details(NamedTuple):
    method: str
    invocation_metadata: Metadata


class RustStreams:
    """Serves the calls that come as events by handlers for grpc.aio.

    Args:
        server: The Rust server.
        paths: Of its methods, by their numbers.
        certificate_of: Returns what is in a certificate that TLS has verified.
        interceptors: As those of grpc.aio.
    """

    def __init__(
        self,
        server: Server,
        paths: Sequence[str],
        certificate_of: Callable[[bytes], ClientCertificate],
        interceptors: Sequence[grpc.aio.ServerInterceptor],
    ) -> None:
        self._server = server
        self._paths = paths
        self._certificate_of = certificate_of
        self._interceptors = interceptors
        self._handlers: list[Any] = []
        self._contexts: dict[int, StreamContext] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Add handlers."""
        self._handlers += handlers

    async def start(self) -> None:
        """Begin to serve."""
        asyncio.get_running_loop().add_reader(self._server.events_fd, self._receive)

    async def stop(self, grace: float) -> None:
        """End what is left after some seconds, and serve no more."""
        if tasks := [context.task for context in self._contexts.values()]:
            await asyncio.wait(tasks, timeout=grace)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        asyncio.get_running_loop().remove_reader(self._server.events_fd)

    def _receive(self) -> None:
        for what, number, given in self._server.events() or ():
            if what == "open":
                context = StreamContext(self._server, given, self._certificate_of)
                self._contexts[number] = context
                context.task = asyncio.create_task(self._serve(context, self._paths[given[1]], given[2]))
            elif (known := self._contexts.get(number)) is not None:
                known.note(what, given)

    async def _serve(self, context: StreamContext, path: str, message: bytes | None) -> None:
        details = _Details(path, context.invocation_metadata())
        try:
            handler = await self._find(details)
            parse = handler.request_deserializer or _as_it_is
            context.prepare(parse, handler.response_serializer or _as_it_is)
            request = context if handler.request_streaming else parse(message)
            del message
            # An interceptor may have put a handler of streams in the place of another.
            serve = handler.stream_stream or handler.unary_stream or handler.unary_unary
            serving = serve(request, context)
            del request
            if inspect.isasyncgen(serving):
                async for answer in serving:
                    await context.write(answer)
            elif (answer := await serving) is not None:
                await context.write(answer)
            context.finish(0)
        except grpc.aio.AbortError:
            # Its handler has ended it.
            pass
        except asyncio.CancelledError:
            context.finish(Code.UNAVAILABLE, "the server is shutting down")
        except Exception as error:  # noqa: BLE001 - a fault of this service
            status = internal_failure(log, "stream failed", error, path=path)
            context.finish(status.code, status.message, error_metadata(status))
        finally:
            del self._contexts[context.number]
            context.end()

    async def _find(self, details: _Details, place: int = 0) -> Any:
        """Return the handler of a call, by the interceptors from a place on."""
        if place == len(self._interceptors):
            return next(found for one in self._handlers if (found := one.service(details)) is not None)

        async def go_on(details: _Details) -> Any:
            return await self._find(details, place + 1)

        interceptor: Any = self._interceptors[place]
        return await interceptor.intercept_service(go_on, details)


class StreamContext:
    """What `grpc.aio.ServicerContext` is to a handler, and what it reads its caller's messages from."""

    task: asyncio.Task[None]

    def __init__(self, server: Server, arrival: Arrival, certificate_of: Callable[[bytes], ClientCertificate]) -> None:
        self.number, _, _, _, waited, timeout, self._metadata, (_, self._peer, self._certificate) = arrival
        self._until = None if timeout is None else time.monotonic() - waited + timeout
        self._server = server
        self._certificate_of = certificate_of
        self._code: int | None = None
        self._messages: deque[bytes] = deque()
        self._consumed = 0
        self._is_whole = False
        self._room = True
        # One handler reads, one writes.
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._when_done: list[Callable[[Any], None]] = []

    def prepare(self, parse: Callable[[bytes], Any], serialise: Callable[[Any], bytes]) -> None:
        """Set how messages are read and written."""
        self._parse, self._serialise = parse, serialise

    def note(self, what: str, given: Any) -> None:
        """Note what has happened to the stream."""
        if what == "message":
            self._messages.append(given)
        elif what == "end":
            self._is_whole = True
        elif what == "writable":
            self._room = True
        else:
            self._code = given
            # A task that is cancelled before its first step would do nothing of its end.
            asyncio.get_running_loop().call_soon(self.task.cancel)
        for waiter in (self._writer,) if what == "writable" else (self._reader,):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    async def read(self) -> Any:
        """Return the next message, or `grpc.aio.EOF`."""
        while not self._messages:
            if self._is_whole:
                return grpc.aio.EOF
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        message = self._messages.popleft()
        self._consumed += 1
        if not self._messages or self._consumed >= CONSUMED_AT_ONCE:
            self._server.consume(self.number, self._consumed)
            self._consumed = 0
        return self._parse(message)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def write(self, message: Any) -> None:
        """Send a message, and wait until another one may be sent."""
        self._room = self._server.send(self.number, self._serialise(message))
        while not self._room:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> None:
        """End the stream with an error, and raise `grpc.aio.AbortError`."""
        self.finish(code.value[0], details, trailing_metadata)
        raise grpc.aio.AbortError

    def finish(self, code: int, message: str = "", metadata: Iterable[tuple[str, str | bytes]] = ()) -> None:
        """End the stream, where it has not ended."""
        if self._code is None:
            self._code = code
            self._server.finish(self.number, code, message, encoded(metadata))

    def end(self) -> None:
        """Call those that wait for the end."""
        for act in self._when_done:
            act(self)

    def add_done_callback(self, act: Callable[[Any], None]) -> None:
        """Call it at the end."""
        self._when_done.append(act)

    def code(self) -> int | None:
        """Return how the stream has ended; None while it has not."""
        return self._code

    def peer(self) -> str:
        """Return the address of the caller."""
        return self._peer

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline; None where there is none."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def invocation_metadata(self) -> Metadata:
        """Return the metadata, as far as the server was asked for it."""
        return self._metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        """Return the names in the caller's certificate, as grpc names them."""
        if self._certificate is None:
            return {}
        spiffe_id, dns_names, common_name = self._certificate_of(self._certificate)
        return {
            "x509_pem_cert": [self._certificate],
            "peer_spiffe_id": [spiffe_id.encode()],
            "peer_dns": [name.encode() for name in dns_names],
            "x509_common_name": [common_name.encode()],
        }


def encoded(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[str, bytes]]:
    """Return metadata as the server wants it."""
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in metadata]


def _as_it_is(message: Any) -> Any:
    return message
