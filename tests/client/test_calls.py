"""Calls of many threads that share messages: each gets its own answer, error and deadline."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from prinz_enricher.client import Client, Scores, ServiceError
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import EnricherError, InvalidInput, ModelError, Overloaded
from prinz_enricher.signature import Field, Signature
from tests.client.conftest import NUMBER, SIGNATURE, StandIn
from tests.support.deadline import wait_until

CALLERS = 20


class Callers:
    """Threads that score with one client, which knows the signature already."""

    def __init__(self, client: Client, threads: ThreadPoolExecutor) -> None:
        self.client = client
        self.threads = threads
        client.signature("twice")

    def ask(self, x: float, **more: Any) -> Future[Scores]:
        """Score a whole row in a thread of its own."""
        return self.threads.submit(self.client.score, "twice", {"x": float(x), "note": ""}, **more)

    def ask_in_turn(self, numbers: Sequence[float], **more: Any) -> list[Future[Scores]]:
        """Score rows, each in a thread of its own that comes when the one before it waits already."""
        asked = []
        for x in numbers:
            before = self.known()
            asked.append(self.ask(x, **more))
            wait_until(lambda before=before: self.known() > before)  # type: ignore[misc]
        return asked

    def known(self) -> int:
        """Return how many callers wait or are on their way together."""
        lanes = self.client._coalescer
        assert lanes is not None
        with lanes._lock:
            return sum(len(list(lane.calls())) for lane in lanes._lanes.values())


@pytest.fixture
def callers(stand_in: StandIn) -> Iterator[Callers]:
    """Threads before the service, which holds its answers back."""
    stand_in.held = True
    with ThreadPoolExecutor(64) as threads, Client(stand_in.address, timeout=60) as client:
        yield Callers(client, threads)
        stand_in.go(1000)


def ys(asked: Sequence[Future[Scores]]) -> list[float]:
    """Return the answers."""
    return [one.result(60).to_rows()[0]["y"] for one in asked]


def refused(asked: Future[Scores]) -> ServiceError:
    """Return the error."""
    error = asked.exception(60)
    assert isinstance(error, ServiceError)
    return error


def thirteen(request: pb.ScoreRequest) -> EnricherError | None:
    """Fail as a model that does not like a row."""
    (xs,) = (column.doubles.values for column in request.columns.columns if column.name == "x")
    return ModelError("twice", "1", "ValueError", "0") if 13 in xs else None


def test_the_first_goes_at_once_and_the_others_together(stand_in: StandIn, callers: Callers) -> None:
    """Those who come while a message is on its way go together in the next one, and each gets his own answer."""
    first = callers.ask_in_turn([0])
    stand_in.wait_for(1)
    others = callers.ask_in_turn(range(1, CALLERS))
    stand_in.go(2)
    assert ys(first + others) == [2.0 * x for x in range(CALLERS)]
    assert stand_in.rows() == [1, CALLERS - 1]
    assert all(request.independent_rows for request in stand_in.requests)
    assert others[3].result().batch.to_pylist() == [{"y": 8.0}]
    assert (others[3].result().name, others[3].result().version) == ("twice", "1")
    assert callers.known() == 0


def test_a_message_has_a_limit(stand_in: StandIn) -> None:
    """Rows beyond the limit go in further messages."""
    stand_in.held = True
    with ThreadPoolExecutor(16) as threads, Client(stand_in.address, max_coalesced_rows=4) as client:
        callers = Callers(client, threads)
        asked = callers.ask_in_turn(range(11))
        stand_in.go(10)
        assert ys(asked) == [2.0 * x for x in range(11)]
        assert stand_in.rows() == [1, 4, 4, 2]


def test_who_is_interrupted_does_not_send_for_others(stand_in: StandIn, callers: Callers) -> None:
    """A waiting thread that an exception of a signal wakes is left out, and the next one sends in its place."""

    def interrupt(*_: object) -> None:
        raise InterruptedError

    away = callers.ask_in_turn([0])
    stand_in.wait_for(1)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(InterruptedError):
            callers.client.score("twice", {"x": 13.0, "note": ""})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    waiting = callers.ask_in_turn([1])
    stand_in.go(2)
    assert ys(away + waiting) == [0.0, 2.0]
    assert callers.known() == 0


def test_a_call_with_a_name_goes_by_itself(stand_in: StandIn, callers: Callers) -> None:
    """A caller's own request id is found in a request of its own, at once."""
    callers.ask_in_turn([1])
    named = callers.ask(2, request_id="mine")
    stand_in.wait_for(2)
    stand_in.go(2)
    assert ys([named]) == [4.0]
    assert sorted(request.request_id for request in stand_in.requests) == ["", "mine"]


