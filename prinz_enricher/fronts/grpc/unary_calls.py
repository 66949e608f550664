"""Unary calls on grpc.aio: each waits in a coroutine, and answers enter the loop together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TypeAlias

import grpc.aio
from google.rpc import status_pb2

from prinz_enricher.errors import MessageTooLarge
from prinz_enricher.fronts.grpc.admission import Admission
from prinz_enricher.fronts.grpc.call_batcher import CallBatcher
from prinz_enricher.service.calls import Call
from prinz_enricher.service.status import to_status

Answer: TypeAlias = bytes | status_pb2.Status


class UnaryCalls:
    """Serves unary calls, whose answers have up to `max_message_bytes`."""

    def __init__(self, admission: Admission, batcher: CallBatcher, *, max_message_bytes: int) -> None:
        self._admission = admission
        self._batcher = batcher
        self._max_message_bytes = max_message_bytes
        self._loop = asyncio.get_running_loop()
        self._answers: deque[tuple[asyncio.Future[Answer], Answer]] = deque()
        self._scheduled = False

    async def serve(self, method: str, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> Answer:
        """Serve a call; returns the serialised answer or the error."""
        arrived = time.monotonic()
        remaining: float | None = context.time_remaining()
        answer: asyncio.Future[Answer] = self._loop.create_future()
        refusal = self._admission.enter(answer, len(request))
        if refusal is not None:
            return refusal
        deadline = None if remaining is None else arrived + remaining
        try:
            self._batcher.add(_UnaryCall(self, answer, method, request, arrived, deadline))
            result = await answer
        finally:
            # A caller that goes away cancels this coroutine, and with it the future that `cancelled` asks.
            answer.cancel()
            self._admission.leave(answer)
        if isinstance(result, bytes) and len(result) > self._max_message_bytes:
            return to_status(MessageTooLarge("answer", len(result), self._max_message_bytes))
        return result

    def settle(self, answer: asyncio.Future[Answer], result: Answer) -> None:
        """Answer a call, from any thread."""
        self._answers.append((answer, result))
        # Read after the answer is there, and reset before answers are read: none stays behind.
        if not self._scheduled:
            self._scheduled = True
            # The loop is closed once the front has drained; the caller has gone by then.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._settle_all)

    def _settle_all(self) -> None:
        self._scheduled = False
        # Nobody else removes from it.
        while self._answers:
            answer, result = self._answers.popleft()
            if not answer.done():
                answer.set_result(result)


class _UnaryCall(Call):
    """A call by its future; methods instead of three closures for each call."""

    __slots__ = ("_answer", "_calls")

    def __init__(
        self,
        calls: UnaryCalls,
        answer: asyncio.Future[Answer],
        method: str,
        request: bytes,
        arrived: float,
        deadline: float | None,
    ) -> None:
        self._calls = calls
        self._answer = answer
        self.method = method
        self.request = request
        self.arrived = arrived
        self.deadline = deadline

    def respond(self, message: bytes) -> None:
        self._calls.settle(self._answer, message)

    def fail(self, status: status_pb2.Status) -> None:
        self._calls.settle(self._answer, status)

    def cancelled(self) -> bool:
        return self._answer.cancelled()
