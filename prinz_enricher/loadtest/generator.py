"""A process that makes load: it reads a job and orders from standard input, and tells what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import selectors
import sys
from functools import partial
from typing import Any, Final

from prinz_enricher.loadtest.callers import Caller, StreamCaller, UnaryCaller
from prinz_enricher.loadtest.job import Job, Order, read_job, read_order
from prinz_enricher.loadtest.prepared import Mode
from prinz_enricher.loadtest.reasons import CallFailedError
from prinz_enricher.loadtest.step_run import StepRun

_LINE_BYTES: Final = 1 << 26
"""How long a line of standard input may be: one tells the sizes of a whole pool."""

_PROGRESS_SECONDS: Final = 0.25


def main() -> None:
    """Run until standard input ends, which it also does where the one who started this process is gone."""

    # `select` wakes to the microsecond where epoll, as Python has it, waits for whole milliseconds: too coarse for
    # calls that are to begin at planned times.
    def new_loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve())


async def _serve() -> None:
    reader = asyncio.StreamReader(_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    job = await read_job(reader)
    caller = new_caller(job)
    try:
        await caller.send(0)
    except CallFailedError as failure:
        _tell({"kind": "failed", "reason": failure.reason, "message": failure.message})
    else:
        _tell({"kind": "ready"})
        await _follow(reader, job, caller)
    finally:
        await caller.close()


def new_caller(job: Job) -> Caller:
    """Make the one who calls in the way of a job's mode."""
    match job.mode:
        case Mode.UNARY | Mode.ARROW:
            return UnaryCaller(job.target, job.pool, scores=job.scores)
        case Mode.STREAM:
            return StreamCaller(job.target, job.pool, scores=job.scores)
        case Mode.COALESCED:
            from prinz_enricher.loadtest.coalesced import CoalescedCaller

            return CoalescedCaller(job.target, job.model, job.pool, scores=job.scores)


async def _follow(reader: asyncio.StreamReader, job: Job, caller: Caller) -> None:
    """Run each step that is ordered."""
    line = await reader.readline()
    while line:
        order = read_order(line)
        # What comes while a step runs is to end it.
        following = asyncio.create_task(reader.readline())
        if order is None:
            line = await following
            continue
        run = _new_run(order, job, caller)
        following.add_done_callback(partial(_stop, run))
        tally = await _report_on(run)
        _tell({"kind": "result", "tally": tally})
        line = await following


def _stop(run: StepRun, _: object) -> None:
    run.stop()


def _new_run(order: Order, job: Job, caller: Caller) -> StepRun:
    return StepRun(
        caller,
        order.step,
        seconds=order.seconds,
        warm_up=order.warm_up,
        seed=order.seed,
        most=job.most,
        # A call ends by its own deadline; what does not is given up soon after.
        patience=job.target.timeout + 1.0,
    )


async def _report_on(run: StepRun) -> dict[str, Any]:
    """Run a step, and tell now and then how far it is."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            _tell({"kind": "progress", **run.progress()})

    telling = asyncio.create_task(tell())
    try:
        return (await run.run()).to_json()
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