def test_what_a_model_can_tell_apart_does_not_share(stand_in: StandIn, callers: Callers) -> None:
    """Rows with a null, without a column, with parameters or for other outputs go at once, each in its own message."""
    score = callers.client.score
    asked = [
        callers.threads.submit(score, "twice", row, params=params, outputs=outputs)
        for row, params, outputs in (
            ({"x": 1.0, "note": "a"}, None, ()),
            ({"x": 2.0, "note": None}, None, ()),
            ({"x": 3.0}, None, ()),
            ({"x": 4.0, "note": "a"}, {"p": 1}, ()),
            ({"x": 5.0, "note": "a"}, {"p": 2}, ()),
            ({"x": 6.0, "note": "a"}, None, ("y",)),
        )
    ]
    stand_in.wait_for(6)
    stand_in.go(6)
    assert ys(asked) == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert stand_in.rows() == [1] * 6


def test_one_bad_row_fails_alone(stand_in: StandIn, callers: Callers) -> None:
    """A message that the model fails on is taken apart: only the guilty caller gets the error."""
    stand_in.refuse = thirteen
    asked = callers.ask_in_turn(range(20))
    stand_in.go(100)
    assert refused(asked.pop(13)).reason == "MODEL_ERROR"
    assert ys(asked) == [2.0 * x for x in range(20) if x != 13]
    assert stand_in.rows() == [1, 19] + [1] * 19


def test_a_row_that_fits_nothing_never_leaves(stand_in: StandIn, callers: Callers) -> None:
    """A fault of a row is found before it joins the others."""
    asked = callers.ask_in_turn([1])
    wrong = callers.threads.submit(callers.client.score, "twice", {"x": "no"})
    assert isinstance(wrong.exception(60), InvalidInput)
    stand_in.go(100)
    assert ys(asked) == [2.0]
    assert stand_in.rows() == [1]


def test_what_is_nobodys_fault_is_told_to_all(stand_in: StandIn, callers: Callers) -> None:
    """An overloaded service is not asked again: each caller gets the error, with when to come back."""
    stand_in.refuse = lambda _: Overloaded("a test", 7.0)
    asked = callers.ask_in_turn(range(5))
    stand_in.go(100)
    errors = [refused(one) for one in asked]
    assert {(error.reason, error.retry_after) for error in errors} == {("OVERLOADED", 7.0)}
    assert len(set(map(id, errors))) == 5
    assert stand_in.rows() == [1, 4]


def test_rows_that_are_too_large_together(stand_in: StandIn, callers: Callers) -> None:
    """Where only the sum of the rows is too large for a message, each goes by itself."""
    row = {"x": 1.0, "note": "n" * 16_000}
    first = callers.ask_in_turn([0])
    asked = [callers.threads.submit(callers.client.score, "twice", row) for _ in range(6)]
    wait_until(lambda: callers.known() == 7)
    stand_in.go(100)
    assert ys(first + asked) == [0.0] + [2.0] * 6
    assert stand_in.rows() == [1] * 7


def test_another_signature(stand_in: StandIn, callers: Callers) -> None:
    """Where the signature is another one by now it is asked for once, and all rows are sent again."""
    asked = callers.ask_in_turn(range(10))
    stand_in.signature = Signature(SIGNATURE.inputs, (*SIGNATURE.outputs, Field("z", NUMBER)))
    asked_before = stand_in.signatures
    stand_in.signature = Signature((SIGNATURE.inputs[0], Field("note", SIGNATURE.inputs[1].type)), SIGNATURE.outputs)
    stand_in.go(100)
    assert ys(asked) == [2.0 * x for x in range(10)]
    assert stand_in.signatures == asked_before + 1


def test_who_waits_has_his_own_deadline(stand_in: StandIn, callers: Callers) -> None:
    """A caller whose time is up while he waits gets DEADLINE_EXCEEDED; his row is not sent."""
    first = callers.ask_in_turn([1])
    late = callers.ask(2, timeout=0.2)
    assert refused(late).code is grpc.StatusCode.DEADLINE_EXCEEDED
    more = callers.ask_in_turn([3])
    stand_in.go(100)
    assert ys(first + more) == [2.0, 6.0]
    assert stand_in.rows() == [1, 1]


