"""What a process of the generator is told, as bytes: a line of JSON, and the calls of the pool behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from prinz_enricher.loadtest.ladder import Closed, Open, Step
from prinz_enricher.loadtest.prepared import Mode, Prepared
from prinz_enricher.loadtest.target import Target

STOP: Final = b'{"stop": true}\n'
"""Ends the step that runs."""


@dataclass(frozen=True, slots=True)
class Job:
    """What stays the same for all steps.

    Attributes:
        target: The server.
        mode: How rows travel.
        model: `NAME/version`.
        pool: The calls.
        scores: Whether scores are compared, not the number of rows alone.
        most: Calls that an open loop of this process has on their way at most.
    """

    target: Target
    mode: Mode
    model: str
    pool: Sequence[Prepared]
    scores: bool
    most: int

    def parts(self) -> list[bytes]:
        """Write it; `read_job` reads it."""
        header = {
            "target": self.target.to_json(),
            "mode": self.mode.value,
            "model": self.model,
            "scores": self.scores,
            "most": self.most,
            "sizes": [[len(prepared.request), len(prepared.expected)] for prepared in self.pool],
        }
        contents = [content for prepared in self.pool for content in (prepared.request, prepared.expected)]
        return [json.dumps(header).encode() + b"\n", *contents]


async def read_job(reader: asyncio.StreamReader) -> Job:
    """Read what `Job.parts` wrote."""
    header = json.loads(await reader.readline())
    pool = [
        Prepared(await reader.readexactly(request), await reader.readexactly(expected))
        for request, expected in header["sizes"]
    ]
    return Job(
        Target.from_json(header["target"]),
        Mode(header["mode"]),
        header["model"],
        pool,
        header["scores"],
        header["most"],
    )


@dataclass(frozen=True, slots=True)
class Order:
    """A step that a process is to run.

    Attributes:
        step: Its share of it.
        seconds: The measured time.
        warm_up: Seconds of the same load before it.
        seed: Of the planned times of an open loop.
    """

    step: Step
    seconds: float
    warm_up: float
    seed: int

    def line(self) -> bytes:
        """Write it as a line of JSON; `read_order` reads it."""
        load: dict[str, Any] = (
            {"concurrency": self.step.concurrency} if isinstance(self.step, Closed) else {"rate": self.step.rate}
        )
        return (
            json.dumps({**load, "seconds": self.seconds, "warm_up": self.warm_up, "seed": self.seed}).encode() + b"\n"
        )


def read_order(line: bytes) -> Order | None:
    """Read what `Order.line` wrote; None for `STOP`."""
    told = json.loads(line)
    if "stop" in told:
        return None
    step: Step = Closed(told["concurrency"]) if "concurrency" in told else Open(told["rate"])
    return Order(step, told["seconds"], told["warm_up"], told["seed"])
