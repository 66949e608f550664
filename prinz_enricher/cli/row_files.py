"""Files of rows: read in parts, each input in its declared type and every other column as it is; and written.

Arrow reads a CSV file in blocks of text, and whole columns of cells at once where it reads just what is meant. The
others are read cell by cell, as values that the service's coercion policy accepts or rejects. Violations are then
located line by line.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from prinz_enricher.batch import Violations, batch_from_rows, batch_to_rows, conform
from prinz_enricher.batch.arrow_stream import caller_batch
from prinz_enricher.batch.coerce_values import is_unicode
from prinz_enricher.batch.primitive_arrays import EXACT_BITS, decimal_double
from prinz_enricher.batch.violation import INEXACT_DECIMAL, column_path, quoted
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import AnyValue, Field, arrow_type

SEPARATORS: Final = ",;\t|"
_MOST_SHOWN: Final = 40
"""Characters of a cell that are repeated in an error."""
# What Arrow's reader and those of pandas and R read as a missing value, but in text.
_NULLS: Final = pa.array(pacsv.ConvertOptions().null_values)
_NUMBER: Final = re.compile(r"[+-]?(?:(\d+)|(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d{1,6})?)", re.ASCII)
_INFINITE: Final = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE | re.ASCII)
_BOOLEANS: Final = {"true": True, "false": False, "1": True, "0": False}
_EXACT: Final = 1 << EXACT_BITS[pa.float32()]
"""From here on a floating point type may lack a whole number."""

# To Arrow there is a year 0, and an hour needs no minutes.
_FIRST_INSTANT: Final = pa.scalar(datetime(1, 1, 1), pa.timestamp("us"))
_HOUR: Final = len("2024-01-01T10")

_Kept = tuple[str, pa.DataType]
"""The pattern of a column's cells, and the type they are kept as."""
_TEXT: Final[_Kept] = ("", pa.string())
_WHOLE: Final[_Kept] = ("^(0|-?[1-9][0-9]{0,17})$", pa.int64())
_ALIKE: Final[tuple[_Kept, ...]] = (
    _WHOLE,
    (r"^-?(0|[1-9][0-9]{0,7})(\.[0-9]{0,6}[1-9])?$", pa.float64()),
    (r"^-?(0|[1-9][0-9]{0,7})\.(0|[0-9]{0,6}[1-9])$", pa.float64()),
    _TEXT,
)
"""For columns kept beside scores: no two texts are one number, so `007` and 1.10 are text."""
_EQUAL: Final[tuple[_Kept, ...]] = (_WHOLE, (r"^-?(0|[1-9][0-9]{0,7})(\.[0-9]{1,7})?$", pa.float64()), _TEXT)
"""For columns of a model without a signature: 1.10 is a number, but `007` is not."""

_CsvRecord = tuple[int, list[str]]
"""The line on which a record begins, and its cells."""


class RowFileError(Exception):
    """A file can't be read or written; the message has a line for each fault, and says where it is."""


def _row_error(
    error: InvalidInput,
    fields: Sequence[Field],
    places: Callable[[Sequence[int]], Mapping[int, str]],
    cells: Mapping[str, pa.Array] | None = None,
) -> RowFileError:
    """Explain the faults of a part of a file by their places, such as `line 17, column "age": is not a whole number`.

    `error` has paths such as `columns["age"][3]`. `places` returns for rows of the part where they stand in the file,
    such as `line 17`. What stands in `cells`, the columns of the part, is repeated.
    """
    found = [_split_path(violation.field, fields) for violation in error.violations]
    where = places(sorted({value[1] for value in found if value}))
    lines = []
    for violation, value in zip(error.violations, found, strict=True):
        if value is None:
            lines.append(f"{violation.field}: {violation.description}")
        else:
            name, row, inner = value
            cell = _shown(cells[name][row].as_py()) if cells else ""
            shown = " ".join(one for one in (cell, violation.description) if one)
            lines.append(f"{where[row]}, column {quoted(name)}{inner and ', ' + inner}: {shown}")
    if error.omitted:
        lines.append(f"… and {error.omitted} more")
    return RowFileError("\n".join(lines))


def _split_path(path: str, fields: Sequence[Field]) -> tuple[str, int, str] | None:
    """Return the column, the row and the path within the value; None for a fault that is not one of a value."""
    for field in fields:
        if found := re.fullmatch(re.escape(column_path(field.name)) + r"\[(\d+)\](.*)", path):
            return field.name, int(found[1]), found[2].removeprefix(".")
    return None


def _join_columns(names: Sequence[str], typed: pa.RecordBatch, others: Mapping[str, pa.Array]) -> pa.RecordBatch:
    known = {field.name: field for field in typed.schema}
    fields = [known.get(name) or pa.field(name, others[name].type) for name in names]
    columns = [typed.column(name) if name in known else others[name] for name in names]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _read_records(path: Path, separator: str) -> Iterator[_CsvRecord]:
    """Read a file as Arrow does, header first: an empty line is a cell of a single column, and nothing of several."""
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=separator)
        before, columns = 0, 0
        for record in reader:
            if record or columns == 1:
                yield before + 1, record or [""]
                columns = columns or len(record)
            before = reader.line_num


