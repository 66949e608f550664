"""The log of requests: which calls it has, what is counted instead, and that it holds up nobody."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from prinz_enricher.config import ConfigError, Settings
from prinz_enricher.config.sections import LoggingSettings
from prinz_enricher.telemetry import request_log
from prinz_enricher.telemetry.request_log import (
    ANSWERED,
    COUNTED,
    FAILED,
    MAX_KINDS,
    MAX_SLOW,
    MAX_WAITING,
    PERIOD,
    SLOW,
    Line,
    Repeats,
    RequestLog,
)


def line(model: str = "wine", reason: str = "MODEL_ERROR", **more: object) -> Line:
    """Return the line of a call."""
    ids = {"request_id": "", "correlation_id": "", "trace_id": ""}
    return {"model": model, "version": "1", "code": "INTERNAL", "reason": reason} | ids | more


class Clock:
    """A clock that a test sets."""

    now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_an_error_is_logged_once_and_then_counted() -> None:
    """The first has a line, the others are one count every ten seconds, with the ids of the last one."""
    clock = Clock()
    repeats = Repeats(clock)
    assert repeats.pause() is None
    assert [repeats.admit(FAILED, line(request_id=str(number))) for number in range(500)] == [True] + [False] * 499
    assert repeats.admit(FAILED, line(reason="DEADLINE_EXCEEDED"))
    assert repeats.admit(FAILED, line("beer"))
    clock.now += PERIOD - 0.1
    assert repeats.due() == []
    assert repeats.pause() == pytest.approx(0.1)
    clock.now += 0.1
    assert repeats.due() == [(COUNTED[FAILED], line(calls=499, request_id="499"))]
    # Several that one job had, and that go on.
    assert not repeats.admit(FAILED, line(), calls=30)
    clock.now += PERIOD
    assert [count["calls"] for _, count in repeats.due()] == [30]
    clock.now += PERIOD
    assert repeats.due() == []
    assert repeats.pause() is None
    assert repeats.admit(FAILED, line())


@given(
    st.lists(
        st.tuples(
            st.sampled_from([FAILED, SLOW]),
            st.sampled_from(["a", "b"]),
            st.sampled_from([0.0, 0.1, 3.0, 11.0, 25.0]),
            st.sampled_from([1, 1, 2, 250]),
        ),
        max_size=60,
    )
)
def test_no_call_is_left_out(steps: list[tuple[str, str, float, int]]) -> None:
    """Lines and counts are as many as the calls; errors have no second line while they go on."""
    clock = Clock()
    repeats = Repeats(clock)
    calls: Counter[tuple[str, object]] = Counter()
    told: Counter[tuple[str, object]] = Counter()
    latest: dict[str, float] = {}

    def count(*, now: bool = False) -> None:
        for event, found in repeats.due(now=now):
            told[event, found["model"]] += int(str(found["calls"]))

    for event, model, pause, times in steps:
        clock.now += pause
        count()
        written = repeats.admit(event, line(model), times)
        calls[COUNTED[event], model] += times
        told[COUNTED[event], model] += written
        if event == FAILED:
            assert not written or clock.now - latest.get(model, 0.0) >= PERIOD
            latest[model] = clock.now
        left = repeats.pause()
        assert left is not None
        assert left <= PERIOD + 1e-9 * clock.now
    count(now=True)
    assert told == calls


def test_slow_calls_have_lines_up_to_a_number() -> None:
    """Each period has so many anew, of each version."""
    clock = Clock()
    repeats = Repeats(clock)
    for _ in range(3):
        assert sum(repeats.admit(SLOW, line(reason="")) for _ in range(2 * MAX_SLOW)) == MAX_SLOW
        assert repeats.admit(SLOW, line(reason="", model=f"another at {clock.now}"))
        clock.now += PERIOD
        assert [(event, count["calls"]) for event, count in repeats.due()] == [(COUNTED[SLOW], MAX_SLOW)]


def test_names_that_callers_make_up() -> None:
    """Over a number of kinds no more are told apart, so that they take no memory."""
    repeats = Repeats(Clock())
    written = sum(repeats.admit(FAILED, line(f"made up {number}")) for number in range(10 * MAX_KINDS))
    assert written == MAX_KINDS + 1
    assert repeats.due(now=True) == [(COUNTED[FAILED], line("_OTHER", version="", calls=9 * MAX_KINDS - 1))]


@pytest.mark.parametrize(
    ("requests", "slow", "events"),
    [
        ("off", None, {"error": "", "answer": "", "slow": "", "slow error": ""}),
        ("off", 2.0, {"error": "", "answer": "", "slow": SLOW, "slow error": SLOW}),
        ("errors", 2.0, {"error": FAILED, "answer": "", "slow": SLOW, "slow error": FAILED}),
        ("0", None, {"error": FAILED, "answer": "", "slow": "", "slow error": FAILED}),
        ("all", 2.0, {"error": FAILED, "answer": ANSWERED, "slow": SLOW, "slow error": FAILED}),
        ("1.0", None, {"error": FAILED, "answer": ANSWERED, "slow": ANSWERED, "slow error": FAILED}),
    ],
)
def test_which_calls_are_logged(requests: str, slow: float | None, events: dict[str, str]) -> None:
    """By the settings, which can be changed, and each call as one event."""
    log = RequestLog(LoggingSettings())
    assert not log.enabled
    log.configure(LoggingSettings(requests=requests, slow_call_seconds=slow))
    assert log.enabled == (requests != "off" or slow is not None)
    found = {what: log.choose(failed="error" in what, seconds=2.0 if "slow" in what else 1.9) for what in events}
    log.close()
    assert found == events


def test_a_share_of_the_answers() -> None:
    """About so many answers are logged, and all errors."""
    log = RequestLog(LoggingSettings(requests="0.25"))
    answers = Counter(log.choose(failed=False, seconds=0.1) for _ in range(20_000))
    assert 4_500 < answers[ANSWERED] < 5_500
    assert {log.choose(failed=True, seconds=0.1) for _ in range(100)} == {FAILED}
    log.close()


def test_errors_of_models_are_always_logged() -> None:
    """What an operator should see is in the log though no requests are; else the calls' own lines have it."""
    with capture_logs() as logs:
        log = RequestLog(LoggingSettings())
        log.score_failed(line(), 5)
        log.close()
        log = RequestLog(LoggingSettings(requests="errors"))
        log.score_failed(line(), 5)
        log.close()
    assert [(found["event"], found.get("calls")) for found in logs] == [(FAILED, None), (COUNTED[FAILED], 4)]


