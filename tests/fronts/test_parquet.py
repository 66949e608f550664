"""Parquet in `/invocations`: read exactly, and by a process that a hostile file can't get out of."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.errors import InvalidRequest
from prinz_enricher.fronts.http.parquet import PARQUET, ParquetReader
from tests.fronts.test_invocations import Echoes
from tests.support.deadline import wait_until
from tests.support.http_api import RunningApi, running_api
from tests.support.processes import children, mentioning

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def api() -> Iterator[RunningApi]:
    """The API."""
    with Echoes() as service, running_api(service) as running:
        yield running


@pytest.fixture(scope="module")
def reader() -> Iterator[ParquetReader]:
    """What has Parquet read."""
    reader = ParquetReader()
    yield reader
    reader.close()


def written(table: pa.Table | dict[str, Any], **options: Any) -> bytes:
    """Return a table as Parquet."""
    target = io.BytesIO()
    pq.write_table(pa.table(table), target, **options)
    return target.getvalue()


def invoke(api: RunningApi, model: str, body: bytes) -> Any:
    """Return the answer to a body."""
    return api.client.post(f"/model/{model}/invocations", content=body, headers={"Content-Type": PARQUET})


def whole(reader: ParquetReader, body: bytes) -> pa.Table:
    """Return all columns of a file."""
    stream, _ = reader.read(body, [], by_place=False, max_bytes=MEGABYTE)
    return pa.ipc.open_stream(stream).read_all()


def test_predictions(api: RunningApi) -> None:
    """Columns in any order are read exactly; those that the model lacks are ignored, and named in a header."""
    body = written({"s": ["ß", None], "x.y": [1, 2], "n": [2**53 + 1, None], "more": [[1], []], "x": [5e-324, np.nan]})

    answer = invoke(api, "echo", body)

    first, second = answer.json()["predictions"]
    assert first == {"x": 5e-324, "n": 2**53 + 1, "s": "ß"}
    assert np.isnan(second.pop("x"))
    assert second == {"n": None, "s": None}
    assert answer.headers["prinz-ignored-columns"] == "x.y, more"
    assert invoke(api, "echo", written({"x": pa.array([], pa.float64())})).json() == {"predictions": []}
    assert invoke(api, "unnamed", written({"0": [1], "1": [2]})).json() == {
        "predictions": [{"output_0": 1, "output_1": 2}]
    }
    for names in (("input_1", "input_0"), ("a", "input_0")):
        problem = invoke(api, "unnamed", written(dict(zip(names, ([1], [2]), strict=True)))).json()
        assert "not all at their places" in problem["detail"]
    assert invoke(api, "unnamed", written({"input_0": [1], "input_1": [2]})).status_code == 200
    assert invoke(api, "any", written({"a": ['{"b": 1}', "5"]})).json() == {"predictions": [{"b": 1}, 5]}


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"x": [1.0], "n": [3.7]}, "n"),
        ({"x": ["1"]}, "x"),
        ({"n": [1]}, "x"),
        ({"x": [1.0], "s": [5]}, "s"),
        ({"x": [datetime(2026, 1, 1, tzinfo=UTC)]}, "x"),
    ],
)
def test_what_would_be_changed(api: RunningApi, columns: Any, field: str) -> None:
    """A value that is not one of the model's type is refused by its column, as in every other form."""
    problem = invoke(api, "echo", written(columns)).json()
    assert problem["reason"] == "INVALID_INPUT"
    assert field in problem["detail"]


def test_too_many_rows(api: RunningApi) -> None:
    """More rows than a request may have are refused as such."""
    assert invoke(api, "echo", written({"x": np.zeros(20_000)})).json()["reason"] == "BATCH_TOO_LARGE"


def test_what_is_no_parquet(api: RunningApi) -> None:
    """Whatever comes is refused, and the next file is read."""
    good = written({"x": [1.0] * 100})
    for body in (
        b"",
        b"PAR1",
        good[:-1],
        good[4:],
        b"PAR1" + bytes(100) + b"PAR1",
        good[:-8] + b"\xff\xff\xff\x7fPAR1",
    ):
        problem = invoke(api, "echo", body).json()
        assert (problem["reason"], problem["error_code"]) == ("INVALID_REQUEST", "BAD_REQUEST")
        assert "is not Parquet" in problem["detail"]
    assert invoke(api, "echo", good).status_code == 200


