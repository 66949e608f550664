"""What callers heard of a service: counted, and judged."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from tests.soak import models

KEPT_SECONDS: Final = 180.0
"""How long it is known what an alias meant: longer than any call takes."""

MAX_FAULTS: Final = 20
LATE: Final = frozenset({"DEADLINE_EXCEEDED", "OVERLOADED"})
"""What a hurried caller may hear at any time. OVERLOADED: it would wait longer than it has."""


@dataclass(frozen=True)
class Question:
    """A call, and what may come of it.

    Attributes:
        how: The way it is called, such as `stream`.
        model: The model's name.
        rows: What is scored.
        alias: By which its version is named.
        reason: With which it must be refused; empty where it must be answered, if the model does not raise.
        hurried: Whether it has so little time that it may be late, or refused since it would be.
        counted: Whether the service counts it as one call, too.
        request_id: The caller's, for the service's log.
    """

    how: str
    model: str
    rows: pa.RecordBatch
    alias: str = ""
    reason: str = ""
    hurried: bool = False
    counted: bool = True
    request_id: str = ""


@dataclass(frozen=True)
class Answered:
    """Scores, and the version that made them."""

    version: str
    output: pa.Array


@dataclass(frozen=True)
class Failed:
    """An error.

    Attributes:
        reason: The service's; the code where it sent none.
        text: All that it says.
        by_service: Whether the service sent it; else gRPC made it up, or the caller left.
    """

    reason: str
    text: str
    by_service: bool = True


@dataclass
class _Window:
    """A time in which some reasons are allowed for some models, and some more for hurried callers."""

    what: str
    reasons: frozenset[str]
    late: frozenset[str]
    models: frozenset[str]
    began: float
    ended: float = float("inf")


class Targets:
    """The versions that an alias may mean, over time. From any thread."""

    def __init__(self, *versions: str) -> None:
        self._lock = threading.Lock()
        self._history: deque[tuple[float, frozenset[str]]] = deque([(0.0, frozenset(versions))])

    def may_be(self, *versions: str) -> None:
        """Say what it may mean from now on."""
        with self._lock:
            self._history.append((time.monotonic(), frozenset(versions)))
            while self._history[1][0] < time.monotonic() - KEPT_SECONDS:
                self._history.popleft()

    def between(self, began: float, ended: float) -> frozenset[str]:
        """Return what it may have meant at any moment between two times."""
        with self._lock:
            known = list(self._history)
        ends = [since for since, _ in known[1:]] + [float("inf")]
        met = [versions for (since, versions), end in zip(known, ends, strict=True) if since <= ended and end >= began]
        return frozenset().union(*met)


@dataclass
class Ledger:
    """Judges answers, and counts them. From any thread.

    Attributes:
        service: Whose answers they are.
        kinds: By the way of calling and the outcome.
        heard: Of calls that the service counts as one too: by model and outcome.
        doubtful: By model, how many calls more the service may have counted: their callers left.
        rows: Answered, by model.
        doubtful_rows: By model, how many rows more the service may have answered.
        excused: How often a reason was allowed by a window.
        faults: What must not be, with all that is known of it.
        fault_count: How many there were; only the first have their text.
    """

    service: str
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    heard: Counter[tuple[str, str]] = field(default_factory=Counter)
    doubtful: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    doubtful_rows: Counter[str] = field(default_factory=Counter)
    excused: Counter[tuple[str, str]] = field(default_factory=Counter)
    disturbances: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    wrong: int = 0
    unexpected: int = 0
    targets: Targets = field(default_factory=lambda: Targets("1"))
    slowest: tuple[float, str] = (0.0, "")
    _windows: deque[_Window] = field(default_factory=lambda: deque(maxlen=200))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def disturbed(
        self,
        what: str,
        reasons: Sequence[str] = (),
        names: Sequence[str] = models.NAMES,
        *,
        late: Sequence[str] = (),
        slack: float = 5.0,
    ) -> Iterator[None]:
        """Allow some reasons for some models, until `slack` seconds after the end; `late` for hurried callers alone."""
        window = _Window(what, frozenset(reasons), frozenset(late), frozenset(names), time.monotonic())
        with self._lock:
            self._windows.append(window)
            self.disturbances[what.split(" ", maxsplit=1)[0]] += 1
        try:
            yield
        finally:
            window.ended = time.monotonic() + slack

    def judge(self, question: Question, began: float, outcome: Answered | Failed) -> None:
        """Take the outcome of a call that began at a time, by `time.monotonic()`."""
        ended = time.monotonic()
        fault, excuse = self._fault(question, began, ended, outcome)
        said = "ok" if isinstance(outcome, Answered) else outcome.reason
        with self._lock:
            self.kinds[question.how, said] += 1
            if ended - began > self.slowest[0]:
                self.slowest = (ended - began, f"{question.how} of {question.model}: {said}")
            if isinstance(outcome, Failed) and not outcome.by_service:
                self.doubtful[question.model] += 1
                self.doubtful_rows[question.model] += question.rows.num_rows
            elif question.counted:
                self.heard[question.model, said] += 1
            if isinstance(outcome, Answered):
                self.rows[question.model] += len(outcome.output)
            if excuse:
                self.excused[excuse, said] += 1
        if fault:
            self.fail(f"{fault}\n{self._about(question, began, ended)}", wrong=isinstance(outcome, Answered))

    def left(self, question: Question) -> None:
        """Take note of a call whose caller left before it was answered."""
        with self._lock:
            self.kinds[question.how, "left"] += 1
            self.doubtful[question.model] += 1
            self.doubtful_rows[question.model] += question.rows.num_rows

    def fail(self, text: str, *, wrong: bool = False) -> None:
        """Note a fault."""
        with self._lock:
            self.wrong += wrong
            self.unexpected += not wrong
            if len(self.faults) < MAX_FAULTS:
                self.faults.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {self.service}: {text}")

    @property
    def fault_count(self) -> int:
        """How many faults there were."""
        return self.wrong + self.unexpected

    def _fault(self, question: Question, began: float, ended: float, outcome: Answered | Failed) -> tuple[str, str]:
        """Return what is wrong, if anything, and the window that allowed an error, if one did."""
        if isinstance(outcome, Failed):
            reason = question.reason or self._expected_reason(question)
            if outcome.reason == reason or (question.hurried and outcome.reason in LATE):
                return "", ""
            for window in list(self._windows):
                reasons = window.reasons | (window.late if question.hurried else frozenset())
                allowed = outcome.reason in reasons and question.model in window.models
                if allowed and window.began <= ended and began <= window.ended:
                    return "", window.what.split(" ")[0]
            return f"expected {reason or 'an answer'}, got {outcome.reason}: {outcome.text}", ""
        legal = self.targets.between(began, ended) if question.alias else {outcome.version}
        if outcome.version not in legal:
            return f"version {outcome.version} answered, while the alias meant {sorted(legal)}", ""
        if question.reason:
            return f"expected {question.reason}, got an answer of version {outcome.version}", ""
        expected = models.answer(question.model, outcome.version, question.rows)
        if expected is None:
            return f"version {outcome.version} answered where it raises, or is none", ""
        if not outcome.output.equals(expected):
            return f"version {outcome.version} answered {_first_difference(outcome.output, expected)}", ""
        return "", ""

    def _expected_reason(self, question: Question) -> str:
        if question.model not in {models.TEXTS, models.SHARED}:
            return ""
        return "MODEL_ERROR" if models.answer(question.model, "1", question.rows) is None else ""

    def _about(self, question: Question, began: float, ended: float) -> str:
        now = [window for window in list(self._windows) if window.began <= ended and began <= window.ended]
        windows = ", ".join(f"{one.what} (for {ended - one.began:.1f} s)" for one in now) or "nothing"
        return (
            f"  {question.how} of {question.model}{'@' * bool(question.alias)}{question.alias}, "
            f"{question.rows.num_rows} rows, request id {question.request_id!r}, after {ended - began:.3f} s; "
            f"meanwhile: {windows}\n  rows: {str(question.rows.slice(0, 3).to_pylist())[:600]}"
        )


def _first_difference(found: pa.Array, expected: pa.Array) -> str:
    if found.type != expected.type or len(found) != len(expected):
        return f"{len(found)} values of {found.type}, not {len(expected)} of {expected.type}"
    pairs = enumerate(zip(found.to_pylist(), expected.to_pylist(), strict=True))
    return next((f"{one!r}, not {two!r}, for row {place}" for place, (one, two) in pairs if one != two), "another NaN")