def test_a_log_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines wait up to a number, and then are lost and counted, while nobody who adds one waits."""
    read, begun = threading.Event(), threading.Event()
    written: list[dict[str, Any]] = []

    class Blocked:
        def log(self, _: int, event: str, **known: object) -> None:
            begun.set()
            assert read.wait(20)
            written.append({"event": event, **known})

        def warning(self, event: str, **known: object) -> None:
            written.append({"event": event, **known})

    monkeypatch.setattr(request_log, "log", Blocked())
    log = RequestLog(LoggingSettings(requests="all"))
    log.add(ANSWERED, line())
    assert begun.wait(20)
    for _ in range(MAX_WAITING + 7):
        log.add(ANSWERED, line())
    read.set()
    log.close()
    assert Counter(str(one["event"]) for one in written) == {ANSWERED: MAX_WAITING + 1, "lines of calls are lost": 1}
    assert written[-1]["lines"] == 7


def test_the_setting(tmp_path: Any) -> None:
    """It is a word or a share, as a number or a text; anything else is refused, with what is expected."""
    file = tmp_path / "prinz.toml"
    file.write_text("[logging]\nrequests = 0.01\nslow_call_seconds = 0.5\n")
    assert Settings.load(file=file, environment={}).logging.requests == "0.01"
    assert Settings.load(environment={"PRINZ_LOGGING__REQUESTS": "errors"}).logging.requests == "errors"
    for wrong in ("some", "1.1", "-1", "nan", True):
        with pytest.raises(ConfigError, match=r'logging.requests.*"off", "errors", "all", or a share from 0 to 1'):
            Settings.load({"logging": {"requests": wrong}}, environment={})