@given(st.data())
def test_damaged(reader: ParquetReader, data: st.DataObject) -> None:
    """A file with other bytes in some places is read as something that is sound, or refused."""
    good = written({"x": np.arange(50.0), "s": ["a", "bc"] * 25, "l": [[1], [2, 3]] * 25})
    damaged = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), min_size=1, max_size=8)):
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        stream, _ = reader.read(bytes(damaged), [], by_place=False, max_bytes=MEGABYTE)
    except InvalidRequest:
        return
    assert stream


BOMBS = {
    "one value many times": lambda: written({"x": pa.repeat(pa.scalar(1.5), 50_000_000)}),
    "one text many times": lambda: written({"s": pa.repeat(pa.scalar("x" * 10_000), 100_000)}),
    "zeros": lambda: written({"x": np.zeros(20_000_000)}, use_dictionary=False, compression="gzip"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_become_large(reader: ParquetReader, name: str) -> None:
    """They are refused once they have taken what they may, wherever that is, and others are read meanwhile."""
    bomb = BOMBS[name]()
    assert len(bomb) < MEGABYTE
    with ThreadPoolExecutor(4) as threads:
        refused = [threads.submit(reader.read, bomb, [], by_place=False, max_bytes=MEGABYTE) for _ in range(3)]
        assert whole(reader, written({"x": [1.0]})).to_pydict() == {"x": [1.0]}
        for one in refused:
            with pytest.raises(InvalidRequest, match="is not Parquet that can be read with 1 MB"):
                one.result()


def test_an_index(reader: ParquetReader) -> None:
    """What pandas has as an index is not a column."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": [3.0, 4.0]})
    for body, names in (
        (frame.to_parquet(), ["a", "b"]),
        (frame.set_index("a").to_parquet(), ["b"]),
        (frame.set_axis(["x", "y"], axis=0).to_parquet(), ["a", "b"]),
    ):
        assert whole(reader, body).column_names == names


def test_the_process_is_killed(reader: ParquetReader) -> None:
    """A file that comes later starts another one."""
    body = written({"x": [1.0]})
    whole(reader, body)
    process = reader._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert whole(reader, body).num_rows == 1


def test_the_process_ends() -> None:
    """It ends with what it reads for, and leaves nothing behind."""

    def readers() -> set[int]:
        # Pools of other tests in this process may start workers meanwhile.
        return set(children(os.getpid())) & set(mentioning("parquet_reader"))

    before = readers()
    reader = ParquetReader()
    whole(reader, written({"x": [1.0]}))
    assert readers() > before
    reader.close()
    assert readers() <= before


def test_a_file_that_takes_long(reader: ParquetReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused after a while, and what read it has ended."""
    good = written({"x": [1.0]})
    whole(reader, good)
    process = reader._process
    assert process is not None
    monkeypatch.setattr("prinz_enricher.fronts.http.parquet.SECONDS", 0.01)
    with pytest.raises(InvalidRequest, match="seconds"):
        whole(reader, written({"x": np.zeros(4_000_000)}, use_dictionary=False, compression="gzip"))
    monkeypatch.undo()
    assert whole(reader, good).num_rows == 1
    assert (reader._process, process.poll()) == (process, None)
    wait_until(lambda: not children(process.pid))


@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=False), st.integers(-(2**63), 2**63 - 1) | st.none(), st.text(max_size=5) | st.none()
        ),
        max_size=20,
    )
)
def test_values(reader: ParquetReader, rows: list[tuple[float, int | None, str | None]]) -> None:
    """Each value of a column comes through bit for bit."""
    table = pa.table(
        {
            "x": pa.array([row[0] for row in rows], pa.float64()),
            "n": pa.array([row[1] for row in rows], pa.int64()),
            "s": pa.array([row[2] for row in rows], pa.string()),
        }
    )
    stream, ignored = reader.read(written(table), table.column_names, by_place=False, max_bytes=MEGABYTE)
    assert ignored == []
    assert pa.ipc.open_stream(stream).read_all().equals(table)
