"""`ScoreStream` on grpc.aio: each message becomes a call, and answers are written as they come, in any order.

A stream has two coroutines, one that reads and one that writes. A caller who does not read its answers is not read from
either: gRPC's flow control then holds it up, and nothing piles up here. The request in a message stays bytes, for
whoever reads that of a unary call.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from prinz_enricher.batch.wire import prefix, varint
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import InvalidRequest, MessageTooLarge, Overloaded, ShuttingDown
from prinz_enricher.fronts.grpc.admission import Admission, FrontLimits
from prinz_enricher.fronts.grpc.authentication import gone, note_begin
from prinz_enricher.fronts.grpc.call_batcher import CallBatcher
from prinz_enricher.security.principal import Principal
from prinz_enricher.service.calls import Call, CallLog
from prinz_enricher.service.status import to_status
from prinz_enricher.telemetry.tracing import AnyTrace

MAX_MESSAGES = 1024
"""Messages of a stream whose answers are not sent yet: more than keeps every worker busy, and few enough that the
answers of a caller who stops reading stay small."""

FIRST_ANSWERS = 2
"""Answers that wait until the caller reads them, from which no more messages are read. Each that it reads makes room
for one more, so whoever never reads costs others little."""

MAX_HELD_BYTES = 32 * 1024 * 1024
"""Bytes of such messages, and of their answers, from which no more are read."""

MAX_TIMEOUT: Final = 10 * 365 * 86_400.0
"""Seconds from which a timeout is not a limit: longer than any service runs, less than Python's locks can wait."""

_MAX_SECONDS: Final = 315_576_000_000
_MAX_NANOS: Final = 999_999_999

_RESPONSE: Final = pb.ScoreStreamResponse.DESCRIPTOR.fields_by_name["response"].number
_STATUS: Final = pb.ScoreStreamResponse.DESCRIPTOR.fields_by_name["status"].number
_SEQUENCE_TAG: Final = varint(pb.ScoreStreamResponse.DESCRIPTOR.fields_by_name["sequence"].number << 3)


