"""What a model server answers, as a record batch of the declared outputs; and what its errors mean.

MLflow writes whatever a model returned as JSON: an array as nested lists, a DataFrame as a list of records, a Series as
one of records with a single key, all else as it is. So JSON does not tell a Series from a DataFrame of one column, nor
a DataFrame from a list of dicts. Where a worker of our own (`prinz_enricher.worker.results`) decides by that, what fits
the declared outputs is taken.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import pyarrow as pa

from prinz_enricher.batch.element import value_name
from prinz_enricher.batch.layout import record_batch
from prinz_enricher.errors import OutputMismatch
from prinz_enricher.scoring.remote.prediction_values import Differs, output_array
from prinz_enricher.signature import AnyValue, Field, ListOf, MapOf, Record, Signature, Tensor, output_schema

Json = Mapping[str, Any]


class NotPredictions(Exception):
    """An answer holds no predictions at all, so it is none of a model server; the text is one sentence."""


def decode(content: bytes, target_name: str, version: str, signature: Signature, rows: int) -> pa.RecordBatch:
    """Read an answer.

    Args:
        content: JSON with `predictions`, as MLflow writes it: with the tokens `NaN`, `Infinity` and `-Infinity`.
        target_name: The model's name, for messages.
        version: Its version, for messages.
        signature: Of the model.
        rows: How many rows were sent.

    Returns:
        As many rows, of exactly the output schema of the signature.

    Raises:
        OutputMismatch: The predictions are something else than was declared; the message holds no data.
        NotPredictions: The content is no JSON, or has no predictions.
    """
    fields = signature.outputs
    try:
        columns = _Reader(fields, rows).columns(_predictions(content))
        arrays = [output_array(values, field) for values, field in zip(columns, fields, strict=True)]
    except Differs as exc:
        raise OutputMismatch(target_name, version, str(exc)) from exc
    return record_batch(arrays, output_schema(signature), rows)


def _predictions(content: bytes) -> object:
    try:
        answer = json.loads(content.decode(), object_pairs_hook=_unique, parse_float=_finite)
    except (json.JSONDecodeError, UnicodeDecodeError) as exc:
        raise NotPredictions("The answer is no JSON.") from exc
    except RecursionError as exc:
        raise Differs("the answer is nested too deep to be read") from exc
    except ValueError as exc:
        raise Differs("the answer has a whole number of thousands of digits") from exc
    if not isinstance(answer, dict) or "predictions" not in answer:
        raise NotPredictions("The answer has no predictions.")
    return answer["predictions"]


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    read = dict(pairs)
    if len(read) < len(pairs):
        raise Differs("the answer has an object with the same key twice")
    return read


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Differs("the answer has a number that a double can't hold")
    return value


class _Reader:
    """Takes predictions apart into one column for each output."""

    def __init__(self, fields: Sequence[Field], rows: int) -> None:
        self._fields = fields
        self._rows = rows
        self._names = [field.name for field in fields]
        # Outputs without names were given these when the signature was read.
        self._named = self._names != [f"output_{place}" for place in range(len(fields))]
        self._only = fields[0] if len(fields) == 1 else None

    def columns(self, predictions: Any) -> Sequence[list[object]]:
        """Give the values of each output, one for each row."""
        columns = self._columns(predictions)
        for values, name in zip(columns, self._names, strict=True):
            if not isinstance(values, list):
                raise Differs(f'"{name}" is {value_name(values)}, where one value a row is declared')
            if len(values) != self._rows:
                raise Differs(f'{len(values)} rows came back in "{name}" for {self._rows} rows')
        return columns

    def _columns(self, predictions: Any) -> Sequence[list[object]]:
        if not self._fields:
            return []
        if self._only is not None and isinstance(self._only.type, AnyValue) and not self._named:
            return [self._any_rows(predictions)]
        if isinstance(predictions, dict):
            return self._of_columns(predictions)
        if not isinstance(predictions, list):
            if self._rows != 1:
                raise Differs(f"one value came back for {self._rows} rows")
            predictions = [predictions]
        records = bool(predictions) and all(isinstance(row, dict) for row in predictions)
        if self._only is not None:
            return [self._of_records_only(predictions, self._only) if records else predictions]
        if records:
            return self._of_records(predictions)
        if all(isinstance(row, list) for row in predictions):
            if any(len(row) != len(self._fields) for row in predictions):
                raise Differs(f"rows of another length than the {len(self._fields)} outputs came back")
            return [[row[place] for row in predictions] for place in range(len(self._fields))]
        raise Differs(f"single values came back for {len(self._fields)} outputs")

    def _any_rows(self, predictions: Any) -> list[object]:
        """Give the rows of predictions that may be anything."""
        if isinstance(predictions, dict):
            lists = list(predictions.values())
            if lists and all(isinstance(one, list) and len(one) == self._rows for one in lists):
                return [dict(zip(predictions, row, strict=True)) for row in zip(*lists, strict=True)]
            return [predictions]
        if not isinstance(predictions, list):
            return [predictions]
        # A Series without a name, or a DataFrame whose one column is merely counted.
        if predictions and all(isinstance(row, dict) and list(row) == ["0"] for row in predictions):
            return [row["0"] for row in predictions]
        return predictions

    def _of_columns(self, result: dict[str, Any]) -> Sequence[list[object]]:
        """Give the outputs of an object with a list for each."""
        only = self._only
        if only is not None and self._rows == 1 and self._is_value(result, only):
            return [[result]]
        if self._named:
            if missing := [name for name in self._names if name not in result]:
                raise _missing(missing)
            chosen = [result[name] for name in self._names]
        elif len(result) == len(self._names):
            chosen = list(result.values())
        else:
            raise Differs(f"{len(result)} values came back for {len(self._names)} outputs")
        if self._rows == 1:
            # An object of bare values is one row.
            chosen = [values if isinstance(values, list | dict) else [values] for values in chosen]
        return chosen

    def _is_value(self, row: Json, only: Field) -> bool:
        """Whether an object is a value of the only output, and not a row of outputs by name."""
        holds_objects = isinstance(only.type, Record | MapOf | AnyValue)
        return holds_objects and not (self._named and list(row) == [only.name])

    def _of_records_only(self, records: Sequence[Json], only: Field) -> list[object]:
        """Give the only output of rows that are objects."""
        if self._is_value(records[0], only):
            key = _single_key(records)
            return [row[key] for row in records] if key is not None and _is_series(records, key, only) else [*records]
        if self._named and all(only.name in row for row in records):
            return [row[only.name] for row in records]
        names = list(records[0])
        if names and all(list(row) == names for row in records):
            if len(names) == 1 and not (_is_listed(only) and not isinstance(records[0][names[0]], list)):
                return [row[names[0]] for row in records]
            if _is_listed(only) and (not self._named or _is_counted(names)):
                return [list(row.values()) for row in records]
        return _by_name(records, only)

    def _of_records(self, records: Sequence[Json]) -> Sequence[list[object]]:
        """Give the outputs of rows that are objects: by name, or by place where the names are merely counted."""
        names = list(records[0])
        by_place = not self._named or _is_counted(names)
        if by_place and len(names) == len(self._names) and all(list(row) == names for row in records):
            if self._named and set(names) == set(self._names):
                names = self._names
            return [[row[name] for row in records] for name in names]
        return [_by_name(records, field) for field in self._fields]


def _single_key(records: Sequence[Json]) -> str | None:
    """Give the key that is the only one of each record."""
    keys = {key for row in records for key in row}
    return next(iter(keys)) if len(keys) == 1 and all(records) else None


def _is_series(records: Sequence[Json], key: str, only: Field) -> bool:
    """Whether records with a single key are a Series of objects, and not the objects."""
    match only.type:
        case Record(fields):
            return all(field.name != key for field in fields)
        case MapOf(values):
            return not isinstance(values, Record | MapOf | AnyValue) and all(
                row[key] is None or isinstance(row[key], dict) for row in records
            )
    return key == "0"


def _by_name(records: Sequence[Json], field: Field) -> list[object]:
    """Give one output of rows that are objects; an optional output may be absent."""
    if field.required and any(field.name not in row for row in records):
        raise _missing([field.name])
    return [row.get(field.name) for row in records]


def _is_counted(names: Sequence[str]) -> bool:
    return list(names) == [str(place) for place in range(len(names))]


def _is_listed(field: Field) -> bool:
    """Whether the values of a field are lists."""
    match field.type:
        case Tensor(_, shape):
            return len(shape) > 1
    return isinstance(field.type, ListOf)


def _missing(names: Sequence[str]) -> Differs:
    return Differs("it lacks the outputs " + ", ".join(f'"{name}"' for name in names[:5]))


Kind = Literal["invalid_input", "model_error", "unknown"]

UNKNOWN: Final = "unknown"

# How MLflow begins its messages, in all versions from 2 on.
_MODEL_RAISED: Final = "Encountered an unexpected error while evaluating the model"
_PREDICT_FAILED: Final = "Failed to predict data "
_REFUSED: Final = "Invalid input. "
_SCHEMA: Final = "\nError: Failed to enforce schema"

_TRACEBACK: Final = "Traceback (most recent call last):"
_CHAINED: Final = re.compile(
    r"\n\n(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):\n\n" + re.escape(_TRACEBACK)
)
_EXCEPTION: Final = re.compile(r"(?:[\w<>]+\.)*([^\W\d]\w{0,99})(?::|$)", re.ASCII)


def decode_error(status: int, content: bytes) -> tuple[Kind, str]:
    """Tell whose fault an error of a model server is.

    Args:
        status: The HTTP status of the answer, 400 or more.
        content: Its body: MLflow's JSON with `error_code` and `message`, or anything.

    Returns:
        `invalid_input` where the server refuses the rows or parameters; `model_error` where the model raised an
        exception, with the name of its type, else `unknown`. Nothing of the message, which repeats the data.
    """
    told = _error(content)
    message = told.get("message")
    if status in {401, 403, 404} or not isinstance(message, str):
        return "unknown", UNKNOWN
    if message.startswith(_MODEL_RAISED):
        trace = told.get("stack_trace")
        return "model_error", _exception_name(trace) if isinstance(trace, str) else UNKNOWN
    if message.startswith(_REFUSED) or told.get("error_class") == "SCHEMA_ENFORCEMENT_FAILED":
        return "invalid_input", UNKNOWN
    if message.startswith(_PREDICT_FAILED):
        # MLflow's own exceptions pass through the server: those of its checks, and those that a model raises.
        refused = _SCHEMA in message or "\nError: Invalid parameters found" in message
        return ("invalid_input", UNKNOWN) if refused else ("model_error", "MlflowException")
    return "unknown", UNKNOWN


def _error(content: bytes) -> dict[str, Any]:
    try:
        told = json.loads(content.decode())
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _exception_name(trace: str) -> str:
    """Give the type of the exception of a stack trace, which is the last line without an indent after its frames.

    The lines after that one are of the exception's message, which may hold data.
    """
    _, found, last = trace.strip("\n").rpartition(_TRACEBACK) if not _CHAINED.search(trace) else _last_of(trace)
    if not found:
        return UNKNOWN
    for line in last.strip("\n").split("\n"):
        if not line.startswith(" "):
            name = _EXCEPTION.match(line)
            return name[1] if name else UNKNOWN
    return UNKNOWN


def _last_of(trace: str) -> tuple[str, str, str]:
    end = [found.end() for found in _CHAINED.finditer(trace)][-1]
    return trace[:end], _TRACEBACK, trace[end:]
