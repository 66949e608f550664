"""What `ScoreStream` does on every front, whatever library speaks gRPC: one suite over all of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from prinz_enricher.errors import ModelNotFound
from prinz_enricher.fronts.grpc.score_stream import MAX_HELD_BYTES, MAX_MESSAGES
from prinz_enricher.service.status import to_status
from tests.support.front_core import (
    KINDS,
    LIMIT,
    MAX_CALLS,
    WAIT,
    Running,
    ScoreStreamCaller,
    eventually,
    reason,
    refusal,
    running_front,
)


@pytest.fixture(params=KINDS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A front that listens."""
    with running_front(request.param) as running:
        yield running


def end(stream: ScoreStreamCaller) -> tuple[grpc.StatusCode, str]:
    """Expect that a stream ends with an error, and return its code and reason."""
    return refusal(lambda: next(stream.call))[:2]


def test_answers_come_as_they_are_ready(running: Running) -> None:
    """A message that takes long does not hold up those behind it, and each answer has the sequence of its message."""
    stream = running.score_stream()
    stream.send(7, b"keep")
    held = running.core.next_kept()
    stream.send(2**64 - 1, b"quick")
    stream.send(0, b"threads")

    assert [stream.receive(), stream.receive()] == [(2**64 - 1, b"Score:quick"), (0, b"Score")]
    held.respond(b"slow")
    assert stream.receive() == (7, b"slow")
    assert (held.method, held.request) == ("Score", b"keep")


def test_many_messages(running: Running) -> None:
    """Thousands of messages on several streams each get their own answer."""
    count = 3_000

    def exchange(number: int) -> bool:
        stream = running.score_stream()
        answers = {}
        for sequence in range(count):
            stream.send(sequence, b"%d of %d" % (sequence, number))
            # As many at once as are let in, shared by the streams.
            if sequence >= MAX_CALLS // 4:
                key, answer = stream.receive()
                answers[key] = answer
        stream.close()
        answers |= dict(stream.receive() for _ in range(count - len(answers)))
        return answers == {key: b"Score:%d of %d" % (key, number) for key in range(count)}

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(exchange, range(3)))


def test_one_bad_request_ends_nothing(running: Running) -> None:
    """An error is that of the unary call, under the sequence of its message; the stream goes on."""
    stream = running.score_stream()
    stream.send(1, b"refuse")
    stream.send(1, b"good")
    stream.close()

    sequence, error = stream.receive()
    assert (sequence, error) == (1, to_status(ModelNotFound("wíne")))
    assert stream.receive() == (1, b"Score:good")
    assert list(stream.call) == []


def test_deadlines_of_messages(running: Running) -> None:
    """A message has the earlier deadline of its own and the stream's."""
    stream, other = running.score_stream(timeout=20.0), running.score_stream(timeout=None)
    deadlines = []
    for one, timeout in ((stream, None), (stream, 5.0), (stream, 500.0), (other, None), (other, 500.0)):
        one.send(1, b"keep", timeout)
        call = running.core.next_kept()
        deadlines.append(None if call.deadline is None else call.deadline - call.arrived)
        call.respond(b"")
    assert [deadline is None for deadline in deadlines] == [False, False, False, True, False]
    of_stream, own, later, _, long = (deadline or 0.0 for deadline in deadlines)
    assert 0 < of_stream <= 20.11
    assert 0 < later <= 20.11
    assert own == pytest.approx(5.0)
    assert long == pytest.approx(500.0)


def test_a_timeout_that_is_negative(running: Running) -> None:
    """A negative timeout is INVALID_REQUEST for its message alone."""
    stream = running.score_stream()
    stream.send(3, b"x", -1.0)
    stream.send(4, b"x")

    sequence, error = stream.receive()
    assert (sequence, reason(error)) == (3, "INVALID_REQUEST")
    assert stream.receive() == (4, b"Score:x")


