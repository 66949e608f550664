"""MLflow's scoring protocol: its forms of rows, and predictions as its server writes them.

Extra columns are ignored, as the protocol has it, and named in a header. What MLflow's server would change in silence,
such as 3.7 for a whole number, is refused as everywhere.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from prinz_enricher.batch import decode_stream, encode_columns
from prinz_enricher.batch.json_answers import PYTHON, json_values, write
from prinz_enricher.batch.json_rows import columns_of, parse_json
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import InvalidRequest
from prinz_enricher.fronts.http.parquet import AT_OTHER_PLACES, PARQUET, ParquetReader
from prinz_enricher.fronts.http.row_template import Answer
from prinz_enricher.fronts.http.score_exchange import Asked, ScoreForm, objects
from prinz_enricher.signature import AnyValue, Scalar, ScalarKind, Signature, Type

CSV: Final = "text/csv"

_FORMS: Final = ("dataframe_split", "dataframe_records", "instances", "inputs")
_TEXTS: Final = {ScalarKind.STRING, ScalarKind.BINARY, ScalarKind.DATETIME}
_BOOLEANS: Final = {"true": True, "false": False, "True": True, "False": False}
_NUMBER: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_MOST_NAMED: Final = 20
"""Ignored columns that the header names."""

_Columns = dict[str, list[object]]


class InvocationsForm(ScoreForm):
    """`dataframe_split`, `dataframe_records`, `instances`, `inputs`, CSV or Parquet, and `{"predictions": …}`."""

    def __init__(self, parquet: ParquetReader, max_bytes: int, max_rows: int) -> None:
        """Have Parquet read, of so many bytes and rows at most."""
        self._parquet, self._max_bytes, self._max_rows = parquet, max_bytes, max_rows
        self._ignored: list[str] = []

    def read(self, body: bytes, media: str, query: bytes, signature: Signature) -> Asked:
        """Return the rows that the model takes of a body."""
        if media == PARQUET:
            return self._of_parquet(body, signature)
        params: Any = {}
        if media == CSV:
            columns, rows = _of_csv(body, signature)
        else:
            content = parse_json(body, tokens=True)
            found = [form for form in _FORMS if isinstance(content, dict) and form in content]
            if len(found) != 1:
                raise InvalidRequest("body", f"is not an object with one of {', '.join(_FORMS)}")
            params = content.get("params") or {}
            if not isinstance(params, dict):
                raise InvalidRequest("params", "is not an object")
            columns, rows = _read(found[0], content[found[0]], signature)
        known = {field.name for field in signature.inputs}
        if known:
            self._ignored = [name for name in columns if name not in known]
            columns = {name: values for name, values in columns.items() if name in known}
        return Asked(columns, rows, params)

    def _of_parquet(self, body: bytes, signature: Signature) -> Asked:
        names = [field.name for field in signature.inputs]
        by_place = bool(names) and names == _unnamed(len(names))
        stream, self._ignored = self._parquet.read(body, names, by_place=by_place, max_bytes=self._max_bytes)
        batch = decode_stream(stream, signature, self._max_rows, self._max_bytes)
        return Asked(rows=batch.num_rows, batch=encode_columns(batch, signature.inputs))

    def write(self, response: pb.ScoreResponse, signature: Signature) -> Answer:
        """Return the predictions: a list of values where the one output has no name, else of objects."""
        columns = response.columns.columns
        if len(columns) == 1 and columns[0].name == "output_0":
            predictions: Sequence[object] = json_values(columns[0], PYTHON)
        else:
            predictions = objects(response.columns, PYTHON)
        headers = f"Prinz-Model-Version: {quote(response.model.version)}\r\n"
        if self._ignored:
            names = ", ".join(quote(name[:200], safe=" ") for name in self._ignored[:_MOST_NAMED])
            more = len(self._ignored) - _MOST_NAMED
            headers += f"Prinz-Ignored-Columns: {names}{f', and {more} more' if more > 0 else ''}\r\n"
        return Answer(write({"predictions": predictions}).encode(), headers=headers.encode())


def _read(form: str, content: Any, signature: Signature) -> tuple[_Columns, int]:
    """Return the columns of a form of JSON, and the number of rows."""
    if form == "dataframe_split":
        return _of_split(content, signature)
    if form == "dataframe_records" or (isinstance(content, list) and content and isinstance(content[0], dict)):
        columns, rows = columns_of(content, form)
        return columns, rows
    if isinstance(content, dict):
        if not all(isinstance(values, list) for values in content.values()):
            raise InvalidRequest(form, "is an object with a value that is not a list")
        return _same_length(content, form)
    if not isinstance(content, list):
        raise InvalidRequest(form, "is neither a list nor an object")
    if len(signature.inputs) != 1:
        raise InvalidRequest(form, "has values without names, but the model has not one input")
    return {signature.inputs[0].name: content}, len(content)


def _same_length(columns: Mapping[str, list[object]], form: str) -> tuple[_Columns, int]:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise InvalidRequest(form, "has columns of several lengths")
    return dict(columns), next(iter(lengths), 0)


def _of_split(content: Any, signature: Signature) -> tuple[_Columns, int]:
    form = "dataframe_split"
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list) or not all(isinstance(row, list) for row in data):
        raise InvalidRequest(form, 'is not an object with "data", a list of lists')
    names = content.get("columns")
    if names is None:
        names = list(range(len(data[0]) if data else len(signature.inputs)))
    if not isinstance(names, list) or any(len(row) != len(names) for row in data):
        raise InvalidRequest(form, "has rows that are not as long as its columns")
    known = [field.name for field in signature.inputs]
    texts = [str(name) for name in names]
    if len(texts) == len(known) and known == _unnamed(len(known)) and texts != known:
        # Inputs without names are taken by their places.
        if not set(texts).isdisjoint(known):
            raise InvalidRequest(form, AT_OTHER_PLACES)
        texts = known
    columns: _Columns = {}
    for place, text in enumerate(texts):
        # A name may be there as a number and as a text, for servers that know one of them.
        if text in columns and isinstance(names[place], str) and names.count(names[place]) > 1:
            raise InvalidRequest(form, "has a column twice")
        columns[text] = [row[place] for row in data]
    return columns, len(data)


def _unnamed(count: int) -> list[str]:
    """Return what inputs without names are called."""
    return [f"input_{place}" for place in range(count)]


def _of_csv(body: bytes, signature: Signature) -> tuple[_Columns, int]:
    try:
        records = list(csv.reader(io.StringIO(body.decode(), newline=""), strict=True))
    except (csv.Error, UnicodeDecodeError):
        raise InvalidRequest("body", "is not CSV in UTF-8") from None
    names, *rows = [record for record in records if record] or [[]]
    if len(set(names)) < len(names) or any(len(row) != len(names) for row in rows):
        raise InvalidRequest("body", "has a column twice, or a line with more or fewer cells than the first one")
    types = {field.name: field.type for field in signature.inputs}
    cells = zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True)
    return {name: [_cell(cell, types.get(name, AnyValue())) for cell in column] for name, column in cells}, len(rows)


def _cell(text: str, type: Type) -> object:
    """Return the value of a cell; what is of another type stays text, which the service refuses."""
    if not text:
        return None
    if isinstance(type, Scalar):
        if type.kind in _TEXTS:
            return text
        if type.kind is ScalarKind.BOOLEAN:
            return _BOOLEANS.get(text, text)
        return parse_json(text.encode()) if _NUMBER.fullmatch(text) else text
    if isinstance(type, AnyValue) and text[:1] not in '[{"' and not _NUMBER.fullmatch(text):
        return _BOOLEANS.get(text, text)
    return parse_json(text.encode(), tokens=True)
