"""Files of rows: read in parts, with each input in its declared type and every other column as it is."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prinz_enricher.batch import Faults, batch_from_rows, conform
from prinz_enricher.batch.any_json import is_unicode
from prinz_enricher.batch.caller import caller_batch
from prinz_enricher.batch.faults import quoted
from prinz_enricher.batch.number import decimal_double
from prinz_enricher.batch.wanted import INEXACT_DECIMAL
from prinz_enricher.cli.cells import read_json
from prinz_enricher.cli.csv_table import CsvTable, read_records
from prinz_enricher.cli.row_columns import in_order
from prinz_enricher.cli.row_faults import Places, RowFileError, refused
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import Field

SEPARATORS: Final = ",;\t|"

_FAULTS: Final = (OSError, pa.ArrowException, ValueError, csv.Error, RowFileError)
"""What reading a file raises where that is not as it should be."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """An opened file.

    Attributes:
        names: Its columns.
        batches: Yields its rows in parts.
        total: Rows in all; None where only reading tells.
        position: Returns how much of the file has been read, from 0 to 1; None where `total` is known.
        is_arrow: Whether its columns are Arrow's own, where text for a value of any type holds JSON.
    """

    names: list[str]
    batches: Iterator[pa.RecordBatch]
    total: int | None
    position: Callable[[], float] | None
    is_arrow: bool = False


def open_rows(path: Path, fields: Sequence[Field], batch_rows: int, separator: str | None = None) -> RowSource:
    """Open a .csv, .parquet or .json file (an array of records, or a record a line).

    Args:
        path: The file.
        fields: The inputs of the model.
        batch_rows: Rows of a part at most.
        separator: Separator of a CSV file; found by itself if None.

    Raises:
        RowFileError: The file can't be read.
    """
    csv_and_json = {".csv": _open_csv, ".tsv": _open_csv, ".json": _open_json, ".jsonl": _open_json}
    readers = {**csv_and_json, ".parquet": _open_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise RowFileError(f"{path}: the ending is none of {', '.join(readers)}")
    if separator is not None and (len(separator) != 1 or not separator.isascii() or separator in '\r\n"'):
        raise RowFileError(f"the separator {json.dumps(separator)} is invalid; expected one ASCII character")
    try:
        source = reader(path, fields, batch_rows, separator)
    except _FAULTS as error:
        raise _named(path, error) from None
    if len(set(source.names)) < len(source.names):
        twice = next(name for name in source.names if source.names.count(name) > 1)
        raise RowFileError(f'{path}: has two columns called "{twice}"')
    return replace(source, batches=_reporting(path, source, fields))


def _open_csv(path: Path, fields: Sequence[Field], batch_rows: int, separator: str | None) -> RowSource:
    headers = [(one, header) for one in separator or SEPARATORS for header in islice(read_records(path, one), 1)]
    if not headers:
        raise RowFileError("has no header")
    inputs = {field.name for field in fields}
    # That which makes its cells the most like the inputs.
    separator, header = max(headers, key=lambda one: (len(inputs.intersection(one[1][1])), len(one[1][1])))
    line, names = header
    if not is_unicode("".join(names)):
        raise RowFileError(f"line {line}: is not UTF-8")
    file = pa.OSFile(str(path))
    size = max(file.size(), 1)
    table = CsvTable(path, separator, header, fields)
    batches = (part for batch in table.batches(file) for part in _parts(batch, batch_rows))
    return RowSource(names, batches, None, lambda: min(file.tell() / size, 1.0))


def _open_parquet(path: Path, fields: Sequence[Field], batch_rows: int, __: str | None) -> RowSource:
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names

    def batches() -> Iterator[pa.RecordBatch]:
        inputs = [field for field in fields if field.name in names]
        before = 0
        for batch in file.iter_batches(batch_rows):
            faults = Faults()
            fitting = conform(batch.select([field.name for field in inputs]), inputs, faults)
            try:
                faults.raise_any()
            except InvalidInput as error:
                raise refused(error, inputs, _rows_after(before)) from None
            before += batch.num_rows
            # Without what marks the text of a value of any type: it is kept as the file has it.
            typed = pa.RecordBatch.from_arrays(caller_batch(fitting).columns, names=fitting.schema.names)
            yield in_order(names, typed, dict(zip(names, batch.columns, strict=True)))

    return RowSource(names, batches(), file.metadata.num_rows, None, is_arrow=True)


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

    return RowSource(names, batches(), None, lambda: min(lines.tell() / size, 1.0) if not lines.closed else 1.0)


def _rows_after(before: int) -> Places:
    return lambda rows: {row: f"row {before + row + 1}" for row in rows}


Record = tuple[str, Mapping[str, object]]
"""A row, and where it stands in its file."""


def _array(text: bytes) -> Iterator[Record]:
    for number, row in enumerate(read_json(text), 1):
        yield _record(f"record {number}", row)


def _lines(lines: Iterator[bytes]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"line {number}"
            try:
                row = read_json(line)
            except ValueError as error:
                raise RowFileError(f"{place}: is not JSON ({_one_line(error)})") from None
            yield _record(place, row)


def _record(place: str, row: object) -> Record:
    if not isinstance(row, dict):
        raise RowFileError(f"{place}: is not a record; expected an array of records, or a record a line")
    return place, row


def _from_records(part: Sequence[Record], names: Sequence[str], fields: Sequence[Field]) -> pa.RecordBatch:
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
        raise refused(error, fields, lambda rows: {row: part[row][0] for row in rows}) from None
    kept = {name: _keep(name, [row.get(name) for row in records]) for name in names if name not in wanted}
    return in_order(names, typed, kept)


def _keep(name: str, values: list[object]) -> pa.Array:
    try:
        # Again as JSON: a decimal becomes the double that tells it.
        return pa.array(json.loads(json.dumps(values, default=_double)))
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise RowFileError(f"column {quoted(name)} can't be kept beside the scores: {_one_line(error)}") from None


def _double(value: Decimal) -> float:
    double = decimal_double(value, np.dtype(np.float64))
    if double is None:
        raise ValueError(f"{value} {INEXACT_DECIMAL}")
    return double


def _parts(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _reporting(path: Path, source: RowSource, fields: Sequence[Field]) -> Iterator[pa.RecordBatch]:
    """Yield the parts; one without rows where there are none, so that the columns are checked and answered too."""
    rows = None
    try:
        for rows in source.batches:
            yield rows
        if rows is None:
            inputs = [field for field in fields if field.name in source.names]
            typed = batch_from_rows({field.name: [] for field in inputs}, inputs)
            yield in_order(source.names, typed, {name: pa.nulls(0) for name in source.names})
    except _FAULTS as error:
        raise _named(path, error) from None


def _named(path: Path, error: Exception) -> RowFileError:
    """Put the file's name before what is wrong with it, on each line of that."""
    lines = str(error).splitlines() if isinstance(error, RowFileError) else [_one_line(error)]
    return RowFileError("\n".join(f"{path}: {line}" for line in lines))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
