"""The log of requests: lines of the calls that the settings choose, and a count in place of lines that repeat."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from prinz_enricher.config import LoggingSettings
from prinz_enricher.telemetry.series import OTHER

ANSWERED: Final = "call answered"
FAILED: Final = "call ended with an error"
SLOW: Final = "slow call"

COUNTED: Final = {FAILED: "calls ended with an error", SLOW: "slow calls"}
"""Events that stand for several such calls."""

LEVELS: Final = {
    ANSWERED: logging.INFO,
    FAILED: logging.INFO,
    SLOW: logging.WARNING,
    COUNTED[FAILED]: logging.INFO,
    COUNTED[SLOW]: logging.WARNING,
}

PERIOD: Final = 10.0
"""Seconds between two counts of the same."""

MAX_SLOW: Final = 100
"""Slow calls of a version in a period that have lines of their own; of errors of one kind it is the first."""

MAX_KINDS: Final = 1_000
"""Kinds that are counted one by one: a caller makes up names of models. Others count as `_OTHER`, by their reasons."""

MAX_WAITING: Final = 10_000
"""Lines that wait to be written."""

_CLOSE_SECONDS = 5.0
_OF_LAST = ("code", "reason", "request_id", "correlation_id", "trace_id")

Line = dict[str, object]

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Kind:
    """Calls of a period with the same event, model, version and reason; `last` is the line of the last omitted one."""

    model: object
    version: object
    lines: int = 0
    calls: int = 0
    omitted: int = 0
    last: Line = field(default_factory=dict)


class Repeats:
    """Decides which lines are written, and counts the others. `clock` gives seconds.

    Of errors the first has a line, and further ones are counted until a period has none; slow calls are different each
    time, so that each period begins anew.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[tuple[object, ...], _Kind] = {}
        self._due = 0.0

    def admit(self, event: str, line: Line, calls: int = 1) -> bool:
        """Return whether a line is written, which stands for the first of some calls; the other calls are counted."""
        model, version, reason = line["model"], line["version"], line["reason"] or line["code"]
        if not self._kinds:
            self._due = self._clock() + PERIOD
        kind = self._kinds.get((event, model, version, reason))
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                model, version = OTHER, ""
            kind = self._kinds.setdefault((event, model, version, reason), _Kind(model, version))
        written = kind.lines < (MAX_SLOW if event == SLOW else 1)
        kind.lines += written
        kind.calls += calls
        if calls > written:
            kind.omitted += calls - written
            kind.last = line
        return written

    def pause(self) -> float | None:
        """Return the seconds until something is due; None where nothing is."""
        return max(0.0, self._due - self._clock()) if self._kinds else None

    def due(self, *, now: bool = False) -> list[tuple[str, Line]]:
        """Return the counts that are to be written, once a period is over, or `now`."""
        if not now and self._clock() < self._due:
            return []
        found: list[tuple[str, Line]] = []
        kept: dict[tuple[object, ...], _Kind] = {}
        for (event, *key), kind in self._kinds.items():
            if kind.omitted:
                count: Line = {"model": kind.model, "version": kind.version, "calls": kind.omitted}
                found.append((COUNTED[str(event)], count | {name: kind.last[name] for name in _OF_LAST}))
            if event == FAILED and kind.calls:
                kept[event, *key] = _Kind(kind.model, kind.version, lines=1)
        self._kinds, self._due = kept, self._clock() + PERIOD
        return found


class RequestLog:
    """Writes lines about calls by a thread of its own, so that no call waits for the log to be read. From any thread.

    Errors of models and of the service are logged even where the log of requests is off.
    """

    def __init__(self, settings: LoggingSettings) -> None:
        self._lock = threading.Lock()
        self._repeats = Repeats()
        self._lines: deque[tuple[str, Line]] = deque()
        self._lost = 0
        self._closing = False
        self._came = threading.Event()
        self.configure(settings)
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def configure(self, settings: LoggingSettings) -> None:
        """Choose by these settings from now on."""
        words: dict[str, float | None] = {"off": None, "errors": 0.0, "all": 1.0}
        wanted = settings.requests
        self._share = words[wanted] if wanted in words else float(wanted)
        self._slow = math.inf if settings.slow_call_seconds is None else settings.slow_call_seconds

    @property
    def enabled(self) -> bool:
        """Whether calls must be noted for this log."""
        return self._share is not None or self._slow < math.inf

    def choose(self, *, failed: bool, seconds: float) -> str:
        """Return the event that a call is logged as, which took some seconds; empty for none."""
        share = self._share
        if failed and share is not None:
            return FAILED
        if seconds >= self._slow:
            return SLOW
        if not failed and share is not None and random.random() < share:  # noqa: S311 - not for secrets
            return ANSWERED
        return ""

    def add(self, event: str, line: Line, calls: int = 1) -> None:
        """Write a line soon, or count it; it stands for some calls that ended alike."""
        with self._lock:
            if event == ANSWERED or self._repeats.admit(event, line, calls):
                if len(self._lines) < MAX_WAITING:
                    self._lines.append((event, line))
                else:
                    self._lost += 1
        if not self._came.is_set():
            self._came.set()

    def score_failed(self, line: Line, calls: int) -> None:
        """Log an error of a model, or of the service, that some calls get, unless their records bring it anyway."""
        if self._share is None:
            self.add(FAILED, line, calls)

    def close(self) -> None:
        """Write what waits, if that is possible within five seconds, and end."""
        self._closing = True
        self._came.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        closing = False
        while not closing:
            self._came.wait(self._repeats.pause())
            self._came.clear()
            closing = self._closing
            with self._lock:
                lines, self._lines = self._lines, deque()
                lines += self._repeats.due(now=closing)
                lost, self._lost = self._lost, 0
            for event, line in lines:
                log.log(LEVELS[event], event, **{key: value for key, value in line.items() if value not in ("", None)})
            if lost:
                log.warning("lines of calls are lost", lines=lost)
