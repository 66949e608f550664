"""Jobs that stand for several calls, in the queue of a version."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.scoring.queue import Pending, Queue
from tests.scoring.calls import Calls


@given(
    st.lists(
        st.tuples(st.sampled_from(["push", "take", "take apart", "remove", "back", "clear"]), st.integers(0, 14)),
        max_size=60,
    )
)
def test_rows_jobs_and_calls_are_counted_whatever_is_done(steps: list[tuple[str, int]]) -> None:
    """Through calls that are put apart, put back and cleared; none is lost or doubled."""
    queue = Queue(60, 10)
    inside: set[float] = set()
    pushed: list[Pending] = []
    taken: list[Pending] = []
    number = 0.0
    for step, size in steps:
        if step == "push":
            # What a row is called by is its value.
            job = Calls(*[("", number + one) for one in range(size + 1)]).job()
            pushed.append(Pending(job, "id", "lane"))
            number += size + 1
            if queue.push(pushed[-1]):
                inside.update(_values(pushed[-1]))
        elif step.startswith("take"):
            taken = queue.next_batch(0.0, share=step == "take").jobs
            assert step == "take" or [one.rows for one in taken] in ([], [1])
            inside.difference_update(*map(_values, taken))
        elif step == "back":
            queue.put_back(taken)
            inside.update(*map(_values, taken))
            taken = []
        elif step == "clear":
            assert sorted(inside) == sorted(value for one in queue.clear() for value in _values(one))
            inside.clear()
        elif pushed and queue.remove(pushed[size % len(pushed)]):
            inside.difference_update(_values(pushed[size % len(pushed)]))
        waits = [one for lane in queue._lanes.values() for one in lane.values()]
        assert sorted(inside) == sorted(value for one in waits for value in _values(one))
        assert queue.rows == len(inside)
        assert len(queue) == len(waits)
        assert queue.calls(share=False) == sum(one.job.calls for one in waits)
    queue.clear()
    assert (queue.rows, len(queue), queue.calls(share=False)) == (0, 0, 0)


def _values(pending: Pending) -> list[float]:
    values: list[float] = pending.job.batch.column(1).to_pylist()
    return values


def test_calls_that_are_put_apart_keep_their_place() -> None:
    """Before what came after them."""
    queue = Queue(100, 10)
    for first, count in ((0, 3), (3, 1), (4, 2)):
        job = Calls(*[("", float(first + one)) for one in range(count)]).job()
        assert queue.push(Pending(job, "id", "lane"))
    taken = [queue.next_batch(0.0, share=False).jobs for _ in range(7)]
    assert [[_values(one) for one in jobs] for jobs in taken] == [[[float(one)]] for one in range(6)] + [[]]
    assert (queue.rows, len(queue)) == (0, 0)
