"""A CSV file, read by Arrow in blocks of text; faults are then located line by line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from prinz_enricher.batch import Faults, batch_from_rows
from prinz_enricher.batch.any_json import is_unicode
from prinz_enricher.batch.faults import quoted
from prinz_enricher.cli.row_values import (
    ALIKE,
    EQUAL,
    TEXT,
    Kept,
    RowFileError,
    join_columns,
    keep_cells,
    read_cells,
    row_error,
)
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import Field

_MOST_SHOWN: Final = 40
"""Characters of a cell that are repeated in an error."""

Record = tuple[int, list[str]]
"""The line on which a record begins, and its cells."""


def read_records(path: Path, separator: str) -> Iterator[Record]:
    """Read a file as Arrow does, the header first: an empty line is a cell of a single column, and nothing of several.

    Raises:
        csv.Error: A cell is larger than 1 GB.
    """
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=separator)
        before, columns = 0, 0
        for record in reader:
            if record or columns == 1:
                yield before + 1, record or [""]
                columns = columns or len(record)
            before = reader.line_num


class CsvTable:
    """A CSV file in UTF-8 with a header; the model's inputs among its columns are read in their types."""

    def __init__(self, path: Path, separator: str, header: Record, fields: Sequence[Field]) -> None:
        self._path = path
        self._separator = separator
        self._header_line, self._names = header
        self._inputs = [field for field in fields if field.name in self._names]
        # A model without a signature gets all columns.
        self._as_kept = ALIKE if fields else EQUAL
        self._kept: dict[str, Kept] = {}

    def batches(self, file: Any) -> Iterator[pa.RecordBatch]:
        """Yield the rows in blocks; `file` is the same file, opened.

        Raises:
            RowFileError: With the faults of a block.
        """
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
            raise RowFileError(self._broken_line() or " ".join(str(error).split())) from None

    def _read(self, block: pa.RecordBatch, before: int) -> pa.RecordBatch:
        faults = Faults()
        columns = dict(zip(self._names, block.columns, strict=True))
        try:
            typed = {field.name: read_cells(columns[field.name], field, faults) for field in self._inputs}
            faults.raise_any()
            fitting = batch_from_rows(typed, self._inputs)
        except InvalidInput as error:
            raise row_error(
                error,
                self._inputs,
                lambda rows: {row: f"line {line}" for row, line in self._lines(rows, before).items()},
                lambda name, row: _shown(columns[name][row].as_py()),
            ) from None
        kept = {name: self._keep(name, cells, before) for name, cells in columns.items() if name not in typed}
        return join_columns(self._names, fitting, kept)

    def _keep(self, name: str, cells: pa.Array, before: int) -> pa.Array:
        kept = self._kept.get(name)
        if kept is None:
            # No value at all is text, too.
            of = (TEXT,) if cells.null_count == len(cells) else self._as_kept
            kept = self._kept[name] = next(one for one in of if keep_cells(cells, one) is not None)
        array = keep_cells(cells, kept)
        if array is None:
            row = pc.index(pc.match_substring_regex(cells, kept[0]), value=False).as_py()
            line, shown = self._lines([row], before)[row], _shown(cells[row].as_py())
            raise RowFileError(
                f"line {line}, column {quoted(name)}: {shown} can't be kept beside the numbers of the first rows"
            )
        return array

    # What follows reads the file once more, from its beginning.

    def _lines(self, rows: Sequence[int], before: int) -> Mapping[int, int]:
        """Find the lines of rows, which are counted from one in the file, `before`."""
        if not rows:
            return {}
        records = enumerate(islice(read_records(self._path, self._separator), 1 + before, 2 + before + max(rows)))
        return {row: line for row, (line, _) in records if row in rows}

    def _broken_line(self) -> str | None:
        """Say what is wrong with the first line that Arrow can't read."""
        for line, record in read_records(self._path, self._separator):
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