class StreamEnded(Exception):
    """A stream ends with an error, after all that was written."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


class ScoreStream:
    """Serves one stream: each message that is admitted goes to the batcher as a call."""

    most = MAX_MESSAGES
    """Messages that may be unanswered."""

    def __init__(
        self,
        context: grpc.aio.ServicerContext[bytes, bytes],
        caller: Hashable,
        admission: Admission,
        batcher: CallBatcher,
        limits: FrontLimits,
        principal: Principal | None = None,
        log: Callable[[], CallLog | None] = lambda: None,
        begin_trace: Callable[[], AnyTrace | None] | None = None,
    ) -> None:
        self._begin_trace = begin_trace
        self.max_message_bytes = limits.message_bytes
        self._context = context
        self._caller = caller
        self._admission = admission
        self.grow = admission.grow
        """Counts bytes more for a call in flight."""
        self._batcher = batcher
        self._patience = limits.patience
        self._principal = principal
        self._log = log
        self._peer = context.peer()
        self._loop = asyncio.get_running_loop()
        self._end: status_pb2.Status | None = None
        self._unsent = 0
        self._window = FIRST_ANSWERS
        self._room = asyncio.Event()
        self._thread = threading.get_ident()
        self._waiter: asyncio.Future[None] | None = None
        self._write_began: float | None = None
        self._alarm: asyncio.TimerHandle | None = None
        # The lock is for the following: answers come from any thread.
        self._lock = threading.Lock()
        self._open: set[_Message] = set()
        self._answers: deque[bytes] = deque()
        self._writing: deque[bytes] = deque()
        self._held = 0
        self._asleep = False

    async def serve(self) -> status_pb2.Status | None:
        """Serve until the caller has sent all and has every answer; returns the error that ends it before, if any."""
        remaining: float | None = self._context.time_remaining()
        self._deadline = None if remaining is None else time.monotonic() + remaining
        reading = self._loop.create_task(self._read())
        reading.add_done_callback(self._note_read)
        self._limit = asyncio.timeout(None)
        try:
            async with self._limit:
                await self._write(reading)
        except TimeoutError:
            # By `end`: there is no other time limit.
            return self._end
        except StreamEnded as ended:
            return ended.status
        finally:
            reading.cancel()
            if self._alarm is not None:
                self._alarm.cancel()
            with self._lock:
                left, self._open = self._open, set()
                unsent, self._answers = self._answers, deque()
            for message in left:
                self._admission.leave(message)
                end = gone(message)
                message.note_failure(end)
                if message.audit is not None:
                    message.audit.end(end)
                message.end_trace(end)
            for answer in (*self._writing, *unsent):
                self._admission.drop(self._caller, len(answer))
        return to_status(ShuttingDown()) if reading.cancelled() else self._end

    def refuse(self) -> None:
        """End the stream as soon as it owes no answer; the admission refuses messages already."""
        self._wake()

    def end(self, status: status_pb2.Status) -> None:
        """End the stream now, whatever it owes, with the first status given."""
        if self._limit.when() is None:
            self._end = status
            self._limit.reschedule(self._loop.time())

    async def _read(self) -> None:
        while True:
            while (
                self._unsent >= self.most
                or self._held >= MAX_HELD_BYTES
                or self._unsent - len(self._open) >= self._window
            ):
                self._room.clear()
                await self._room.wait()
            data: Any = await self._context.read()
            is_over = data is grpc.aio.EOF
            try:
                message = self.read_end() if is_over else self.read(data)
            except InvalidRequest as error:
                # Without a sequence no answer could name the message, and its caller would wait in vain. Earlier
                # messages are still answered.
                self._end = to_status(error)
                return
            if message is not None:
                self._begin(message, 0 if is_over else len(data))
            if is_over:
                return
            # The next message may be long in coming; a large one must not live until then.
            del data, message

    def _note_read(self, reading: asyncio.Task[None]) -> None:
        if not reading.cancelled():
            # Where the stream is over already, nobody else retrieves it.
            reading.exception()
        self._wake()

    # What tells one kind of stream from another.

    def read(self, data: bytes) -> ScoreMessage | None:
        """Return what a message asks; None where it asks nothing. Raises InvalidRequest, which ends the stream."""
        return read_message(data)

    def read_end(self) -> ScoreMessage | None:
        """Return what the end of the caller's messages asks."""
        return None

    def write_answer(self, sequence: int, response: bytes) -> bytes:
        """Return the answer with a serialised `ScoreResponse`; from any thread."""
        return write_response(sequence, response)

    def write_error(self, sequence: int, status: status_pb2.Status) -> bytes:
        """Return the answer with an error; from any thread."""
        return write_status(sequence, status)

    def queue(self, sequence: int, answer: bytes) -> None:
        """Put an answer among those to be sent; from any thread, with the lock."""
        self._answers.append(answer)

    async def send(self, answer: bytes) -> None:
        """Write an answer; raises StreamEnded."""
        await self._context.write(answer)

    def _begin(self, asked: ScoreMessage, size: int) -> None:
        arrived, deadline = time.monotonic(), self._deadline
        sequence, request, timeout, fault = asked
        if timeout is not None:
            deadline = arrived + timeout if deadline is None else min(deadline, arrived + timeout)
        message = _Message(
            "Score", request, arrived, deadline, self, sequence, size, principal=self._principal, peer=self._peer
        )
        if self._begin_trace is not None:
            message.trace = self._begin_trace()
        self._unsent += 1
        with self._lock:
            self._open.add(message)
            self._held += message.size
        refusal = self._admission.enter(message, self._caller, message.size) if fault is None else to_status(fault)
        log = self._log()
        if refusal is None:
            refusal = note_begin(log, message)
        elif log is not None:
            log.refuse("Score", self._principal, self._peer, message.traced(refusal))
        if refusal is None:
            self._batcher.add(message)
        else:
            message.fail(refusal)

    async def _write(self, reading: asyncio.Task[None]) -> None:
        """Write answers until there will be no more."""
        while True:
            if self._admission.draining and not self._open:
                # Whoever sends without pause would be refused without end.
                reading.cancel()
            with self._lock:
                answers, self._answers = self._answers, deque()
                owes = bool(self._open)
                self._asleep = not answers
            if answers:
                self._writing = answers
                await self._write_all(answers)
            elif not reading.done() or owes:
                self._waiter = self._loop.create_future()
                await self._waiter
            else:
                if not reading.cancelled():
                    reading.result()
                return

    async def _write_all(self, answers: deque[bytes]) -> None:
        while answers:
            answer = answers[0]
            self._write_began = self._loop.time()
            if self._alarm is None:
                self._alarm = self._loop.call_at(self._write_began + self._patience, self._check_write)
            await self.send(answer)
            answers.popleft()
            self._admission.drop(self._caller, len(answer))
            self._write_began = None
            self._unsent -= 1
            self._window = min(MAX_MESSAGES, self._window + 1)
            with self._lock:
                self._held -= len(answer)
            self._room.set()

    def _check_write(self) -> None:
        """End the stream of a caller who has not read for long. One timer serves all writes."""
        began, self._alarm = self._write_began, None
        if began is None:
            return
        if self._loop.time() < began + self._patience:
            self._alarm = self._loop.call_at(began + self._patience, self._check_write)
        else:
            self.end(to_status(Overloaded(f"the stream was not read for {self._patience:g} seconds")))

    def is_open(self, message: _Message) -> bool:
        """Return whether a message has no answer yet."""
        return message in self._open

    def answer(self, message: _Message, answer: bytes, error: status_pb2.Status | None = None) -> bool:
        """Send an answer, from any thread, in which an error may be; the first to a message counts.

        Returns whether it is that, and none.
        """
        with self._lock:
            if message not in self._open:
                return False
            self._open.remove(message)
            self._admission.leave(message)
            refusal = self._admission.hold(self._caller, len(answer))
            if refusal is not None:
                refusal = message.traced(refusal)
                answer, error = self.write_error(message.sequence, refusal), refusal
            self.queue(message.sequence, answer)
            self._held += len(answer) - message.size
            asleep, self._asleep = self._asleep, False
        if error is not None:
            message.note_failure(error)
        if message.audit is not None:
            message.audit.end(error)
        if message.trace is not None:
            message.end_trace(error)
        if asleep and threading.get_ident() == self._thread:
            self._wake()
        elif asleep:
            # The loop is closed once the front has drained; the caller has gone by then.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)
        return error is None

    def _wake(self) -> None:
        """Wake the writer."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


@dataclass(slots=True, eq=False)
class _Message(Call):
    stream: ScoreStream
    sequence: int
    size: int

    def respond(self, message: bytes) -> bool:
        answer = self.stream.write_answer(self.sequence, message)
        limit = self.stream.max_message_bytes
        if len(answer) <= limit:
            return self.stream.answer(self, answer)
        self.fail(to_status(MessageTooLarge("answer", len(answer), limit)))
        return False

    def fail(self, status: status_pb2.Status) -> None:
        status = self.traced(status)
        self.stream.answer(self, self.stream.write_error(self.sequence, status), status)

    def cancelled(self) -> bool:
        return not self.stream.is_open(self)

    def hold(self, size: int) -> None:
        self.stream.grow(self, size)


class ScoreMessage(NamedTuple):
    """A message of a caller.

    Attributes:
        request: The serialised `ScoreRequest`, which may be invalid; empty for none.
        timeout: Seconds after its arrival when an answer is useless; None for no limit of its own.
        fault: What is wrong with the message itself, if anything.
    """

    sequence: int
    request: bytes
    timeout: float | None
    fault: InvalidRequest | None


def read_message(data: bytes) -> ScoreMessage:
    """Parse a serialised `ScoreStreamRequest`, and leave the request in it as bytes; raises InvalidRequest."""
    try:
        envelope = _Envelope.FromString(data)
    except DecodeError:
        raise InvalidRequest("message", "is not a ScoreStreamRequest") from None
    # Each field access makes an object; most messages have one request and no timeout.
    requests, timeouts = envelope.request, envelope.timeout
    try:
        return ScoreMessage(
            envelope.sequence,
            requests[0] if len(requests) == 1 else _merged(requests),
            _seconds(timeouts) if timeouts else None,
            None,
        )
    except InvalidRequest as fault:
        return ScoreMessage(envelope.sequence, b"", None, fault)


def write_response(sequence: int, response: bytes) -> bytes:
    """Return a serialised `ScoreStreamResponse` with a serialised `ScoreResponse`."""
    return b"".join((_written(sequence), prefix(_RESPONSE, len(response)), response))


def write_status(sequence: int, status: status_pb2.Status) -> bytes:
    """Return a serialised `ScoreStreamResponse` with an error."""
    written = status.SerializeToString()
    return b"".join((_written(sequence), prefix(_STATUS, len(written)), written))


def _written(sequence: int) -> bytes:
    return _SEQUENCE_TAG + varint(sequence) if sequence else b""


def _merged(requests: Sequence[bytes]) -> bytes:
    """Return several messages as one, as protobuf merges those that follow each other on the wire."""
    for request in requests:
        # Each must be whole, or the end of one and the start of the next could form a message that nobody sent.
        try:
            pb.ScoreRequest.FromString(request)
        except DecodeError:
            raise InvalidRequest("request", "is not a ScoreRequest message") from None
    return b"".join(requests)


def _seconds(timeouts: Sequence[bytes]) -> float | None:
    duration = Duration()
    try:
        for timeout in timeouts:
            duration.MergeFromString(timeout)
    except DecodeError:
        raise InvalidRequest("timeout", "is not a Duration message") from None
    seconds, nanos = duration.seconds, duration.nanos
    if seconds < 0 or nanos < 0:
        raise InvalidRequest("timeout", "is negative, or mixes signs")
    if seconds > _MAX_SECONDS or nanos > _MAX_NANOS:
        raise InvalidRequest("timeout", "is out of the range of a Duration")
    return None if seconds >= MAX_TIMEOUT else seconds + nanos / 1e9


def _make_envelope() -> Any:
    """Return the message type `ScoreStreamRequest` with bytes in place of messages.

    protobuf parses it several times as quickly as Python could walk the wire. Repeated fields keep the parts of a field
    that was written more than once.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="score_stream_envelope.proto", package="envelope", syntax="proto3")
    message = file.message_type.add(name="Envelope")
    for field in pb.ScoreStreamRequest.DESCRIPTOR.fields:
        nested = field.message_type is not None
        message.field.add(
            name=field.name,
            number=field.number,
            type=kinds.TYPE_BYTES if nested else kinds.Type.ValueType(field.type),
            label=kinds.LABEL_REPEATED if nested else kinds.LABEL_OPTIONAL,
        )
    # A pool of its own: the type is of no concern to reflection.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("envelope.Envelope"))


_Envelope: Final = _make_envelope()
