"""One `ScoreStream` on grpc.aio: its messages become calls, and their answers are written as they come, in any order.

A stream has two coroutines, one that reads and one that writes, however many messages it has. A caller who does not
read its answers is not read from either: gRPC's flow control then holds it up, and nothing piles up here.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from typing import Any

import grpc.aio
from google.rpc import status_pb2

from prinz_enricher.errors import InvalidRequest, MessageTooLarge, Overloaded, ShuttingDown
from prinz_enricher.fronts.grpc.admission import Admission
from prinz_enricher.fronts.grpc.call_batcher import Arrivals
from prinz_enricher.fronts.grpc.score_message import read_message, write_response, write_status
from prinz_enricher.service.ports import Call
from prinz_enricher.service.status import to_status

MAX_MESSAGES = 1024
"""Messages of a stream that are read and whose answers are not yet sent, at most. Far more than keeps every worker
busy; and few enough that the answers of a caller who stops to read stay a small heap."""

MAX_HELD_BYTES = 32 * 1024 * 1024
"""Bytes of such messages, and of their answers, from which no more are read: the next large one waits for its turn."""


class ScoreStream:
    """Serves one stream.

    Args:
        context: The stream.
        admission: Lets its messages in.
        arrivals: Takes each as a call.
        max_message_bytes: Bytes of an answer at most.
        patience: Seconds that an answer may wait for the caller to read.
    """

    def __init__(
        self,
        context: grpc.aio.ServicerContext[bytes, bytes],
        admission: Admission,
        arrivals: Arrivals,
        *,
        max_message_bytes: int,
        patience: float,
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self._context = context
        self._admission = admission
        self._arrivals = arrivals
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._end: status_pb2.Status | None = None
        self._unsent = 0
        self._room = asyncio.Event()
        self._thread = threading.get_ident()
        self._waiter: asyncio.Future[None] | None = None
        self._write_began: float | None = None
        self._alarm: asyncio.TimerHandle | None = None
        # Below: what answers touch, which come from any thread.
        self._lock = threading.Lock()
        self._open: set[_Message] = set()
        self._answers: deque[bytes] = deque()
        self._held = 0
        self._asleep = False

    async def serve(self) -> status_pb2.Status | None:
        """Serve until the caller has said all and has every answer, or until the stream can't go on.

        Returns:
            Why it ends; None where all is well.
        """
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
        finally:
            reading.cancel()
            if self._alarm is not None:
                self._alarm.cancel()
            with self._lock:
                left, self._open = self._open, set()
            for message in left:
                self._admission.leave(message)
        return to_status(ShuttingDown()) if reading.cancelled() else self._end

    def refuse(self) -> None:
        """Notice that the admission lets no more messages in: the stream ends as soon as it owes no answer."""
        self._wake()

    def end(self, status: status_pb2.Status) -> None:
        """End the stream now, whatever it owes; the first reason is the one that is told."""
        if self._limit.when() is None:
            self._end = status
            self._limit.reschedule(self._loop.time())

    async def _read(self) -> None:
        while True:
            while self._unsent >= MAX_MESSAGES or self._held >= MAX_HELD_BYTES:
                self._room.clear()
                await self._room.wait()
            data: Any = await self._context.read()
            if data is grpc.aio.EOF:
                return
            try:
                self._take(data)
            except InvalidRequest as error:
                # Without a sequence, no answer could say which message it is about; a caller that went on would wait
                # for it in vain. Those before are still answered.
                self._end = to_status(error)
                return
            # The next message may be long in coming; a large one must not wait with us.
            del data

    def _note_read(self, reading: asyncio.Task[None]) -> None:
        if not reading.cancelled():
            # Where the stream is over already, nobody else asks for it.
            reading.exception()
        self._wake()

    def _take(self, data: bytes) -> None:
        arrived, deadline = time.monotonic(), self._deadline
        sequence, request, timeout, fault = read_message(data)
        if timeout is not None:
            deadline = arrived + timeout if deadline is None else min(deadline, arrived + timeout)
        message = _Message(self, sequence, len(data), request, arrived, deadline)
        self._unsent += 1
        with self._lock:
            self._open.add(message)
            self._held += message.size
        refusal = self._admission.enter(message) if fault is None else to_status(fault)
        if refusal is None:
            self._arrivals.add(message)
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
            answer = answers.popleft()
            self._write_began = self._loop.time()
            if self._alarm is None:
                self._alarm = self._loop.call_at(self._write_began + self._patience, self._look_at_write)
            await self._context.write(answer)
            self._write_began = None
            self._unsent -= 1
            with self._lock:
                self._held -= len(answer)
            self._room.set()

    def _look_at_write(self) -> None:
        """End the stream of a caller who has not read for long. One timer looks after all writes."""
        began, self._alarm = self._write_began, None
        if began is None:
            return
        if self._loop.time() < began + self._patience:
            self._alarm = self._loop.call_at(began + self._patience, self._look_at_write)
        else:
            self.end(to_status(Overloaded(f"the stream was not read for {self._patience:g} seconds")))

    def is_open(self, message: _Message) -> bool:
        """Tell whether a message waits for its answer."""
        return message in self._open

    def answer(self, message: _Message, answer: bytes) -> None:
        """Send an answer, from any thread; only the first one to a message counts."""
        with self._lock:
            if message not in self._open:
                return
            self._open.remove(message)
            self._answers.append(answer)
            self._held += len(answer) - message.size
            asleep, self._asleep = self._asleep, False
        self._admission.leave(message)
        if asleep:
            if threading.get_ident() == self._thread:
                self._wake()
                return
            # The loop is closed once the front has drained; the caller has gone by then.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        """Have the writer look at what there is to do; it sleeps only where it waits for this."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class _Message(Call):
    """A message that waits for its answer, as a call: three methods in place of three functions made for each."""

    __slots__ = ("_sequence", "_stream", "size")

    def __init__(
        self, stream: ScoreStream, sequence: int, size: int, request: bytes, arrived: float, deadline: float | None
    ) -> None:
        self._stream = stream
        self._sequence = sequence
        self.size = size
        self.method = "Score"
        self.request = request
        self.arrived = arrived
        self.deadline = deadline

    def respond(self, message: bytes) -> None:
        answer = write_response(self._sequence, message)
        limit = self._stream.max_message_bytes
        if len(answer) > limit:
            self.fail(to_status(MessageTooLarge("answer", len(answer), limit)))
        else:
            self._stream.answer(self, answer)

    def fail(self, status: status_pb2.Status) -> None:
        self._stream.answer(self, write_status(self._sequence, status))

    def cancelled(self) -> bool:
        return not self._stream.is_open(self)
