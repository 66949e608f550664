"""Who sends a prepared call and waits for its answer: one for each mode."""

from __future__ import annotations

import abc
import asyncio
import itertools
from collections.abc import Sequence
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.loadtest.comparison import same_response, same_rows
from prinz_enricher.loadtest.prepared import Prepared, stream_message, with_sequence
from prinz_enricher.loadtest.reasons import CallFailedError, failure_of_call, failure_of_status
from prinz_enricher.loadtest.target import SCORE, SCORE_STREAM, Target

_SHORT: Final = 4096
"""Bytes of an output up to which it is looked for in an answer as it came, which spares to parse it."""

_GRACE_SECONDS: Final = 0.5
"""How much longer than its timeout a message of a stream is waited for: the server is to say that it is late."""


class Caller(abc.ABC):
    """Sends calls of a pool."""

    @abc.abstractmethod
    async def send(self, number: int) -> Any:
        """Send a call of the pool, and return its answer for `is_right`.

        Raises:
            CallFailedError: It was answered with an error.
        """

    @abc.abstractmethod
    def is_right(self, number: int, answer: Any) -> bool:
        """Tell whether an answer is the one that the call of this number is to have."""

    @abc.abstractmethod
    async def close(self) -> None:
        """End all connections."""


class UnaryCaller(Caller):
    """A call of `Score` for each; for the modes UNARY and ARROW."""

    def __init__(self, target: Target, pool: Sequence[Prepared], *, scores: bool) -> None:
        self._channels = target.channels()
        self._methods: list[Any] = [channel.unary_unary(SCORE) for channel in self._channels]
        self._requests = [prepared.request for prepared in pool]
        self._answers = Answers(pool, scores=scores)
        self._timeout = target.timeout
        self._metadata = target.metadata

    async def send(self, number: int) -> bytes:
        """Call, and return the bytes of the answer."""
        method = self._methods[number % len(self._methods)]
        try:
            answer: bytes = await method(
                self._requests[number % len(self._requests)], timeout=self._timeout, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise failure_of_call(error) from None
        return answer

    def is_right(self, number: int, answer: bytes) -> bool:
        """Compare an answer, as it came where possible."""
        return self._answers.is_right(number, answer)

    async def close(self) -> None:
        """End all connections."""
        for channel in self._channels:
            await channel.close()


class Answers:
    """What is to come of each call of a pool.

    Args:
        pool: The calls.
        scores: Whether scores are compared; else the number of rows alone.
    """

    def __init__(self, pool: Sequence[Prepared], *, scores: bool) -> None:
        self._bytes = [prepared.expected for prepared in pool]
        self._messages = [pb.ScoreResponse.FromString(prepared.expected) for prepared in pool]
        self._same = same_response if scores else same_rows

    def is_right(self, number: int, answer: bytes | pb.ScoreResponse) -> bool:
        """Compare an answer, as bytes or as message."""
        place = number % len(self._bytes)
        expected = self._bytes[place]
        if isinstance(answer, bytes):
            if len(expected) <= _SHORT and expected in answer:
                return True
            try:
                answer = pb.ScoreResponse.FromString(answer)
            except DecodeError:
                return False
        return self._same(self._messages[place], answer)


class StreamCaller(Caller):
    """A message of `ScoreStream` for each; one stream on each connection, opened anew where it ends."""

    def __init__(self, target: Target, pool: Sequence[Prepared], *, scores: bool) -> None:
        self._channels = target.channels()
        self._streams = [_Stream(channel, target) for channel in self._channels]
        self._messages = [stream_message(prepared.request, target.timeout) for prepared in pool]
        self._answers = Answers(pool, scores=scores)

    async def send(self, number: int) -> pb.ScoreResponse:
        """Send a message, and return the scores that came for it."""
        stream = self._streams[number % len(self._streams)]
        return await stream.ask(self._messages[number % len(self._messages)])

    def is_right(self, number: int, answer: pb.ScoreResponse) -> bool:
        """Compare scores."""
        return self._answers.is_right(number, answer)

    async def close(self) -> None:
        """End all connections."""
        for stream in self._streams:
            await stream.close()
        for channel in self._channels:
            await channel.close()


class _Stream:
    """One stream, and who waits for what on it."""

    def __init__(self, channel: grpc.aio.Channel, target: Target) -> None:
        self._method: Any = channel.stream_stream(SCORE_STREAM)
        self._metadata = target.metadata
        self._limit = target.timeout + _GRACE_SECONDS
        self._sequences = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[pb.ScoreResponse]] = {}
        self._call: Any = None
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, message: bytes) -> pb.ScoreResponse:
        if self._call is None:
            self._open()
        sequence = next(self._sequences)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[pb.ScoreResponse] = loop.create_future()
        self._waiting[sequence] = future
        self._outbox.put_nowait(with_sequence(sequence, message))
        limit = loop.call_later(self._limit, self._give_up, future)
        try:
            return await future
        finally:
            limit.cancel()
            del self._waiting[sequence]

    @staticmethod
    def _give_up(future: asyncio.Future[pb.ScoreResponse]) -> None:
        if not future.done():
            future.set_exception(
                CallFailedError("DEADLINE_EXCEEDED", "the server answered neither in time nor that it is late")
            )

    async def close(self) -> None:
        if self._call is not None:
            self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _open(self) -> None:
        call = self._method(metadata=self._metadata)
        self._call, self._outbox = call, asyncio.Queue()
        reader = asyncio.create_task(self._read(call))
        self._tasks = [reader, asyncio.create_task(self._write(call, self._outbox))]

    @staticmethod
    async def _write(call: Any, outbox: asyncio.Queue[bytes]) -> None:
        try:
            while True:
                await call.write(await outbox.get())
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # The reader is told the same, with the reason.

    async def _read(self, call: Any) -> None:
        failure = CallFailedError("STREAM_ENDED", "the server ended the stream")
        try:
            while (raw := await call.read()) is not grpc.aio.EOF:
                self._answer(pb.ScoreStreamResponse.FromString(raw))
            if (code := await call.code()) is not grpc.StatusCode.OK:
                failure = failure_of_call(
                    grpc.aio.AioRpcError(
                        code, grpc.aio.Metadata(), await call.trailing_metadata(), await call.details()
                    )
                )
        except grpc.RpcError as error:
            failure = failure_of_call(error)
        except DecodeError:
            failure = CallFailedError("NO_MESSAGE", "the server sent what is no ScoreStreamResponse")
            call.cancel()
        self._call = None
        self._tasks[-1].cancel()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(CallFailedError(failure.reason, failure.message))

    def _answer(self, message: pb.ScoreStreamResponse) -> None:
        future = self._waiting.get(message.sequence)
        # One that was given up has nobody who waits.
        if future is None or future.done():
            return
        if message.WhichOneof("result") == "response":
            future.set_result(message.response)
        else:
            future.set_exception(failure_of_status(message.status))
