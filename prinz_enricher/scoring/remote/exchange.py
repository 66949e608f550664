"""Requests to the model servers of one endpoint: bounded in time, size and number, tried again where that may help."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from prinz_enricher.registry.auth import Access
from prinz_enricher.scoring.remote.answers import Again, Answer, Setback, Shows
from prinz_enricher.scoring.remote.bases import Base, Bases
from prinz_enricher.scoring.remote.breaker import State
from prinz_enricher.scoring.remote.endpoint import Endpoint
from prinz_enricher.scoring.remote.errors import CallCancelled, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from prinz_enricher.scoring.remote.network import SLICE_SECONDS
from prinz_enricher.scoring.remote.retries import MAX_RETRY_AFTER_SECONDS, RetryBudget, backoff
from prinz_enricher.scoring.remote.tries import Request, Tries
from prinz_enricher.scoring.remote.turns import Turns


def never() -> bool:
    """Tell that a call is not cancelled."""
    return False


@dataclass(frozen=True, slots=True)
class Found:
    """Where a model is scored.

    Attributes:
        path: Below the base URL.
        answer: What the model server said to the first request.
        refusal: The same, where it said that the request is wrong.
    """

    path: str
    answer: Answer | None
    refusal: UpstreamRefused | None


class Exchange:
    """Asks the model servers of one endpoint; may be used by several threads at once."""

    def __init__(self, endpoint: Endpoint, access: Access, *, chance: Callable[[], float] = random.random) -> None:
        """Connect to nobody yet.

        Args:
            endpoint: Its bases and limits.
            access: How they are reached; its URL does not count.
            chance: Gives numbers between 0 and 1.

        Raises:
            AccessError: A certificate, or a proxy of the environment, can't be used.
        """
        self._endpoint = endpoint
        self._tries = Tries(endpoint, access)
        self._turns = Turns(endpoint.max_concurrent)
        self._bases = Bases(endpoint.urls, failures=endpoint.breaker_failures, pause=endpoint.breaker_pause)
        self._budget = RetryBudget(endpoint.retry_share, endpoint.retry_burst)
        self._chance = chance
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Take no more calls, and close all connections that no call uses."""
        self._closed.set()
        self._tries.close()

    @property
    def states(self) -> dict[str, tuple[State, int]]:
        """The state of each base by its URL, and how many requests it has to answer now."""
        return self._bases.states()

    def post(
        self,
        path: str,
        content: bytes,
        content_type: str,
        *,
        deadline: float,
        cancelled: Callable[[], bool] = never,
    ) -> Answer:
        """Ask for predictions.

        Args:
            path: Below the base URLs, percent-encoded, as `conventions.paths` gives it.
            content: The body.
            content_type: Of the body.
            deadline: When the call must be over, by `time.monotonic()`; all waiting ends then.
            cancelled: Tells whether nobody waits for the answer any more; asked ten times a second.

        Raises:
            UpstreamFailed: No base gave an answer.
            UpstreamTimeout: None came before the deadline.
            UpstreamRefused: The model server says that the request is wrong.
            CallCancelled: Nobody waits for it any more.
        """
        request = Request(path, content, content_type, deadline, cancelled)
        self._budget.earn()
        tried: list[Base] = []
        retries = unsent = 0
        last: Setback | None = None
        while True:
            try:
                answer = self._try(request, tried, last)
            except Setback as setback:
                last = setback
            else:
                if answer is not None:
                    return answer
                self._wait(self._opens_in(request, last), request)
                continue
            pause = self._pause(last, request, tried, retries, unsent)
            if last.unsent:
                # That costs nobody anything, and ends when the base is left out.
                unsent += 1
            else:
                if not self._budget.spend():
                    raise _failure(last, "; too many calls fail to try each of them again") from last
                retries += 1
            self._wait(pause, request)

    def probe(
        self,
        paths: Sequence[str],
        content: bytes,
        content_type: str,
        *,
        deadline: float,
        cancelled: Callable[[], bool] = never,
    ) -> Found:
        """Find out at which path a model is scored: the first one where something answers as a model server does.

        Args:
            paths: In the order in which they are tried; otherwise as `post`.
            content: The body; a refusal of it will do.
            content_type: Of the body.
            deadline: As `post`.
            cancelled: As `post`.

        Raises:
            UpstreamFailed: There is none at any of the paths, or the server fails.
            UpstreamTimeout: None answered before the deadline.
            CallCancelled: Nobody waits for it any more.
        """
        seen = []
        for path in paths:
            try:
                answer = self.post(path, content, content_type, deadline=deadline, cancelled=cancelled)
            except UpstreamRefused as refusal:
                if not refusal.missing and refusal.content_type != "text/html":
                    return Found(path, None, refusal)
                seen.append(f"{path}: HTTP {refusal.status}")
            except UpstreamFailed as failure:
                if not failure.foreign:
                    raise
                seen.append(f"{path}: HTTP {failure.status}, which is none of a model server")
            else:
                return Found(path, answer, None)
        raise UpstreamFailed(f"no model server at any of the paths ({'; '.join(seen)})", foreign=True)

    def _try(self, request: Request, tried: list[Base], last: Setback | None) -> Answer | None:
        """Send a request to the next base, and take note there of how it went; None where all are left out."""
        with self._turns.turn(request.deadline, request.cancelled, again=last is not None):
            if self._closed.is_set():
                raise UpstreamFailed("the service is shutting down")
            use = self._bases.take(tried)
            if use is None:
                return None
            ended = self._bases.left
            try:
                answer = self._tries.once(
                    use.base.url, request, min(request.deadline, time.monotonic() + self._endpoint.timeout)
                )
                ended = self._bases.succeeded
            except UpstreamRefused:
                ended = self._bases.succeeded
                raise
            except Setback as setback:
                tried.append(use.base)
                if setback.late and time.monotonic() >= request.deadline:
                    ended = self._bases.left if setback.shows is Shows.NOTHING else self._bases.ran_out
                    raise UpstreamTimeout(setback.failure.why, asked=not setback.unsent) from setback
                if setback.shows is not Shows.NOTHING:
                    ended = self._bases.succeeded if setback.shows is Shows.WELL else self._bases.failed
                raise
            finally:
                ended(use)
            return answer

    def _pause(self, setback: Setback, request: Request, tried: list[Base], retries: int, unsent: int) -> float:
        """Return the seconds until the next try; raise what is told where there is none."""
        another = self._bases.another(tried)
        if setback.again is Again.NEVER or (setback.again is Again.ELSEWHERE and not another):
            raise _failure(setback) from setback
        if setback.unsent and another:
            return 0.0
        if not setback.unsent and retries >= self._endpoint.max_retries:
            raise _failure(setback, f" (after {retries} retries)") from setback
        # What one base says of when to come back is not said of another.
        told = None if another else setback.wait
        pause = backoff(retries + unsent, self._chance()) if told is None else told
        if pause > MAX_RETRY_AFTER_SECONDS or time.monotonic() + pause >= request.deadline:
            raise _failure(setback) from setback
        return pause

    def _wait(self, seconds: float, request: Request) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._closed.wait(min(left, SLICE_SECONDS)):
            if request.cancelled():
                raise CallCancelled("the call was cancelled before it was tried again")

    def _opens_in(self, request: Request, last: Setback | None) -> float:
        """Return the seconds until one of the bases, all of which are left out, may be asked again.

        One that answered before may merely be starting anew: a call waits for it while its pauses are short. Of one
        that stays away callers are told at once.

        Raises:
            UpstreamFailed: That is not worth waiting for.
        """
        opens_in = max(self._bases.opens_in(), SLICE_SECONDS)
        in_time = time.monotonic() + opens_in < request.deadline
        if in_time and self._bases.may_come_back(MAX_RETRY_AFTER_SECONDS):
            return opens_in
        if last is not None:
            raise _failure(last, retry_after=opens_in) from last
        raise UpstreamFailed("it failed too often, and is left alone for a while", opens_in)


def _failure(setback: Setback, more: str = "", *, retry_after: float = 0.0) -> UpstreamFailed:
    """Return what is told of a try that was the last one."""
    failure = setback.failure
    return UpstreamFailed(
        failure.why + more, max(failure.retry_after, retry_after), status=failure.status, foreign=failure.foreign
    )
