"""What answers tell besides their values."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.scoring.ports import ScoreResult, Target
from prinz_enricher.service.score.messages import response_metadata
from prinz_enricher.signature import read_signature

SIGNATURE = read_signature({"signature": None})
BATCH = pa.RecordBatch.from_arrays([pa.array([1.0])], names=["score"])
SECONDS = st.one_of(st.just(0.0), st.floats(0, 1e6))


def duration(seconds: float) -> Duration:
    """Give seconds as protobuf's own library reckons them."""
    made = Duration()
    made.FromNanoseconds(int(seconds * 1e9))
    return made


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS, st.integers(0, 2**31), st.text()), min_size=1, max_size=3))
def test_each_answer_tells_its_own_times(told: list[tuple[float, float, float, int, str]]) -> None:
    """One after the other, nothing is left of the one before, and what took no time is told as well."""
    for queue, compute, total, rows, name in told:
        data = response_metadata(
            Target(name, "7", "registry", SIGNATURE), ScoreResult(BATCH, queue, compute, rows), total
        )
        assert pb.ScoreResponse.FromString(data) == pb.ScoreResponse(
            model=model_pb2.ModelRef(name=name, version="7"),
            timing=pb.ScoreTiming(
                queue=duration(queue), compute=duration(compute), total=duration(total), batch_rows=rows
            ),
        )


def test_threads_do_not_mix_what_they_tell() -> None:
    """Of answers written at the same time each has its own numbers."""

    def write(rows: int) -> bool:
        return all(
            pb.ScoreResponse.FromString(
                response_metadata(
                    Target("m", str(rows), "registry", SIGNATURE), ScoreResult(BATCH, rows, rows, rows), rows
                )
            ).timing.batch_rows
            == rows
            for _ in range(2000)
        )

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(write, range(4)))
