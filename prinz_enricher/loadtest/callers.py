"""The server under test, and callers that send it prepared requests: one kind of caller for each mode."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import grpc
import pyarrow as pa
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.batch import batch_to_rows
from prinz_enricher.client import AsyncClient, ServiceError, Tls
from prinz_enricher.client.connection import (
    MAX_MESSAGE_BYTES,
    SERVICE,
    BearerToken,
    Connection,
    TokenSource,
    encryption,
    open_channel,
)
from prinz_enricher.client.service_error import Encryption, service_error
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.loadtest.comparison import same_batch, same_response, same_row_count

Mode = Literal["unary", "stream", "coalesced", "arrow"]
"""How rows travel; `docs/load-testing.md` describes each mode."""
Form = Literal["columns", "dense", "arrow"]
"""The form of the rows in a message."""

_SHORT: Final = 4096
"""Bytes of an expected output up to which it is searched in the answer's bytes, which saves parsing the answer."""
_GRACE_SECONDS: Final = 0.5
"""How much longer than its timeout a message of a stream is waited for: the server is to say that it is late."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # An error is counted, not retried.
    ("grpc.enable_retries", 0),
    # Otherwise the channels of a process would share a connection.
    ("grpc.use_local_subchannel_pool", 1),
)


class LoadTestError(Exception):
    """A load test can't be run; the message says why, and its cause is the ServiceError of a call that failed."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A serialised `ScoreRequest` and a `ScoreResponse` with the right output alone; if `coalesced`, record batches."""

    request: Any
    expected: Any


@dataclass(frozen=True, slots=True)
class ServerUnderTest:
    """Where the server listens, and what it wants of its callers: plain text without `tls`; `timeout` is in seconds.

    Calls go to the addresses, at least one, in turn; each process opens so many connections to each of them.
    """

    addresses: tuple[str, ...]
    connections: int = 1
    tls: Tls | None = None
    token: TokenSource | None = field(default=None, repr=False)
    timeout: float = 30.0
    allow_insecure_token: bool = False

    @property
    def encryption(self) -> Encryption:
        """How it is connected to."""
        return encryption(self.tls)

    def check(self) -> None:
        """Raise LoadTestError if a token would be sent to another machine without TLS, or TLS can't use a file."""
        try:
            for address in self.addresses:
                Connection(address, self.tls, self.token, allow_insecure_token=self.allow_insecure_token, retry=False)
            _ = self.tls and self.tls.credentials()
        except (OSError, ValueError) as error:
            raise LoadTestError(str(error)) from None

    def open(self, library: Any, address: str) -> Any:
        """Open a channel of `grpc` or `grpc.aio` to an address, with its own socket."""
        return open_channel(library, address, self.tls, _OPTIONS)


@dataclass(frozen=True, slots=True)
class GeneratorJob:
    """What stays the same for all steps: calls of `model`, a `NAME/version`, from the pool; times are in seconds.

    In an open loop a process has at most `max_in_flight` calls on their way; those beyond it count as unsent. If scores
    are not checked, the number of rows is.
    """

    server: ServerUnderTest
    mode: Mode
    model: str
    pool: Sequence[Prepared]
    check_scores: bool
    max_in_flight: int
    warm_up: float
    seconds: float


class ScoreCaller:
    """Sends each call as a `Score`, or as a message of `ScoreStream`; streams are reopened when they end."""

    def __init__(self, job: GeneratorJob) -> None:
        server, kind = job.server, _Stream if job.mode == "stream" else _Unary
        self._channels = [server.open(grpc.aio, address) for address in server.addresses * server.connections]
        self._senders = [kind(channel, server) for channel in self._channels]
        self._requests = [prepared.request for prepared in job.pool]
        if job.mode == "stream":
            self._requests = [encode_stream_message(request, server.timeout) for request in self._requests]
        self._expected_bytes = [prepared.expected for prepared in job.pool]
        self._expected = list(map(pb.ScoreResponse.FromString, self._expected_bytes))
        self._same = same_response if job.check_scores else same_row_count

    async def send(self, number: int) -> bytes | pb.ScoreResponse:
        """Send a call, and return its answer; raises ServiceError if it failed."""
        sender = self._senders[number % len(self._senders)]
        return await sender.send(self._requests[number % len(self._requests)])

    def is_right(self, number: int, answer: bytes | pb.ScoreResponse) -> bool:
        """Return whether an answer is the one expected; it is compared as it came where possible."""
        place = number % len(self._expected)
        if isinstance(answer, bytes):
            expected = self._expected_bytes[place]
            if len(expected) <= _SHORT and expected in answer:
                return True
            try:
                answer = pb.ScoreResponse.FromString(answer)
            except DecodeError:
                return False
        return self._same(self._expected[place], answer)

    async def close(self) -> None:
        """Close all connections."""
        for channel in self._channels:
            await channel.close()


