"""A short campaign; `make fuzz` runs a long one."""

from __future__ import annotations

import random
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.answers import check
from tests.fuzz.campaign import TIMEOUT, scores, variants
from tests.fuzz.questions import Question, questions
from tests.fuzz.server_process import ServerProcess
from tests.support.front_core import KINDS


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server with each front, for all of these tests."""
    with ServerProcess(request.param) as server:
        yield server


def _ask(server: ServerProcess, question: Question) -> None:
    try:
        answer = server.method(question.method)(question.data, timeout=TIMEOUT)
    except grpc.RpcError as error:
        answer = error
    check(question, answer)


@seed(3)
@settings(
    max_examples=200,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(questions, st.integers(0, 2**32))
def test_every_answer_is_one_of_the_contract(server: ServerProcess, question: Question, place: int) -> None:
    """Whatever bytes a call holds, its answer is a response or a well-formed error without the caller's data."""
    _ask(server, question)
    for variant in variants(question, random.Random(place), 4):  # noqa: S311 - no secret
        _ask(server, variant)


def test_the_server_still_scores(server: ServerProcess) -> None:
    """After all that, the same process scores a good request."""
    assert server.alive, server.log()
    assert scores(server)


def test_a_reply_that_is_wrong_is_seen(server: ServerProcess) -> None:
    """The check itself refuses a status that gRPC made up: one without details."""
    with pytest.raises(grpc.RpcError) as raised:
        server.method("NoSuchMethod")(b"", timeout=TIMEOUT)
    with pytest.raises(AssertionError, match="without details"):
        check(Question("Score", b""), raised.value)
