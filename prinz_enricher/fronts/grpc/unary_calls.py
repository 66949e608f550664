"""Unary calls on grpc.aio: each waits in a coroutine of its own, and their answers come into the loop together."""

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
from prinz_enricher.fronts.grpc.call_batcher import Arrivals
from prinz_enricher.service.ports import Call
from prinz_enricher.service.status import to_status

Answer: TypeAlias = bytes | status_pb2.Status


class UnaryCalls:
    """Answers unary calls.

    Args:
        admission: Lets them in.
        arrivals: Takes them.
        max_message_bytes: Bytes of an answer at most.
    """

    def __init__(self, admission: Admission, arrivals: Arrivals, *, max_message_bytes: int) -> None:
        self._admission = admission
        self._arrivals = arrivals
        self._max_message_bytes = max_message_bytes
        self._loop = asyncio.get_running_loop()
        self._answers: deque[tuple[asyncio.Future[Answer], Answer]] = deque()
        self._told = False

    async def serve(self, method: str, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> Answer:
        """Have a call answered; returns the serialised answer, or why there is none."""
        arrived = time.monotonic()
        remaining: float | None = context.time_remaining()
        answer: asyncio.Future[Answer] = self._loop.create_future()
        refusal = self._admission.enter(answer, len(request))
        if refusal is not None:
            return refusal
        deadline = None if remaining is None else arrived + remaining
        try:
            self._arrivals.add(_UnaryCall(self, answer, method, request, arrived, deadline))
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
        # Looked at after the answer is there, and taken back before answers are taken: none stays behind.
        if not self._told:
            self._told = True
            # The loop is closed once the front has drained; the caller has gone by then.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._settle_all)

    def _settle_all(self) -> None:
        self._told = False
        # Nobody else takes from it.
        while self._answers:
            answer, result = self._answers.popleft()
            if not answer.done():
                answer.set_result(result)


class _UnaryCall(Call):
    """A call by its future: three methods in place of three functions made for each call."""

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