def encode_stream_message(request: bytes, timeout: float) -> bytes:
    """Wrap a serialised `ScoreRequest` into a `ScoreStreamRequest` without a sequence."""
    limit = duration_pb2.Duration()
    limit.FromNanoseconds(int(timeout * 1e9))
    return pb.ScoreStreamRequest(request=pb.ScoreRequest.FromString(request), timeout=limit).SerializeToString()


def with_sequence(sequence: int, message: bytes) -> bytes:
    """Add a sequence to a serialised `ScoreStreamRequest`: messages of protobuf are merged by concatenation."""
    return pb.ScoreStreamRequest(sequence=sequence).SerializeToString() + message


class _Unary:
    def __init__(self, channel: grpc.aio.Channel, server: ServerUnderTest) -> None:
        self._method: Any = channel.unary_unary(f"/{SERVICE}/Score")
        self._timeout, self._token, self._encryption = server.timeout, BearerToken(server.token), server.encryption

    async def send(self, request: bytes) -> bytes:
        try:
            answer: bytes = await self._method(request, timeout=self._timeout, metadata=self._token.metadata())
        except grpc.RpcError as error:
            raise service_error(error, self._encryption) from None
        return answer


class _Stream:
    def __init__(self, channel: grpc.aio.Channel, server: ServerUnderTest) -> None:
        parse = pb.ScoreStreamResponse.FromString
        self._method: Any = channel.stream_stream(f"/{SERVICE}/ScoreStream", response_deserializer=parse)
        self._token, self._encryption = BearerToken(server.token), server.encryption
        self._patience = server.timeout + _GRACE_SECONDS
        self._sequences = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[pb.ScoreResponse]] = {}
        self._outbox: asyncio.Queue[bytes] | None = None
        self._reader: asyncio.Task[None] | None = None

    async def send(self, message: bytes) -> pb.ScoreResponse:
        if self._outbox is None:
            self._outbox = asyncio.Queue()
            self._reader = asyncio.create_task(self._read(self._outbox))
        sequence = next(self._sequences)
        future: asyncio.Future[pb.ScoreResponse] = asyncio.get_running_loop().create_future()
        self._waiting[sequence] = future
        self._outbox.put_nowait(with_sequence(sequence, message))
        try:
            async with asyncio.timeout(self._patience):
                return await future
        except TimeoutError:
            raise ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, "the server did not answer in time") from None
        finally:
            del self._waiting[sequence]

    async def _read(self, outbox: asyncio.Queue[bytes]) -> None:
        """Open the stream, send it what is in the outbox, and receive its answers until it ends."""
        failure = ServiceError(grpc.StatusCode.UNKNOWN, "the server ended the stream", reason="STREAM_ENDED")
        try:
            async for message in self._method(_messages(outbox), metadata=self._token.metadata()):
                self._receive(message)
        except grpc.RpcError as error:
            failure = service_error(error, self._encryption)
        except ServiceError as error:
            failure = error
        except DecodeError:
            text = "the server sent an invalid ScoreStreamResponse"
            failure = ServiceError(grpc.StatusCode.UNKNOWN, text, reason="NO_MESSAGE")
        self._outbox = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(failure)

    def _receive(self, message: pb.ScoreStreamResponse) -> None:
        future = self._waiting.get(message.sequence)
        # Nobody waits any more for a call that was abandoned.
        if future is None or future.done():
            return
        if message.WhichOneof("result") == "response":
            future.set_result(message.response)
        else:
            future.set_exception(_status_error(message.status))


async def _messages(outbox: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
    while True:
        yield await outbox.get()


def _status_error(status: status_pb2.Status) -> ServiceError:
    code = next((code for code in grpc.StatusCode if code.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        detail.Unpack(info)
    return ServiceError(code, status.message, reason=info.reason)


class CoalescedCaller:
    """Calls `AsyncClient.score`, which sends together what is called for while others are on their way."""

    def __init__(self, job: GeneratorJob) -> None:
        server = job.server
        self._clients = [
            AsyncClient(
                address,
                timeout=server.timeout,
                tls=server.tls,
                token=server.token,
                allow_insecure_token=server.allow_insecure_token,
            )
            for address in server.addresses * server.connections
        ]
        self._model = job.model
        self._rows = [batch_to_rows(prepared.request) for prepared in job.pool]
        self._expected: list[pa.RecordBatch] = [prepared.expected for prepared in job.pool]
        self._check_scores = job.check_scores

    async def send(self, number: int) -> pa.RecordBatch:
        """Send a call, and return the outputs; raises as `ScoreCaller.send`."""
        client = self._clients[number % len(self._clients)]
        return (await client.score(self._model, self._rows[number % len(self._rows)])).held

    def is_right(self, number: int, answer: pa.RecordBatch) -> bool:
        """Return whether the outputs are those expected."""
        expected = self._expected[number % len(self._expected)]
        return same_batch(expected, answer) if self._check_scores else expected.num_rows == answer.num_rows

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            await client.close()


Caller = ScoreCaller | CoalescedCaller
