"""The parts of a file: scored a few at a time, and written in the order of the file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pyarrow as pa
import pytest

from prinz_enricher.cli.score import _IN_FLIGHT, _in_advance
from prinz_enricher.client import Scores

WAIT = 20.0


def batches(count: int, read: list[int]) -> Iterator[pa.RecordBatch]:
    """Yield batches, and note which were read."""
    for number in range(count):
        read.append(number)
        yield pa.record_batch({"x": [number]})


def number_of(batch: pa.RecordBatch) -> int:
    """Return what is in a batch."""
    return int(batch.column(0)[0].as_py())


def test_in_the_order_of_the_file() -> None:
    """A part that takes longer than the next is written before it, and few are read ahead of what is written."""
    overtaken, read, running = threading.Event(), list[int](), list[int]()

    def score(batch: pa.RecordBatch, first: bool) -> Scores:
        number = number_of(batch)
        assert first is (number == 0)
        running.append(number)
        if number == 1:
            # Until the second of both is scored.
            assert overtaken.wait(WAIT)
        elif number == 2:
            overtaken.set()
        return cast("Scores", f"scores of {number}")

    written: list[Any] = []
    for batch, scores in _in_advance(score, batches(20, read), _IN_FLIGHT):
        written.append((number_of(batch), scores))
        assert len(read) <= len(written) + _IN_FLIGHT + 1
    assert written == [(number, f"scores of {number}") for number in range(20)]
    assert sorted(running) == [*range(20)]


def test_a_part_that_fails() -> None:
    """What comes before it is written, its error is raised, and no more of the file is read."""
    read: list[int] = []

    def score(batch: pa.RecordBatch, _: bool) -> Scores:
        if number_of(batch) == 3:
            raise ValueError("the fourth")
        return cast("Scores", number_of(batch))

    written: list[Any] = []
    with pytest.raises(ValueError, match="the fourth"):  # noqa: PT012 - it is raised on the way
        for _, scores in _in_advance(score, batches(50, read), _IN_FLIGHT):
            written.append(scores)
    assert written == [0, 1, 2]
    assert len(read) <= 3 + _IN_FLIGHT + 2


def test_one_after_the_other() -> None:
    """Parts of few rows are not scored at once: their last bits would depend on which of them shared a model call."""
    running, read = threading.Semaphore(1), list[int]()

    def score(batch: pa.RecordBatch, _: bool) -> Scores:
        assert running.acquire(blocking=False)
        assert len(read) == number_of(batch) + 1
        running.release()
        return cast("Scores", number_of(batch))

    assert [scores for _, scores in _in_advance(score, batches(10, read), 0)] == [*range(10)]
