"""What checks find, and how they run: side by side, in a bounded time, reported in their own order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Literal, NamedTuple

import structlog

from prinz_enricher.application import START_ERRORS
from prinz_enricher.errors import EnricherError
from prinz_enricher.registry import RegistryError
from prinz_enricher.scoring.ports import LoadFailed
from prinz_enricher.scoring.remote.upstream import UpstreamError

_EXPECTED = (*START_ERRORS, EnricherError, LoadFailed, RegistryError, UpstreamError)
"""Errors whose text is one sentence without a secret."""

log = structlog.stdlib.get_logger(__name__)


Level = Literal["ok", "warn", "FAIL"]
"""Whether something is as it should be, worth a look, or so that calls will fail."""


class Finding(NamedTuple):
    """One line: how something is, what and where it is, and in one sentence what was seen or is to be done."""

    level: Level
    what: str
    where: str
    message: str


def counted(number: int, noun: str) -> str:
    """Return a number of things."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


Outcomes = Iterable[tuple[Level, str]]


class Check(NamedTuple):
    """Looks at one thing: returns levels and sentences, or raises an error, which is the sentence of a FAIL."""

    what: str
    where: str
    run: Callable[[], Outcomes]


def run_checks(checks: Sequence[Check], deadline: float, at_once: int = 16) -> Iterator[Finding]:
    """Run checks, some `at_once`; yield their findings in the order of the checks.

    What has not ended by the deadline, by `time.monotonic()`, is a FAIL, and is not waited for.
    """
    answers: list[SimpleQueue[list[Finding]]] = [SimpleQueue() for _ in checks]
    left = iter(list(zip(checks, answers, strict=True)))

    def work() -> None:
        for check, answer in left:
            answer.put([] if time.monotonic() >= deadline else _findings(check))

    for _ in range(min(at_once, len(checks))):
        threading.Thread(target=work, name="check", daemon=True).start()
    for check, answer in zip(checks, answers, strict=True):
        try:
            yield from answer.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            yield Finding("FAIL", check.what, check.where, "not done in time; --timeout gives it more")


def _findings(check: Check) -> list[Finding]:
    try:
        return [Finding(level, check.what, check.where, message) for level, message in check.run()]
    except _EXPECTED as error:
        message = str(error)
    except Exception as error:
        log.exception("check failed", what=check.what, where=check.where)
        message = f"the check itself failed ({type(error).__name__}); please report it with the log"
    return [Finding("FAIL", check.what, check.where, message)]
