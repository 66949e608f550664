"""Files of scores."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from prinz_enricher.cli.row_files import RowFileError, RowSink


@pytest.mark.parametrize("later", [[0.5], ["a"], [None], [[1]]])
def test_a_column_of_another_type_than_before_is_told(tmp_path: Path, later: list[object]) -> None:
    """Parquet has one type for a column: a later part with another one ends the writing, and leaves no file behind."""
    path = tmp_path / "scores.parquet"
    first, second = (pa.RecordBatch.from_pydict({"k": values}) for values in ([1], later))

    def write() -> None:
        with RowSink(path) as sink:
            sink.write(first)
            sink.write(second)

    with pytest.raises(RowFileError, match=r"scores\.parquet: Table schema does not match .* k: int64"):
        write()
    assert not list(tmp_path.iterdir())
