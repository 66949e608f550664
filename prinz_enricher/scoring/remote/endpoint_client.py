"""Requests to the model servers of one endpoint: bounded in time, size and number, tried again where that may help.

All of them are made in one event loop, in a thread of its own, so that a deadline or a cancellation ends a request
wherever it waits: for its turn, a name, a connection, or a byte.

Scoring changes nothing at the server, so a request may be sent twice even where the first may have been answered: after
a reset, a time-out or a connection that the server closed. The work that this makes for a server that fails is bounded
by a budget, which tenacity and stamina do not have, nor a choice of another server.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import NoReturn

from prinz_enricher.config import EndpointSettings
from prinz_enricher.registry.auth import Access
from prinz_enricher.scoring.remote.http_sender import AttemptFailed, HttpSender, Request, RetryScope
from prinz_enricher.scoring.remote.load_balancer import Backend, BackendHealth, LoadBalancer, State
from prinz_enricher.scoring.remote.upstream import CallCancelled, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from prinz_enricher.telemetry.tracing import BatchTrace

SLICE_SECONDS = 0.1
"""How often it is looked whether a call was cancelled."""

MAX_RETRY_AFTER_SECONDS = 10.0
"""How long a call waits for a server that says when to come back; a longer wait is for the caller to decide on."""

_FIRST_BACKOFF_SECONDS = 0.05
_MAX_BACKOFF_SECONDS = 1.0
_LEAST_BURST = 10
_THREADS = 4
"""For what may block without a time limit: look-ups of names, and tokens."""


class RetryBudget:
    """Lets a share of all calls be retries, and a few more at once; belongs to one thread."""

    def __init__(self, share: float, burst: float) -> None:
        """Begin with a full budget: each call earns a share of a retry, and `burst` retries can be saved up."""
        self._share = share
        self._burst = burst
        self._saved = burst

    def earn(self) -> None:
        """Count a call."""
        self._saved = min(self._burst, self._saved + self._share)

    def spend(self) -> bool:
        """Spend one retry; False where there is none left."""
        # Ten shares of 0.1 are a little less than one.
        if self._saved < 1.0 - 1e-9:
            return False
        self._saved -= 1.0
        return True


def backoff(retry: int, chance: float) -> float:
    """Return the seconds before a retry, the first being 0; `chance`, up to 1, keeps calls from returning together."""
    return chance * min(_FIRST_BACKOFF_SECONDS * 2.0 ** min(retry, 30), _MAX_BACKOFF_SECONDS)


@dataclass(slots=True)
class _Call:
    """A call and what became of it so far; times by `time.monotonic()`, which is the loop's clock."""

    request: Request
    deadline: float
    task: asyncio.Task[bytes] | None = None
    tried: list[Backend] = field(default_factory=list)
    retries: int = 0
    unsent: int = 0
    last: AttemptFailed | None = None

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


