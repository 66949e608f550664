"""Files of scores: written in parts, and there under their name only when they are whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from prinz_enricher.batch import batch_to_rows
from prinz_enricher.batch.caller import caller_batch
from prinz_enricher.cli.row_faults import RowFileError


class RowSink:
    """Writes rows to a .parquet, .csv or .json file (a record a line).

    Args:
        path: The file; what stands there is replaced at the end.
    """

    def __init__(self, path: Path) -> None:
        openers: dict[str, Callable[[pa.Schema], Any]] = {
            ".parquet": lambda schema: pq.ParquetWriter(self._partial, schema),
            ".csv": lambda schema: pacsv.CSVWriter(self._partial, schema),
            ".json": lambda _: self._partial.open("w", encoding="utf-8"),
            ".jsonl": lambda _: self._partial.open("w", encoding="utf-8"),
        }
        if path.suffix.lower() not in openers:
            raise RowFileError(f"{path}: the ending is none of {', '.join(openers)}")
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._open = openers[path.suffix.lower()]
        self._writer: Any = None

    def __enter__(self) -> Self:
        """Write in a `with` statement: its end puts the file in its place, or takes it away after an error."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
        if error is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; the first ones say which columns there are.

        Raises:
            RowFileError: The file can't be written, or its format can't hold a column.
        """
        try:
            plain = caller_batch(batch)
            if self._writer is None:
                self._writer = self._open(plain.schema)
            if hasattr(self._writer, "write_batch"):
                self._writer.write_batch(plain)
            else:
                self._writer.writelines(json.dumps(row, default=str) + "\n" for row in batch_to_rows(batch))
        except (OSError, pa.ArrowException, ValueError) as error:
            # Parquet's writer says of a column that is of another type than before by a ValueError of many lines.
            raise RowFileError(f"{self._path}: {' '.join(str(error).split())}") from None