@pytest.mark.parametrize("impatient", [0, 1, 2])
def test_who_is_on_the_way_has_his_own_deadline(stand_in: StandIn, callers: Callers, impatient: int) -> None:
    """A caller whose time is up gets DEADLINE_EXCEEDED, also the one who sends; the others get their answers."""
    first = callers.ask_in_turn([0])
    asked = []
    for place in range(3):
        asked += callers.ask_in_turn([1 + place], timeout=1.0 if place == impatient else 60)
    stand_in.go(1)
    assert ys(first) == [0.0]
    stand_in.wait_for(2)
    assert refused(asked.pop(impatient)).code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not any(one.done() for one in asked)
    stand_in.go(1)
    assert ys(asked) == [2.0 * (1 + place) for place in range(3) if place != impatient]
    assert stand_in.rows() == [1, 3]


def test_retries_can_be_turned_off(stand_in: StandIn) -> None:
    """A call is then made once, and says what the service says."""
    with Client(stand_in.address, retry=False) as client:
        stand_in.refuse = lambda _: grpc.StatusCode.UNAVAILABLE
        with pytest.raises(ServiceError) as raised:
            client.score("twice", {"x": 1.0})
    assert raised.value.code is grpc.StatusCode.UNAVAILABLE
    assert len(stand_in.requests) == 1


def test_what_is_unavailable_is_tried_again(stand_in: StandIn) -> None:
    """A call is answered where a later attempt is; the caller sees nothing of the others."""
    stand_in.refuse = lambda _: grpc.StatusCode.UNAVAILABLE if len(stand_in.requests) < 3 else None
    with Client(stand_in.address) as client:
        assert client.score("twice", {"x": 1.0}).to_rows() == [{"y": 2.0}]
    assert [sent.get("grpc-previous-rpc-attempts") for sent in stand_in.metadata] == [None, "1", "2"]


def test_attempts_come_to_an_end(stand_in: StandIn) -> None:
    """After four attempts the error is the caller's; one that is no matter of time is not tried again at all."""
    with Client(stand_in.address) as client:
        stand_in.refuse = lambda _: grpc.StatusCode.UNAVAILABLE
        with pytest.raises(ServiceError) as raised:
            client.score("twice", {"x": 1.0})
        assert raised.value.code is grpc.StatusCode.UNAVAILABLE
        assert len(stand_in.requests) == 4
        stand_in.refuse = lambda _: Overloaded("a test")
        with pytest.raises(ServiceError):
            client.score("twice", [{"x": 1.0}] * 2)
        assert len(stand_in.requests) == 5


def test_a_timeout_holds_for_all_attempts(stand_in: StandIn) -> None:
    """The time of a call is that of all its attempts together."""
    stand_in.held = True
    with Client(stand_in.address, timeout=0.3) as client:
        for rows in ([{"x": 1.0}], [{"x": 1.0}] * 2):
            with pytest.raises(ServiceError) as raised:
                client.score("twice", rows)
            assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_without_coalescing(stand_in: StandIn) -> None:
    """Each row has a message of its own, whoever else is on the way."""
    stand_in.held = True
    with ThreadPoolExecutor(5) as threads, Client(stand_in.address, coalesce=False) as client:
        asked = [threads.submit(client.score, "twice", {"x": float(x)}) for x in range(5)]
        stand_in.wait_for(5)
        stand_in.go(5)
        assert ys(asked) == [2.0 * x for x in range(5)]


def test_the_token_of_each_message(stand_in: StandIn, tmp_path: Path) -> None:
    """Every message has the token that is in the file when it is sent."""
    path = tmp_path / "token"
    path.write_text("one")
    with Client(stand_in.address, token=path) as client:
        client.score("twice", {"x": 1.0})
        path.write_text("second")
        client.score("twice", [{"x": 1.0}] * 2)
    assert [sent["authorization"] for sent in stand_in.metadata] == ["Bearer one", "Bearer second"]


def test_a_client_that_is_closed(stand_in: StandIn, callers: Callers) -> None:
    """Calls under way end with CANCELLED, and so do those that wait, and later ones."""
    asked = callers.ask_in_turn(range(3))
    stand_in.wait_for(1)
    callers.client.close()
    assert {refused(one).code for one in asked} == {grpc.StatusCode.CANCELLED}
    assert refused(callers.ask(1)).code is grpc.StatusCode.CANCELLED