def test_what_is_no_message(running: Running) -> None:
    """Bytes without a sequence end the stream as INVALID_ARGUMENT, once what came before is answered."""
    stream = running.score_stream()
    stream.send(1, b"keep")
    held = running.core.next_kept()
    stream.send_raw(b"\xff\xff")
    stream.send(2, b"never read")
    held.respond(b"done")

    assert stream.receive() == (1, b"done")
    assert end(stream) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert len(running.core.kept) == 1


def test_the_caller_has_said_all(running: Running) -> None:
    """After a half-close what is in flight is still answered, then the stream ends as OK."""
    stream = running.score_stream()
    stream.send(1, b"keep")
    stream.send(2, b"keep")
    stream.close()
    running.core.next_kept(), running.core.next_kept()
    first, second = running.core.kept
    assert not first.cancelled()

    second.respond(b"second")
    assert stream.receive() == (2, b"second")
    first.fail(to_status(ModelNotFound("first")))
    assert stream.receive() == (1, to_status(ModelNotFound("first")))

    assert list(stream.call) == []
    assert stream.call.code() == grpc.StatusCode.OK


def test_a_stream_without_messages(running: Running) -> None:
    """A stream that is closed at once ends as OK."""
    stream = running.score_stream()
    stream.close()
    assert list(stream.call) == []
    assert stream.call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_caller_that_goes_away(running: Running, how: str) -> None:
    """Calls of a stream that is cancelled, or whose deadline passes, are told as cancelled, and answered in vain."""
    stream = running.score_stream(timeout=WAIT if how == "cancel" else 1.0)
    stream.send(1, b"keep")
    call = running.core.next_kept()
    if how == "cancel":
        assert not call.cancelled()
        stream.call.cancel()
    else:
        assert end(stream)[0] == grpc.StatusCode.DEADLINE_EXCEEDED

    eventually(call.cancelled)
    call.respond(b"in vain")
    call.fail(to_status(ModelNotFound("in vain")))
    assert running.method("Score")(b"x", timeout=WAIT) == b"Score:x"


def test_only_the_first_answer_counts(running: Running) -> None:
    """A second answer to a message does nothing."""
    stream = running.score_stream()
    stream.send(1, b"keep")
    call = running.core.next_kept()
    call.respond(b"first")
    call.fail(to_status(ModelNotFound("second")))
    call.respond(b"third")
    stream.close()
    assert stream.receive() == (1, b"first")
    assert list(stream.call) == []


def test_an_answer_that_is_too_large(running: Running) -> None:
    """An answer over the limit is MESSAGE_TOO_LARGE under its sequence; the stream goes on."""
    stream = running.score_stream()
    stream.send(5, b"much")
    sequence, error = stream.receive()
    assert (sequence, reason(error)) == (5, "MESSAGE_TOO_LARGE")
    stream.send(6, b"x")
    assert stream.receive() == (6, b"Score:x")


def test_a_message_that_is_too_large(running: Running) -> None:
    """A message over the limit is not received, and ends the stream as RESOURCE_EXHAUSTED; its calls are cancelled."""
    stream = running.score_stream()
    stream.send(1, b"keep")
    call = running.core.next_kept()
    stream.send(2, bytes(LIMIT + 1))
    assert end(stream)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    eventually(call.cancelled)
    assert running.method("Score")(b"x", timeout=WAIT) == b"Score:x"


def test_too_many_calls(running: Running) -> None:
    """Messages over the limit of calls are each answered as OVERLOADED; the stream stays."""
    stream = running.score_stream()
    for sequence in range(MAX_CALLS):
        stream.send(sequence, b"keep")
        running.core.next_kept()
    stream.send(100, b"x")
    stream.send(101, b"x")
    for expected in (100, 101):
        sequence, error = stream.receive()
        assert (sequence, reason(error)) == (expected, "OVERLOADED")

    running.core.kept[3].respond(b"done")

    assert stream.receive() == (3, b"done")
    stream.send(102, b"x")
    assert stream.receive() == (102, b"Score:x")
    stream.call.cancel()
    eventually(lambda: all(call.cancelled() for call in running.core.kept))


