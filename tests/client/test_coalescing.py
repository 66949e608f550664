"""The policy of sharing messages, without threads and clocks."""

import gc

from prinz_enricher.client import ModelReference
from prinz_enricher.client.coalescing import Lane, RowCall
from prinz_enricher.client.score_plan import RowRequest, ScorePlan
from tests.client.conftest import SIGNATURE

REQUEST = ScorePlan(ModelReference("twice"), SIGNATURE).request({"x": 1.0}, None, (), "")


def lane_of(max_rows: int) -> Lane[None]:
    """Make a lane."""
    assert isinstance(REQUEST, RowRequest)
    return Lane(REQUEST, max_rows)


def caller(number: int, deadline: float = 10.0) -> RowCall[None]:
    """Make a caller with a row of one number."""
    return RowCall((number,), deadline, None)


def taken(lane: Lane[None]) -> list[object]:
    """Take the next message; return its rows."""
    return [call.row[0] for call in lane.next_message()]


def test_the_first_leaves_at_once_and_the_others_together() -> None:
    """Who finds nothing on its way sends; those who come meanwhile go together in the next message."""
    lane = lane_of(100)
    assert lane.join(caller(1))
    assert taken(lane) == [1]
    second = caller(2)
    assert not lane.join(second)
    assert not lane.join(caller(3))
    assert lane.finish() is second
    assert taken(lane) == [2, 3]
    assert lane.finish() is None
    assert lane.is_idle


def test_a_message_takes_its_rows_when_it_leaves() -> None:
    """Who comes before the message has left goes with it."""
    lane = lane_of(100)
    assert lane.join(caller(1))
    assert not lane.join(caller(2))
    assert taken(lane) == [1, 2]


def test_what_is_too_much_goes_in_the_next_message() -> None:
    """A message holds the rows that it may; the others keep their turn."""
    lane = lane_of(2)
    assert [lane.join(caller(number)) for number in range(5)] == [True, False, False, False, False]
    assert taken(lane) == [0, 1]
    assert lane.finish() is not None
    assert taken(lane) == [2, 3]
    assert lane.finish() is not None
    assert taken(lane) == [4]
    assert lane.finish() is None


def test_who_gave_up_is_left_out() -> None:
    """A row that nobody waits for any more is not sent, and its caller is not the one who sends."""
    lane = lane_of(2)
    first, second, third = caller(1), caller(2), caller(3)
    lane.join(first)
    assert taken(lane) == [1]
    lane.join(second)
    lane.join(third)
    second.gone = True
    assert lane.finish() is third
    third.gone = True
    assert lane.relay() is None
    assert lane.is_idle


def test_nobody_is_left_when_it_is_to_leave() -> None:
    """Where all have given up there is no message, and the next caller sends at once."""
    lane = lane_of(2)
    only = caller(1)
    assert lane.join(only)
    only.gone = True
    assert lane.next_message() == []
    assert lane.is_idle
    assert lane.join(caller(2))


def test_a_message_has_the_latest_deadline_of_its_callers() -> None:
    """Nobody's time is cut by that of another."""
    lane = lane_of(10)
    for number, deadline in enumerate((3.0, 9.0, 5.0)):
        lane.join(caller(number, deadline))
    calls = lane.next_message()
    assert lane.deadline() == 9.0
    assert not lane.is_unwanted
    for call in calls:
        call.gone = True
    assert lane.is_unwanted
    lane.finish()
    assert not lane.is_unwanted


def test_what_has_landed_is_let_go() -> None:
    """Neither a caller nor the lane holds the message that it went in, so that no garbage is left to collect."""
    lane = lane_of(10)
    call = caller(1)
    lane.join(call)
    assert lane.next_message() == lane.in_flight == [call]
    lane.finish()
    assert lane.in_flight == []
    assert not any(isinstance(one, Lane | list) for one in gc.get_referents(call))


def test_all_who_want_an_answer_are_known() -> None:
    """Callers are counted while they wait and while they are on their way, until they give up."""
    lane = lane_of(10)
    away, waiting, gone = caller(1), caller(2), caller(3)
    lane.join(away)
    lane.next_message()
    lane.join(waiting)
    lane.join(gone)
    gone.gone = True
    assert list(lane.calls()) == [waiting, away]
