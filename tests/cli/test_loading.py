"""Calls of the command line to a model that is being loaded."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable

import click
import grpc
import pytest
from click.testing import CliRunner
from rich.console import Console

from prinz_enricher.cli import group, service_connection
from prinz_enricher.cli.service_connection import FIRST_TRY, call_when_loaded, waiting_display
from prinz_enricher.client import ServiceError
from tests.support.deadline import wait_until


def loading(**metadata: str) -> ServiceError:
    """Make the answer to a call whose model is being loaded."""
    known = {"model": "wine", "version": "3", **metadata}
    return ServiceError(grpc.StatusCode.UNAVAILABLE, "", reason="MODEL_LOADING", metadata=known, retry_after=0.01)


LATE = ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, "there was no answer")
FAILED = ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "its weights are gone", reason="MODEL_LOAD_FAILED")
GONE = ServiceError(grpc.StatusCode.UNAVAILABLE, "nobody listens")


def answering(*answers: ServiceError | str) -> tuple[Callable[[float | None], str], list[float | None]]:
    """Return a call that has these answers, one after the other, and the timeouts that it was given."""
    given: list[float | None] = []

    def ask(timeout: float | None) -> str:
        given.append(timeout)
        answer = answers[len(given) - 1]
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    return ask, given


@pytest.mark.parametrize(
    ("answers", "timeouts"),
    [
        (["scores"], [FIRST_TRY]),
        ([LATE, "scores"], [FIRST_TRY, None]),
        ([loading(), LATE, "scores"], [FIRST_TRY, FIRST_TRY, None]),
        ([loading(), LATE, LATE, loading(), "scores"], [FIRST_TRY, FIRST_TRY, None, None, FIRST_TRY]),
        ([GONE, GONE, GONE, "scores"], [FIRST_TRY] * 4),
    ],
)
def test_a_model_that_is_loaded_has_all_the_time_of_a_call(
    answers: list[ServiceError | str], timeouts: list[float | None]
) -> None:
    """A short call asks whether it is loaded; one that is slow gets the whole timeout, and is not scored in vain."""
    ask, given = answering(*answers)
    assert call_when_loaded(ask, 10.0, print, FIRST_TRY) == "scores"
    assert given == timeouts


def test_each_step_is_told_once() -> None:
    """What the service says is done, or why it is not, is a line where it changes, without control characters."""
    ask, _ = answering(
        loading(step="downloading the model"),
        loading(step="downloading the model"),
        loading(why="a worker\x1b died"),
        loading(),
        "scores",
    )
    lines: list[str] = []
    call_when_loaded(ask, 10.0, lines.append)
    assert lines == [
        "wine/3: downloading the model",
        "wine/3: a worker\ufffd died",
        "wine/3: waiting until it is loaded",
    ]


def test_the_waiting_ends_whatever_the_state_of_the_version() -> None:
    """`--wait` is the end where the service says MODEL_LOADING forever."""
    ask, given = answering(*[loading(step="loading the model")] * 1000)
    with pytest.raises(click.ClickException, match=r"wine/3: loading the model\. It was not loaded in time; --wait"):
        call_when_loaded(ask, 0.1, print)
    assert 1 < len(given) <= 10


@pytest.mark.parametrize(
    ("answers", "raised"),
    [([FAILED], FAILED), ([loading(), FAILED], FAILED), ([LATE, LATE], LATE), ([GONE] * 4, GONE)],
)
def test_other_errors_are_raised(answers: list[ServiceError | str], raised: ServiceError) -> None:
    """At once, or after the retries of a service that is not there."""
    ask, given = answering(*answers)
    with pytest.raises(ServiceError) as caught:
        call_when_loaded(ask, 10.0, print, FIRST_TRY)
    assert caught.value is raised
    assert len(given) == len(answers)


def test_a_terminal_has_one_line_of_the_waiting_display() -> None:
    """It changes in place, with the seconds since the waiting began, and nothing is left of it; names are no markup."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=60, _environ={"TERM": "xterm"})
    with waiting_display(console) as tell:
        assert shown.getvalue() == ""
        tell("[b]wine/3: downloading the model")
        wait_until(lambda: "[b]wine/3: downloading the model (1 s)" in shown.getvalue())
        tell("[b]wine/3: loading the model")
        wait_until(lambda: "[b]wine/3: loading the model (" in shown.getvalue())
        tell(f"wine/3: {'x' * 200}")
        wait_until(lambda: "x…\r" in shown.getvalue())
    # Each of them is written over, and the cursor is shown again.
    assert shown.getvalue().count("\x1b[2K") > 2
    assert shown.getvalue().rindex("\x1b[?25h") > shown.getvalue().rindex("\x1b[?25l")
    assert shown.getvalue().endswith("\x1b[2K")


def test_without_a_terminal_each_step_is_a_plain_line() -> None:
    """For a file or a program that takes them, however long they are."""
    shown = io.StringIO()
    lines = ["wine/3: downloading the model", f"wine/3: {'x' * 200}"]
    with waiting_display(Console(file=shown, width=40)) as tell:
        for line in lines:
            tell(line)
    assert shown.getvalue().splitlines() == lines


def test_an_address_that_takes_no_connection_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after all the time that a call may take."""
    monkeypatch.setattr(service_connection, "_CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = CliRunner().invoke(group, ["signature", "wine", "--address", address])
    assert result.exit_code == 1
    assert f"{address} accepted no connection within 0.2 s" in result.output
    assert f"Is the service running at {address}?" in result.output