def test_streams_give_their_calls_back(running: Running) -> None:
    """What a stream had in flight when its caller went is let go: others are let in."""
    for _ in range(3):
        stream = running.score_stream()
        for sequence in range(MAX_CALLS):
            stream.send(sequence, b"keep")
            running.core.next_kept()
        stream.call.cancel()
        eventually(lambda: all(call.cancelled() for call in running.core.kept))
    other = running.score_stream()
    other.send(1, b"x")
    assert other.receive() == (1, b"Score:x")


def test_a_caller_that_does_not_read(running: Running) -> None:
    """A caller that does not read is not read from either, and cut off in the end; others never wait for it."""
    deaf, other = running.score_stream(), running.score_stream()
    deaf.send(0, b"keep")
    held = running.core.next_kept()
    # Together more than is held of one stream, and than gRPC takes on the way.
    messages = 3 * MAX_HELD_BYTES // (LIMIT // 2)
    for sequence in range(messages):
        deaf.send(sequence, bytes(LIMIT // 2))
    exchanged = 0

    def is_cut_off() -> bool:
        nonlocal exchanged
        other.send(exchanged, b"x")
        assert other.receive() == (exchanged, b"Score:x")
        exchanged += 1
        return held.cancelled()

    eventually(is_cut_off)
    assert running.core.handled - exchanged < messages

    assert refusal(lambda: [None for _ in deaf.call])[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")


@pytest.mark.parametrize("kind", KINDS)
def test_a_caller_that_is_waited_for(kind: str) -> None:
    """While what a stream sends waits for its caller to read, others on the same connection go on."""
    with running_front(kind, patience=WAIT) as running:
        deaf, other = running.score_stream(), running.score_stream()
        for sequence in range(3 * MAX_HELD_BYTES // (LIMIT // 2)):
            deaf.send(sequence, bytes(LIMIT // 2))
        for sequence in range(300):
            other.send(sequence, b"x")
            assert other.receive() == (sequence, b"Score:x")
        deaf.call.cancel()


def test_a_caller_that_reads_late(running: Running) -> None:
    """Whoever sends all first and reads then gets every answer: what it was not read of waits in the meantime."""
    stream = running.score_stream()
    for sequence in range(3 * MAX_MESSAGES):
        stream.send(sequence, b"threads")
    stream.close()

    answers = [stream.receive() for _ in range(3 * MAX_MESSAGES)]

    assert sorted(sequence for sequence, _ in answers) == list(range(3 * MAX_MESSAGES))
    assert list(stream.call) == []


def test_draining(running: Running) -> None:
    """While it drains, a front answers the messages it let in, refuses new ones, then ends the stream."""
    stream, idle = running.score_stream(), running.score_stream()
    idle.send(1, b"x")
    assert idle.receive() == (1, b"Score:x")
    stream.send(1, b"keep")
    stream.send(2, b"keep")
    calls = [running.core.next_kept(), running.core.next_kept()]
    with ThreadPoolExecutor(1) as threads:
        drained = threads.submit(running.front.drain, WAIT)
        assert end(idle) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        stream.send(3, b"x")
        sequence, error = stream.receive()
        assert (sequence, reason(error)) == (3, "SHUTTING_DOWN")
        assert end(running.score_stream()) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert not any(call.cancelled() for call in running.core.kept)
        assert not drained.done()

        for call in running.core.kept:
            call.respond(b"done")

        assert {stream.receive(), stream.receive()} == {(1, b"done"), (2, b"done")}
        assert end(stream) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        drained.result(WAIT)
    assert len(calls) == 2


def test_draining_ends_with_the_grace_period(running: Running) -> None:
    """A message that is not answered holds a front no longer than the grace period."""
    stream = running.score_stream()
    stream.send(1, b"keep")
    call = running.core.next_kept()

    running.front.drain(0.2)

    assert end(stream) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert call.cancelled()
    call.respond(b"in vain")