class _CsvTable:
    """A CSV file in UTF-8 with a header; the model's inputs among its columns are read in their types."""

    def __init__(self, path: Path, separator: str, header: _CsvRecord, fields: Sequence[Field]) -> None:
        self._path = path
        self._separator = separator
        self._header_line, self._names = header
        self._inputs = [field for field in fields if field.name in self._names]
        # A model without a signature gets all columns.
        self._as_kept = _ALIKE if fields else _EQUAL
        self._kept: dict[str, _Kept] = {}

    def batches(self, file: Any) -> Iterator[pa.RecordBatch]:
        before = 0
        for block in self._blocks(file):
            yield self._read(block, before)
            before += block.num_rows

    def _blocks(self, file: Any) -> Iterator[pa.RecordBatch]:
        try:
            yield from pacsv.open_csv(
                file,
                read_options=pacsv.ReadOptions(block_size=8 << 20, skip_rows=self._header_line - 1),
                parse_options=pacsv.ParseOptions(
                    delimiter=self._separator, newlines_in_values=True, ignore_empty_lines=len(self._names) > 1
                ),
                convert_options=pacsv.ConvertOptions(
                    column_types=dict.fromkeys(self._names, pa.string()),
                    # An empty cell is a null; in quotes it is a text without characters.
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            raise RowFileError(self._broken_line() or _one_line(error)) from None

    def _read(self, block: pa.RecordBatch, before: int) -> pa.RecordBatch:
        faults = Violations()
        columns = dict(zip(self._names, block.columns, strict=True))
        try:
            typed = {field.name: _read_cells(columns[field.name], field, faults) for field in self._inputs}
            faults.raise_any()
            fitting = batch_from_rows(typed, self._inputs)
        except InvalidInput as error:
            raise _row_error(error, self._inputs, lambda rows: self._lines(rows, before), columns) from None
        kept = {name: self._keep(name, cells, before) for name, cells in columns.items() if name not in typed}
        return _join_columns(self._names, fitting, kept)

    def _keep(self, name: str, cells: pa.Array, before: int) -> pa.Array:
        kept = self._kept.get(name)
        if kept is None:
            # No value at all is text, too.
            of = (_TEXT,) if cells.null_count == len(cells) else self._as_kept
            kept = self._kept[name] = next(one for one in of if _keep_cells(cells, one) is not None)
        array = _keep_cells(cells, kept)
        if array is None:
            row = pc.index(pc.match_substring_regex(cells, kept[0]), value=False).as_py()
            line, shown = self._lines([row], before)[row], _shown(cells[row].as_py())
            text = f"{shown} can't be kept beside the numbers of the first rows"
            raise RowFileError(f"{line}, column {quoted(name)}: {text}")
        return array

    # What follows reads the file once more, from its beginning.

    def _lines(self, rows: Sequence[int], before: int) -> Mapping[int, str]:
        """Find the lines of rows, which are counted from one in the file, `before`; returns `line 17` and so on."""
        if not rows:
            return {}
        records = enumerate(islice(_read_records(self._path, self._separator), 1 + before, 2 + before + max(rows)))
        return {row: f"line {line}" for row, (line, _) in records if row in rows}

    def _broken_line(self) -> str | None:
        """Say what is wrong with the first line that Arrow can't read."""
        for line, record in _read_records(self._path, self._separator):
            if len(record) != len(self._names):
                return f"line {line}: has {len(record)} cells, but the header has {len(self._names)}"
            for name, cell in zip(self._names, record, strict=True):
                if not is_unicode(cell):
                    return f"line {line}, column {quoted(name)}: is not UTF-8"
        return None


def _shown(cell: str | None) -> str:
    """Return the beginning of a cell, in quotes; nothing for an empty one."""
    if cell is None:
        return ""
    return json.dumps(cell if len(cell) <= _MOST_SHOWN else cell[:_MOST_SHOWN] + "…", ensure_ascii=False)


def _read_cells(cells: pa.Array, field: Field, faults: Violations) -> pa.Array | list[object]:
    """Read a column of cells, which are text, or null where a cell is empty, as values of an input.

    A number is read as in JSON: a whole one exactly, a decimal as the nearest double. Values of nested types and of any
    type are JSON; what is not is added to `faults`. What can't be read as the field's type is left as text, for the
    policy to reject.
    """
    target = arrow_type(field.type)
    if isinstance(field.type, AnyValue) or pa.types.is_nested(target):
        return list(_from_json(cells, column_path(field.name), faults))
    if pa.types.is_string(target):
        return cells
    if pa.types.is_binary(target):
        return cells.cast(pa.binary())
    read = _at_once(cells, target)
    if read is None:
        cells = pc.ascii_trim(cells, characters=" \t")
        cells = pc.if_else(pc.is_in(cells, _NULLS), pa.scalar(None, pa.string()), cells)
        read = _at_once(cells, target)
    return [None if cell is None else _one(cell, target) for cell in cells.to_pylist()] if read is None else read


def _at_once(cells: pa.Array, target: pa.DataType) -> pa.Array | None:
    """Let Arrow read a column; None where it can't, or would accept more than is meant, such as 0x10 for 16."""
    if pa.types.is_integer(target):
        return _cast(cells, pa.int64(), b"0123456789-")
    if pa.types.is_boolean(target):
        return _cast(cells, pa.bool_(), b"01TRUEFALStruefals")
    if pa.types.is_floating(target):
        # As doubles in any case: the policy rounds and rejects as forevery other format.
        read = _cast(cells, pa.float64(), b"0123456789-+.eE")
        return None if read is None or _any(pc.greater_equal(pc.abs(read), float(1 << EXACT_BITS[target]))) else read
    read = _cast(cells, pa.timestamp("us"), b"0123456789-:.T ")
    if read is None or _any(pc.less(read, _FIRST_INSTANT)) or _any(pc.equal(pc.binary_length(cells), _HOUR)):
        return None
    return read


def _any(found: pa.Array) -> bool:
    return bool(pc.any(found).as_py())


def _cast(cells: pa.Array, type: pa.DataType, characters: bytes) -> pa.Array | None:
    _, offsets, text = cells.buffers()
    if text is not None and len(cells):
        begin, end = np.frombuffer(offsets, np.int32, len(cells) + 1, cells.offset * 4)[[0, -1]]
        if text.slice(begin, end - begin).to_pybytes().translate(None, characters):
            return None
    try:
        return cells.cast(type)
    except pa.ArrowInvalid:
        return None


def _one(cell: str, target: pa.DataType) -> object:
    if pa.types.is_boolean(target):
        return _BOOLEANS.get(cell.lower(), cell)
    number = _NUMBER.fullmatch(cell)
    if pa.types.is_floating(target):
        if number is None:
            return float(cell) if _INFINITE.fullmatch(cell) else cell
        value = _literal(cell)
        return int(value) if number[1] and isinstance(value, Decimal) else value
    return Decimal(cell) if number and pa.types.is_integer(target) else cell


def _from_json(cells: pa.Array, path: str, faults: Violations) -> Iterator[object]:
    for row, cell in enumerate(cells.to_pylist()):
        try:
            yield _parse_json(cell) if cell else None
        except ValueError:
            faults.add(f"{path}[{row}]", "is not JSON")
            yield None


def _parse_json(text: str | bytes) -> Any:
    """Parse JSON as `json.loads` does; a decimal that is whole and that a float may not hold is an exact `Decimal`."""
    try:
        return json.loads(text, parse_float=_literal)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _literal(text: str) -> float | Decimal:
    value = float(text)
    if abs(value) >= _EXACT:
        try:
            exact = Decimal(text)
        except ArithmeticError:
            raise ValueError("a number is beyond all bounds") from None
        if math.isinf(value) or exact == exact.to_integral_value():
            return exact
    return value


def _keep_cells(cells: pa.Array, kept: _Kept) -> pa.Array | None:
    """Convert cells to the type they are kept as; None where one of them does not match the pattern."""
    pattern, type = kept
    return cells.cast(type) if pc.all(pc.match_substring_regex(cells, pattern)).as_py() is not False else None


_FAULTS: Final = (OSError, pa.ArrowException, ValueError, csv.Error, RowFileError)
"""What reading a faulty file raises."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """An opened file: its columns, its rows in parts, and how much of it has been read, from 0 to 1.

    Where it `is_arrow`, its columns are Arrow's own, and text for a value of any type holds JSON.
    """

    names: list[str]
    batches: Iterator[pa.RecordBatch]
    position: Callable[[], float]
    is_arrow: bool = False


def open_rows(path: Path, fields: Sequence[Field], batch_rows: int, separator: str | None = None) -> RowSource:
    """Open a .csv, .tsv, .parquet, .json or .jsonl file (an array of records, or a record a line).

    `fields` are the inputs of the model, and a part has at most `batch_rows` rows. The separator of a CSV file is
    detected if it is None. Raises RowFileError if the file can't be read.
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
    headers = [(one, header) for one in separator or SEPARATORS for header in islice(_read_records(path, one), 1)]
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
    table = _CsvTable(path, separator, header, fields)
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
                raise _row_error(error, inputs, partial(_row_numbers, before + 1)) from None
            before += batch.num_rows
            # Without what marks the text of a value of any type: it is kept as the file has it.
            typed = pa.RecordBatch.from_arrays(caller_batch(fitting).columns, names=fitting.schema.names)
            yield _join_columns(names, typed, dict(zip(names, batch.columns, strict=True)))

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
    for number, row in enumerate(_parse_json(text), 1):
        yield _record(f"record {number}", row)


def _lines(lines: Iterator[bytes]) -> Iterator[_Record]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"line {number}"
            try:
                row = _parse_json(line)
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
        raise _row_error(error, fields, lambda rows: {row: part[row][0] for row in rows}) from None
    kept = {name: _keep(name, [row.get(name) for row in records]) for name in names if name not in wanted}
    return _join_columns(names, typed, kept)


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
            yield _join_columns(source.names, typed, {name: pa.nulls(0) for name in source.names})
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; the first ones set the columns. Raises RowFileError if they can't be written."""
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
