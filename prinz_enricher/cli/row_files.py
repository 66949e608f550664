"""Files of rows: read in parts, each input in its declared type and every other column as it is; and written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from prinz_enricher.batch import Violations, batch_from_rows, batch_to_rows, conform
from prinz_enricher.batch.arrow_stream import caller_batch
from prinz_enricher.batch.coerce_values import is_unicode
from prinz_enricher.batch.primitive_arrays import decimal_double
from prinz_enricher.batch.violation import INEXACT_DECIMAL, quoted
from prinz_enricher.cli.row_parsing import CsvTable, RowFileError, join_columns, parse_json, read_records, row_error
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import Field

SEPARATORS: Final = ",;\t|"

_FAULTS: Final = (OSError, pa.ArrowException, ValueError, csv.Error, RowFileError)
"""What reading a faulty file raises."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """An opened file.

    Attributes:
        names: Its columns.
        batches: Yields its rows in parts.
        position: Returns how much of the file has been read, from 0 to 1.
        is_arrow: Whether its columns are Arrow's own, where text for a value of any type holds JSON.
    """

    names: list[str]
    batches: Iterator[pa.RecordBatch]
    position: Callable[[], float]
    is_arrow: bool = False


def open_rows(path: Path, fields: Sequence[Field], batch_rows: int, separator: str | None = None) -> RowSource:
    """Open a .csv, .tsv, .parquet, .json or .jsonl file (an array of records, or a record a line).

    Args:
        path: The file.
        fields: The inputs of the model.
        batch_rows: Largest number of rows of a part.
        separator: Separator of a CSV file; detected if None.

    Raises:
        RowFileError: The file can't be read.
    """
    csv_and_json = {".csv": _open_csv, ".tsv": _open_csv, ".json": _open_json, ".jsonl": _open_json}
    readers = {**csv_and_json, ".parquet": _open_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise RowFileError(f'{path}: invalid ending "{path.suffix}"; expected one of {", ".join(readers)}')
    if separator is not None and (len(separator) != 1 or not separator.isascii() or separator in '\r\n"'):
        raise RowFileError(f"the separator {json.dumps(separator)} is invalid; expected one ASCII character")
    try:
        source = reader(path, fields, batch_rows, separator)
    except _FAULTS as error:
        raise _named(path, error) from None
    if len(set(source.names)) < len(source.names):
        twice = next(name for name in source.names if source.names.count(name) > 1)
        raise RowFileError(f'{path}: has two columns named "{twice}"')
    return replace(source, batches=_named_errors(path, source, fields))


def _open_csv(path: Path, fields: Sequence[Field], batch_rows: int, separator: str | None) -> RowSource:
    headers = [(one, header) for one in separator or SEPARATORS for header in islice(read_records(path, one), 1)]
    if not headers:
        raise RowFileError("has no header")
    inputs = {field.name for field in fields}
    # The one with which the header has the most inputs, then the most cells.
    separator, header = max(headers, key=lambda one: (len(inputs.intersection(one[1][1])), len(one[1][1])))
    line, names = header
    if not is_unicode("".join(names)):
        raise RowFileError(f"line {line}: is not UTF-8")
    file = pa.OSFile(str(path))
    size = max(file.size(), 1)
    table = CsvTable(path, separator, header, fields)
    blocks = table.batches(file)
    batches = (block.slice(start, batch_rows) for block in blocks for start in range(0, block.num_rows, batch_rows))
    return RowSource(names, batches, lambda: min(file.tell() / size, 1.0))


def _open_parquet(path: Path, fields: Sequence[Field], batch_rows: int, __: str | None) -> RowSource:
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names

    inputs = [field for field in fields if field.name in names]
    total, before = max(file.metadata.num_rows, 1), 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal before
        for batch in file.iter_batches(batch_rows):
            faults = Violations()
            fitting = conform(batch.select([field.name for field in inputs]), inputs, faults)
            try:
                faults.raise_any()
            except InvalidInput as error:
                raise row_error(error, inputs, partial(_row_numbers, before + 1)) from None
            before += batch.num_rows
            # Without what marks the text of a value of any type: it is kept as the file has it.
            typed = pa.RecordBatch.from_arrays(caller_batch(fitting).columns, names=fitting.schema.names)
            yield join_columns(names, typed, dict(zip(names, batch.columns, strict=True)))

    return RowSource(names, batches(), lambda: before / total, is_arrow=True)


def _open_json(path: Path, fields: Sequence[Field], batch_rows: int, _: str | None) -> RowSource:
    size = max(path.stat().st_size, 1)
    lines = path.open("rb")
    try:
        first = next((line for line in iter(lambda: lines.read(1), b"") if line.strip()), b"")
        lines.seek(0)
        records = _array(lines.read()) if first == b"[" else _lines(iter(lines.readline, b""))
        head = list(islice(records, batch_rows))
    except BaseException:
        lines.close()
        raise
    names = list(dict.fromkeys(name for _, row in head for name in row))

    def batches() -> Iterator[pa.RecordBatch]:
        part = head
        with lines:
            while part:
                yield _from_records(part, names, fields)
                part = list(islice(records, batch_rows))

    return RowSource(names, batches(), lambda: min(lines.tell() / size, 1.0) if not lines.closed else 1.0)


def _row_numbers(first: int, rows: Sequence[int]) -> dict[int, str]:
    return {row: f"row {first + row}" for row in rows}


_Record = tuple[str, Mapping[str, object]]
"""A row, and where it stands in its file."""


def _array(text: bytes) -> Iterator[_Record]:
    for number, row in enumerate(parse_json(text), 1):
        yield _record(f"record {number}", row)


def _lines(lines: Iterator[bytes]) -> Iterator[_Record]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"line {number}"
            try:
                row = parse_json(line)
            except ValueError as error:
                raise RowFileError(f"{place}: is not JSON ({_one_line(error)})") from None
            yield _record(place, row)


def _record(place: str, row: object) -> _Record:
    if not isinstance(row, dict):
        raise RowFileError(f"{place}: is not a record; expected an array of records, or a record a line")
    return place, row


def _from_records(part: Sequence[_Record], names: Sequence[str], fields: Sequence[Field]) -> pa.RecordBatch:
    known = set(names)
    for place, row in part:
        if strange := row.keys() - known:
            raise RowFileError(f"{place}: has columns that the first records do not have: {', '.join(sorted(strange))}")
    records = [row for _, row in part]
    inputs = [field for field in fields if field.name in known]
    wanted = {field.name for field in inputs}
    try:
        typed = batch_from_rows([{k: v for k, v in row.items() if k in wanted} for row in records], inputs)
    except InvalidInput as error:
        raise row_error(error, fields, lambda rows: {row: part[row][0] for row in rows}) from None
    kept = {name: _keep(name, [row.get(name) for row in records]) for name in names if name not in wanted}
    return join_columns(names, typed, kept)


def _keep(name: str, values: list[object]) -> pa.Array:
    try:
        # Again as JSON: a decimal becomes the double that equals it.
        return pa.array(json.loads(json.dumps(values, default=_double)))
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise RowFileError(f"column {quoted(name)} can't be kept beside the scores: {_one_line(error)}") from None


def _double(value: Decimal) -> float:
    double = decimal_double(value, np.dtype(np.float64))
    if double is None:
        raise ValueError(f"{value} {INEXACT_DECIMAL}")
    return double


def _named_errors(path: Path, source: RowSource, fields: Sequence[Field]) -> Iterator[pa.RecordBatch]:
    """Yield the parts; one without rows if there are none, so that the columns are checked and answered too."""
    rows = None
    try:
        for rows in source.batches:
            yield rows
        if rows is None:
            inputs = [field for field in fields if field.name in source.names]
            typed = batch_from_rows({field.name: [] for field in inputs}, inputs)
            yield join_columns(source.names, typed, {name: pa.nulls(0) for name in source.names})
    except _FAULTS as error:
        raise _named(path, error) from None


def _named(path: Path, error: Exception) -> RowFileError:
    """Put the file's name before what is wrong with it, on each line of that."""
    lines = str(error).splitlines() if isinstance(error, RowFileError) else [_one_line(error)]
    return RowFileError("\n".join(f"{path}: {line}" for line in lines))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class RowSink:
    """Writes rows to a .parquet, .csv or .json file (a record a line), which is there only once it is complete."""

    def __init__(self, path: Path) -> None:
        openers: dict[str, Callable[[pa.Schema], Any]] = {
            ".parquet": lambda schema: pq.ParquetWriter(self._partial, schema),
            ".csv": lambda schema: pacsv.CSVWriter(self._partial, schema),
            ".json": lambda _: self._partial.open("w", encoding="utf-8"),
            ".jsonl": lambda _: self._partial.open("w", encoding="utf-8"),
        }
        if path.suffix.lower() not in openers:
            raise RowFileError(f'{path}: invalid ending "{path.suffix}"; expected one of {", ".join(openers)}')
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._open = openers[path.suffix.lower()]
        self._writer: Any = None

    def __enter__(self) -> Self:
        """Return the sink; the end of the `with` statement puts the file in its place, or removes it after an error."""
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
        """Add rows; the first ones set the columns.

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
            # Parquet's writer rejects a column of another type than before by a ValueError of many lines.
            raise _named(self._path, error) from None
