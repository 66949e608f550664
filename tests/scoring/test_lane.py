"""The queue policy of one version."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.scoring import Job
from prinz_enricher.scoring.lane import Lane
from prinz_enricher.scoring.pending import Pending
from tests.scoring.scripted import rows, target_of


def pending(count: int = 1, deadline: float | None = None, *, cancelled: bool = False) -> Pending:
    """Make a job of some rows."""
    batch = rows(*[("", 1.0)] * count)
    return Pending(Job(target_of(), batch, {}, deadline, lambda _: None, lambda: cancelled), "id")


def test_jobs_leave_in_the_order_they_came() -> None:
    """First in, first out."""
    lane = Lane(10)
    jobs = [pending() for _ in range(3)]
    assert all(lane.push(job) for job in jobs)
    assert [lane.take(0.0).pending for _ in range(4)] == [*jobs, None]


def test_late_and_cancelled_jobs_are_given_back_unrun() -> None:
    """They are dropped before they cost anything, and told apart from the next job."""
    lane = Lane(10)
    late, gone, good = pending(deadline=1.0), pending(cancelled=True), pending(deadline=3.0)
    for job in (late, gone, good):
        lane.push(job)
    chosen = lane.take(2.0)
    assert chosen.pending is good
    assert chosen.late == [late, gone]


def test_a_job_larger_than_the_limit_goes_into_an_empty_lane_only() -> None:
    """What is allowed as a request can be scored, only not queued behind others."""
    lane = Lane(5)
    assert lane.push(pending(9))
    assert not lane.push(pending(1))


@given(st.lists(st.tuples(st.sampled_from(["push", "take", "remove"]), st.integers(0, 4)), max_size=60))
def test_rows_are_counted_right_whatever_is_done(steps: list[tuple[str, int]]) -> None:
    """The count of waiting rows is that of the jobs inside, and within the limit unless one job is all there is."""
    lane = Lane(6)
    inside: list[Pending] = []
    for step, number in steps:
        if step == "push":
            job = pending(number + 1)
            fits = not inside or sum(one.rows for one in inside) + job.rows <= 6
            assert lane.push(job) == fits
            if fits:
                inside.append(job)
        elif step == "take":
            assert lane.take(0.0).pending is (inside.pop(0) if inside else None)
        elif inside:
            job = inside.pop(number % len(inside))
            assert lane.remove(job)
            assert not lane.remove(job)
        assert lane.rows == sum(one.rows for one in inside)
        assert len(lane) == len(inside)
    assert lane.clear() == inside
