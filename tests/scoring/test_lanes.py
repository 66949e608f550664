"""The queue policy of one version."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.scoring.ports import Job
from prinz_enricher.scoring.queue import Pending, Queue
from tests.scoring.scripted import rows, target_of


def pending(count: int = 1, deadline: float | None = None, *, lane: str = "", cancelled: bool = False) -> Pending:
    """Make a job of some rows."""
    batch = rows(*[("", 1.0)] * count)
    return Pending(Job(target_of(), batch, {}, deadline, lambda _: None, lambda: cancelled), "id", lane)


def queue_of(*jobs: Pending, queue_rows: int = 100, batch_rows: int = 10, delay: float = 0.0) -> Queue:
    """Make a queue with jobs in it."""
    queue = Queue(queue_rows, batch_rows, delay)
    assert all(queue.push(job) for job in jobs)
    return queue


def test_what_waits_goes_together_up_to_the_limit_of_rows() -> None:
    """A free worker gets all that waits in a lane, in the order it came, as far as it fits into a call."""
    jobs = [pending(4), pending(4), pending(2), pending(1)]
    queue = queue_of(*jobs)
    assert queue.next_batch(0.0).jobs == jobs[:3]
    assert queue.next_batch(0.0).jobs == jobs[3:]
    assert queue.next_batch(0.0).jobs == []


def test_without_sharing_each_job_goes_alone() -> None:
    """Jobs of a model that must not share calls leave one by one, first in, first out."""
    jobs = [pending() for _ in range(3)]
    queue = queue_of(*jobs)
    assert [queue.next_batch(0.0, share=False).jobs for _ in range(4)] == [[job] for job in jobs] + [[]]


def test_lanes_take_turns() -> None:
    """Jobs of another kind never share a call, and none waits for all of another lane."""
    a1, a2, b1 = pending(6, lane="a"), pending(6, lane="a"), pending(lane="b")
    queue = queue_of(a1, a2, b1)
    assert [queue.next_batch(0.0).jobs for _ in range(3)] == [[a1], [b1], [a2]]


def test_large_jobs_have_a_lane_of_their_own() -> None:
    """Small jobs do not wait behind several large ones, and a large one has its call alone."""
    large, larger, small, other = pending(10), pending(50), pending(1), pending(2)
    queue = queue_of(large, larger, small, other)
    assert [queue.next_batch(0.0).jobs for _ in range(3)] == [[large], [small, other], [larger]]


def test_late_and_cancelled_jobs_are_given_back_unrun() -> None:
    """They are dropped before they cost anything, wherever they stand, and told apart from the next call."""
    late, gone, good = pending(deadline=1.0), pending(cancelled=True), pending(deadline=3.0)
    later = pending(deadline=2.0)
    chosen = queue_of(late, gone, good, later).next_batch(2.0)
    assert chosen.jobs == [good]
    assert chosen.dropped == [late, gone, later]


def test_a_job_larger_than_the_limit_goes_into_an_empty_queue_only() -> None:
    """What is allowed as a request can be scored, only not queued behind others."""
    queue = queue_of(pending(9), queue_rows=5)
    assert not queue.push(pending(1))


def test_a_delay_lets_jobs_gather() -> None:
    """With a delay the first job waits for others, no longer than that, and not once its call is full."""
    first, second = pending(), pending()
    queue = queue_of(first, delay=0.5)
    waiting = queue.next_batch(first.submitted + 0.2)
    assert (waiting.jobs, round(waiting.wait or 0, 6)) == ([], 0.3)
    assert queue.push(second)
    assert queue.next_batch(first.submitted + 0.5).jobs == [first, second]
    full = queue_of(*(pending(5) for _ in range(2)), delay=0.5)
    assert len(full.next_batch(0.0).jobs) == 2


def test_a_job_that_must_be_alone_is_alone() -> None:
    """Once a worker died while a job was scored, it shares no call."""
    jobs = [pending() for _ in range(3)]
    for job in jobs[:2]:
        job.is_alone = True
    queue = queue_of(*jobs)
    assert sorted(len(queue.next_batch(0.0).jobs) for _ in range(3)) == [1, 1, 1]


def test_what_was_not_scored_comes_first_again() -> None:
    """Jobs that are put back leave before all others, in the order they had, whatever the limit."""
    first, second, third = pending(3), pending(3), pending(3)
    queue = queue_of(third, queue_rows=3)
    queue.put_back([first, second])
    assert queue.rows == 9
    assert queue.next_batch(0.0).jobs == [first, second, third]


@given(st.lists(st.tuples(st.sampled_from(["push", "take", "remove", "back"]), st.integers(0, 14)), max_size=60))
def test_no_job_is_lost_or_doubled_whatever_is_done(steps: list[tuple[str, int]]) -> None:
    """What is inside is what was pushed and not taken; rows are counted; calls keep their limit and their lane."""
    queue = Queue(40, 10)
    inside: list[Pending] = []
    taken: list[Pending] = []
    for step, number in steps:
        if step == "push":
            job = pending(number + 1, lane=str(number % 3))
            if queue.push(job):
                inside.append(job)
            else:
                assert sum(one.rows for one in inside) + job.rows > 40
        elif step == "take":
            taken = queue.next_batch(0.0).jobs
            assert bool(taken) == bool(inside)
            assert len({job.lane for job in taken}) <= 1
            assert len(taken) <= 1 or sum(job.rows for job in taken) <= 10
            # Nobody of the same lane and size came before them.
            for job in taken:
                inside.remove(job)
        elif step == "back":
            queue.put_back(taken)
            inside, taken = taken + inside, []
        elif inside:
            job = inside.pop(number % len(inside))
            assert queue.remove(job)
            assert not queue.remove(job)
        assert queue.rows == sum(one.rows for one in inside)
        assert len(queue) == len(inside)
    assert sorted(map(id, queue.clear())) == sorted(map(id, inside))
    assert (queue.rows, len(queue)) == (0, 0)


def test_large_jobs_take_a_call_each() -> None:
    """Whatever their rows: callers with a deadline are not refused for calls that nobody will make."""
    jobs = [pending(300_000), pending(300_000), *(pending() for _ in range(100))]
    queue = Queue(1_000_000, 1024)
    for job in jobs:
        assert queue.push(job)
    assert queue.calls(share=True) == 3
    for job in jobs[:2]:
        queue.remove(job)
    assert queue.calls(share=True) == 1
    queue.limit(1_000_000, 10, 0.0)
    assert queue.calls(share=True) == 10


def test_other_limits_for_what_waits() -> None:
    """Jobs that wait go by the limits of now, in the order they came, and none is lost or refused."""
    small, middle, large = pending(3), pending(4), pending(9)
    queue = queue_of(small, middle, large)
    queue.limit(10, 4, 0.0)
    assert (len(queue), queue.rows, queue.calls(share=True)) == (3, 16, 3)
    assert not queue.push(pending())
    assert queue.remove(middle)
    assert [queue.next_batch(0.0).jobs for _ in range(3)] == [[small], [large], []]
    queue.limit(10, 100, 0.0)
    assert queue.push(small)
    assert queue.push(middle)
    assert queue.next_batch(0.0).jobs == [small, middle]
