"""Files of rows: read in parts, with each input in its declared type and every other column as it is."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from prinz_enricher.batch import batch_from_rows
from prinz_enricher.signature import AnyValue, Field, ListOf, MapOf, Record, Tensor, arrow_type

SEPARATORS = (",", ";", "\t", "|")


class RowFileError(Exception):
    """A file can't be read or written; the message says which and why."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """An opened file.

    Attributes:
        names: Its columns.
        batches: Yields its rows in parts.
        total: Rows in all; None where only reading tells.
        position: Returns how much of the file has been read, from 0 to 1; None where `total` is known.
    """

    names: list[str]
    batches: Iterator[pa.RecordBatch]
    total: int | None
    position: Callable[[], float] | None


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
    readers = {
        ".csv": _open_csv,
        ".tsv": _open_csv,
        ".parquet": _open_parquet,
        ".json": _open_json,
        ".jsonl": _open_json,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise RowFileError(f"{path}: the ending is none of {', '.join(readers)}")
    try:
        source = reader(path, fields, batch_rows, separator)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise RowFileError(f"{path}: {_one_line(error)}") from None
    if len(set(source.names)) < len(source.names):
        twice = next(name for name in source.names if source.names.count(name) > 1)
        raise RowFileError(f'{path}: has two columns called "{twice}"')
    return RowSource(source.names, _reporting(path, source.batches), source.total, source.position)


def find_separator(header: str, inputs: Sequence[str]) -> str:
    """Return the separator that makes the header's cells the most like the inputs' names."""

    def likeness(separator: str) -> tuple[int, int]:
        cells = next(csv.reader([header], delimiter=separator), [])
        return len(set(cells) & set(inputs)), len(cells)

    return max(SEPARATORS, key=likeness)


def _open_csv(path: Path, fields: Sequence[Field], batch_rows: int, separator: str | None) -> RowSource:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        header = lines.readline().rstrip("\r\n")
    if not header:
        raise RowFileError(f"{path}: has no header")
    separator = separator or find_separator(header, [field.name for field in fields])
    names = next(csv.reader([header], delimiter=separator))
    # Nested values and values of any type are written as JSON in a cell.
    nested = {field.name: field for field in fields if isinstance(field.type, _NESTED)}
    typed = {f.name: pa.string() if f.name in nested else _cell_type(f) for f in fields if f.name in names}
    file = pa.OSFile(str(path))
    size = max(file.size(), 1)
    reader = pacsv.open_csv(
        file,
        read_options=pacsv.ReadOptions(block_size=8 << 20),
        parse_options=pacsv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(column_types=typed),
    )
    batches = (_parse_nested(part, nested) for batch in reader for part in _parts(batch, batch_rows))
    return RowSource(names, batches, None, lambda: min(file.tell() / size, 1.0))


_NESTED = ListOf | MapOf | Record | AnyValue | Tensor


def _cell_type(field: Field) -> pa.DataType:
    """Return the type that a cell is read as: text of a number is a number only where one is declared."""
    return arrow_type(field.type)


def _parse_nested(batch: pa.RecordBatch, nested: Mapping[str, Field]) -> pa.RecordBatch:
    for name, field in nested.items():
        if name in batch.schema.names:
            values = [json.loads(text) if text else None for text in batch.column(name).to_pylist()]
            parsed = batch_from_rows({name: values}, [field])
            place = batch.schema.names.index(name)
            batch = batch.set_column(place, parsed.schema.field(0), parsed.column(0))
    return batch


def _open_parquet(path: Path, _: Sequence[Field], batch_rows: int, __: str | None) -> RowSource:
    file = pq.ParquetFile(path)
    return RowSource(file.schema_arrow.names, file.iter_batches(batch_rows), file.metadata.num_rows, None)


def _open_json(path: Path, fields: Sequence[Field], batch_rows: int, _: str | None) -> RowSource:
    size = max(path.stat().st_size, 1)
    lines = path.open("rb")
    first = next((line for line in iter(lambda: lines.read(1), b"") if line.strip()), b"")
    lines.seek(0)
    records = (
        iter(json.load(lines))
        if first == b"["
        else (json.loads(line) for line in iter(lines.readline, b"") if line.strip())
    )
    head = list(islice(records, batch_rows))
    names = list(dict.fromkeys(name for row in head for name in _record(row)))

    def batches() -> Iterator[pa.RecordBatch]:
        rows = head
        while rows:
            yield _from_records(rows, names, fields)
            rows = list(islice(records, batch_rows))
        lines.close()

    return RowSource(names, batches(), None, lambda: min(lines.tell() / size, 1.0) if not lines.closed else 1.0)


def _from_records(rows: Sequence[object], names: Sequence[str], fields: Sequence[Field]) -> pa.RecordBatch:
    records = [_record(row) for row in rows]
    if strange := {name for row in records for name in row} - set(names):
        raise RowFileError(f"a later record has columns that the first ones do not have: {', '.join(sorted(strange))}")
    inputs = [field for field in fields if field.name in names]
    known = {field.name for field in inputs}
    typed = batch_from_rows([{k: v for k, v in row.items() if k in known} for row in records], inputs)
    arrays = dict(zip(typed.schema.names, typed.columns, strict=True))
    columns = {name: arrays[name] if name in arrays else pa.array([row.get(name) for row in records]) for name in names}
    known_fields = {field.name: field for field in typed.schema}
    schema = pa.schema([known_fields.get(name, pa.field(name, array.type)) for name, array in columns.items()])
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)


def _record(row: object) -> Mapping[str, object]:
    if not isinstance(row, dict):
        raise RowFileError("is no array of records, nor a record a line")
    return row


def _parts(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _reporting(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except (OSError, pa.ArrowException, ValueError, RowFileError) as error:
        raise RowFileError(f"{path}: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