class EndpointClient:
    """Asks the model servers of one endpoint; may be used by several threads at once."""

    def __init__(
        self, endpoint: EndpointSettings, access: Access, *, chance: Callable[[], float] = random.random
    ) -> None:
        """Connect to nobody yet; `chance` returns numbers between 0 and 1. Raises AccessError as `ConnectionPool`."""
        self.endpoint = endpoint
        self._threads = ThreadPoolExecutor(_THREADS, "remote-errand")
        self._sender = HttpSender(endpoint, access, self._threads)
        self._balancer = LoadBalancer(endpoint.urls, failures=endpoint.breaker_failures, pause=endpoint.breaker_pause)
        # Enough for all calls that are under way when a base freezes.
        burst = max(_LEAST_BURST, endpoint.max_concurrent) if endpoint.retry_share and endpoint.max_retries else 0
        self._budget = RetryBudget(endpoint.retry_share, burst)
        self._slots = asyncio.Semaphore(endpoint.max_concurrent)
        self._chance = chance
        self._lock = threading.Lock()
        self._is_open = True
        self._closed = asyncio.Event()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        threading.Thread(target=self._run, name="remote-requests", daemon=True).start()

    def close(self) -> None:
        """Refuse new calls, and close all connections, those in use after their requests."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._loop.call_soon_threadsafe(self._closed.set)

    @property
    def states(self) -> dict[str, tuple[State, int]]:
        """The state of each base by its URL, and how many requests it has to answer now."""
        return self._balancer.states()

    def usage(self) -> tuple[Mapping[str, int], int]:
        """Return how many requests were sent so far, by the HTTP status of the answer, and how many bases are out."""
        return dict(self._sender.requests), sum(state is not State.CLOSED for state, _ in self.states.values())

    def post(
        self,
        path: str,
        content: bytes,
        content_type: str,
        *,
        deadline: float,
        cancelled: Callable[[], bool] = lambda: False,
        trace: BatchTrace | None = None,
    ) -> bytes:
        """Ask for predictions, at a path of `endpoint.paths`; blocks, and returns JSON, as it came.

        All waiting ends at the deadline, by `time.monotonic()`, or if `cancelled`, polled ten times a second, says so.
        Each attempt is a part of the `trace`.

        Raises:
            UpstreamFailed: No base gave an answer.
            UpstreamTimeout: None came before the deadline.
            UpstreamRefused: The model server says that the request is wrong.
            CallCancelled: Nobody waits for it any more.
        """
        if cancelled():
            raise CallCancelled("the call was cancelled")
        call = _Call(Request(path, content, content_type, trace), deadline)
        with self._lock:
            if not self._is_open:
                raise UpstreamFailed("the service is shutting down")
            answer = asyncio.run_coroutine_threadsafe(self._post(call), self._loop)
        while not answer.done():
            wait((answer,), SLICE_SECONDS)
            if not answer.done() and cancelled():
                self._loop.call_soon_threadsafe(call.cancel)
        return answer.result()

    def probe(
        self,
        paths: Sequence[str],
        content: bytes,
        content_type: str,
        *,
        deadline: float,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> str:
        """Find the path at which a model is scored: the first one where something answers as a model server does.

        A refusal of the body will do. For arguments and errors see `post`; `UpstreamFailed` is also raised where there
        is not a model server at any of the paths.
        """
        seen = []
        for path in paths:
            try:
                self.post(path, content, content_type, deadline=deadline, cancelled=cancelled)
            except UpstreamRefused as refusal:
                if not refusal.missing and refusal.content_type != "text/html":
                    return path
                seen.append(f"{path}: HTTP {refusal.status}")
            except UpstreamFailed as failure:
                if not failure.foreign:
                    raise
                seen.append(f"{path}: HTTP {failure.status}, which is not from a model server")
            else:
                return path
        raise UpstreamFailed(f"no model server at any of the paths ({'; '.join(seen)})", foreign=True)

    # In the event loop.

    def _run(self) -> None:
        with self._runner:
            self._runner.run(self._serve())
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _serve(self) -> None:
        """Let calls be made until the client is closed and the last one is over."""
        await self._closed.wait()
        if calls := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(calls)
        await self._sender.aclose()

    async def _post(self, call: _Call) -> bytes:
        call.task = asyncio.current_task()
        self._budget.earn()
        try:
            while True:
                try:
                    answer = await self._try(call)
                except AttemptFailed as failed:
                    call.last = failed
                    await self._wait(self._pause(call, failed))
                else:
                    if answer is not None:
                        return answer
                    await self._wait(self._opens_in(call))
        except asyncio.CancelledError:
            raise CallCancelled("the call was cancelled") from None

    async def _try(self, call: _Call) -> bytes | None:
        """Send a request to the next base, and note there how it went; None where all are left out."""
        await self._acquire_slot(call)
        try:
            if self._closed.is_set():
                raise UpstreamFailed("the service is shutting down")
            lease = self._balancer.acquire(call.tried)
            if lease is None:
                return None
            health, ran_out = BackendHealth.UNKNOWN, False
            until = min(call.deadline, self._loop.time() + self.endpoint.timeout)
            try:
                answer = await self._sender.send(lease.backend.url, call.request, until)
                health = BackendHealth.WELL
            except UpstreamRefused:
                health = BackendHealth.WELL
                raise
            except AttemptFailed as failed:
                call.tried.append(lease.backend)
                health = failed.health
                ran_out = failed.late and self._loop.time() >= call.deadline
                if ran_out:
                    raise UpstreamTimeout(str(failed), asked=not failed.unsent) from failed
                raise
            finally:
                self._balancer.release(lease, health, ran_out=ran_out)
            return answer
        finally:
            self._slots.release()

    async def _acquire_slot(self, call: _Call) -> None:
        try:
            async with asyncio.timeout_at(call.deadline):
                await self._slots.acquire()
        except TimeoutError:
            most = self.endpoint.max_concurrent
            why = f"its time was over before its turn; {most} requests at once are allowed"
            raise UpstreamTimeout(why, asked=call.last is not None) from None

    def _pause(self, call: _Call, failed: AttemptFailed) -> float:
        """Count another attempt, and return the seconds until it; raise the failure where there is none."""
        another = self._balancer.has_untried(call.tried)
        if failed.scope is RetryScope.NOWHERE or (failed.scope is RetryScope.ELSEWHERE and not another):
            _fail(failed)
        if failed.unsent and another:
            pause = 0.0
        elif not failed.unsent and call.retries >= self.endpoint.max_retries:
            _fail(failed, f" (after {call.retries} retries)")
        else:
            # What one base says of when to come back does not hold for another.
            wanted = None if another else failed.wait
            pause = backoff(call.retries + call.unsent, self._chance()) if wanted is None else wanted
            if pause > MAX_RETRY_AFTER_SECONDS or self._loop.time() + pause >= call.deadline:
                _fail(failed)
        if failed.unsent:
            # That costs nobody anything, and ends when the base is left out.
            call.unsent += 1
        elif self._budget.spend():
            call.retries += 1
        else:
            _fail(failed, "; too many calls fail to try each of them again")
        return pause

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    def _opens_in(self, call: _Call) -> float:
        # All bases are left out. One that answered before may merely be restarting: a call waits for it while its
        # pauses are short. For one that stays away the call fails at once.
        opens_in = max(self._balancer.opens_in(), SLICE_SECONDS)
        in_time = self._loop.time() + opens_in < call.deadline
        if in_time and self._balancer.may_come_back(MAX_RETRY_AFTER_SECONDS):
            return opens_in
        if call.last is not None:
            _fail(call.last, retry_after=opens_in)
        raise UpstreamFailed("it failed too often, and is left alone for a while", opens_in)


def _fail(failed: AttemptFailed, more: str = "", *, retry_after: float = 0.0) -> NoReturn:
    """Raise the failure of an attempt that was the last one."""
    seconds = max(failed.retry_after, retry_after)
    raise UpstreamFailed(f"{failed}{more}", seconds, status=failed.status, foreign=failed.foreign) from failed
