"""What a model server answers, as a record batch of the declared outputs; and what its errors mean.

MLflow writes whatever a model returned as JSON: an array as nested lists, a DataFrame as a list of records, a Series as
one of records with a single key, all else as it is. So JSON does not distinguish a Series from a DataFrame of one
column, nor a DataFrame from a list of dicts, nor an array of rows from a list of arrays. `worker.answers` decides what
belongs to which row and output, as in a worker; where JSON is ambiguous, it takes what fits the outputs.

Each value is kept unchanged, or the answer refused, as by a worker (`prinz_enricher.worker.outputs`), as far as JSON
says what the model returned: it has no binary, which is base64 text, and no instants, which are ISO-8601 text.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.batch.coerce_values import value_name
from prinz_enricher.batch.layout import record_batch
from prinz_enricher.batch.primitive_arrays import NotAnInstant, coerce_number, parse_instant
from prinz_enricher.batch.violation import FieldPath, Violations, type_name
from prinz_enricher.errors import OutputMismatch
from prinz_enricher.ipc.faults import OutputDiffers, ValueMissing
from prinz_enricher.signature.arrow import arrow_field, output_schema
from prinz_enricher.signature.types import AnyValue, Field, ListOf, MapOf, Record, Signature, Tensor, Type
from prinz_enricher.signature.value import MAX_DEPTH
from prinz_enricher.worker.answers import AnswerReader

_NULL: Final = type(None)
_PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class NotPredictions(Exception):
    """An answer holds no predictions at all, so no model server gave it; the text is one sentence."""


def decode(
    content: bytes, target_name: str, version: str, signature: Signature, rows: int, answers: AnswerReader | None = None
) -> pa.RecordBatch:
    """Read the answer to some rows: as many, of exactly the output schema of the signature.

    It is JSON with `predictions`, as MLflow writes it: with the tokens `NaN`, `Infinity` and `-Infinity`. `answers` is
    of `answer_reader`, where it is kept for the next answers of the model.

    Raises:
        OutputMismatch: The predictions are something else than was declared; the message holds no data.
        NotPredictions: The content is not JSON, or has no predictions.
    """
    reader = answers or answer_reader(signature)
    try:
        columns = reader.columns(_predictions(content), rows)
        arrays = [_output(values, field) for values, field in zip(columns, signature.outputs, strict=True)]
    except OutputDiffers as exc:
        raise OutputMismatch(target_name, version, str(exc)) from exc
    return record_batch(arrays, output_schema(signature), rows)


def answer_reader(signature: Signature) -> AnswerReader:
    """Return what divides the predictions of a model among rows and outputs; it keeps what they show of their form."""
    schema = output_schema(signature)
    # Outputs without names were given these when the signature was read.
    named = schema.names != [f"output_{place}" for place in range(len(schema))]
    required = [field.name for field in signature.outputs if field.required]
    return AnswerReader(schema, named=named, required=required if named else (), json=True)


def _predictions(content: bytes) -> object:
    try:
        answer = json.loads(content.decode(), object_pairs_hook=_unique, parse_float=_finite)
    except (json.JSONDecodeError, UnicodeDecodeError) as exc:
        raise NotPredictions("The answer is not JSON.") from exc
    except RecursionError as exc:
        raise OutputDiffers("the answer is nested too deep to be read") from exc
    except ValueError as exc:
        raise OutputDiffers("the answer has a whole number of thousands of digits") from exc
    if not isinstance(answer, dict) or "predictions" not in answer:
        raise NotPredictions("The answer has no predictions.")
    return answer["predictions"]


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    read = dict(pairs)
    if len(read) < len(pairs):
        raise OutputDiffers("the answer has an object with the same key twice")
    return read


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise OutputDiffers("the answer has a number that a double can't hold")
    return value


# The values of one output, column by column: of nested types, all elements are one column again.


def _output(values: Sequence[Any], field: Field) -> pa.Array:
    """Return values of JSON, one for each row, as an array of the declared output."""
    declared = arrow_field(field)
    if isinstance(field.type, AnyValue):
        return pa.array([_json(value, field.name) for value in values], declared.type)
    if not pa.types.is_nested(declared.type):
        # A row may be a list of its only output.
        values = [value[0] if value.__class__ is list and len(value) == 1 else value for value in values]
    try:
        return _column(values, field.type, declared.type, declared.nullable, field.name)
    except (pa.ArrowException, UnicodeError, OverflowError) as exc:
        raise OutputDiffers(f'"{field.name}" has a value that Arrow can\'t hold') from exc


def _column(values: Sequence[Any], type: Type, kind: pa.DataType, nullable: bool, name: str) -> pa.Array:
    floating, timestamp = pa.types.is_floating(kind), pa.types.is_timestamp(kind)
    classes = _classes(values)
    # pandas has NaN for what is missing in other columns than of numbers, and NaT in those of instants.
    nan = nullable and not floating and float in classes
    if _NULL in classes or nan or (timestamp and str in classes):
        missing = np.array([_is_missing(value, nan=nan, timestamp=timestamp) for value in values])
        if missing.any():
            if not nullable and not floating:
                raise ValueMissing(f'"{name}" has a value that is missing')
            present = [value for value, gone in zip(values, missing, strict=True) if not gone]
            array = _spread(_column(present, type, kind, nullable, name), missing)
            return array if nullable else array.fill_null(pa.scalar(math.nan, kind))
    if isinstance(type, AnyValue):
        return pa.array([_json(value, name) for value in values], kind)
    if pa.types.is_integer(kind) or floating:
        return _numbers(values, classes, type, kind, name)
    if pa.types.is_nested(kind):
        return _nested(values, classes, type, kind, name)
    if timestamp:
        # numpy's arrays of nanoseconds come as bare numbers; elsewhere a number may count anything.
        counted = isinstance(type, Tensor) and type.dtype == "datetime64[ns]"
        _check_classes(values, classes, {str, int} if counted else {str}, type_name(type), name)
        return pa.array([_instant(value, kind, name) for value in values], kind)
    _check_classes(values, classes, {bool if pa.types.is_boolean(kind) else str}, type_name(type), name)
    if pa.types.is_binary(kind):
        values = [_binary(value, name) for value in values]
    return pa.array(values, kind)


def _classes(values: Sequence[Any]) -> set[Any]:
    return set(map(type, values))


def _is_missing(value: object, *, nan: bool, timestamp: bool) -> bool:
    if value.__class__ is float:
        return nan and math.isnan(value)
    return value is None or (timestamp and value == "NaT")


def _spread(array: pa.Array, missing: npt.NDArray[np.bool_]) -> pa.Array:
    """Put nulls where values are missing."""
    return array.take(pa.array(np.cumsum(~missing) - 1, pa.int64(), mask=missing))


def _check_classes(values: Sequence[Any], classes: set[Any], taken: set[Any], wanted: str, name: str) -> None:
    if not classes <= taken:
        wrong = next(value for value in values if value.__class__ not in taken)
        raise OutputDiffers(f'"{name}" has a value that is {value_name(wrong)}, where {wanted} is declared')


def _numbers(values: Sequence[Any], classes: set[Any], type: Type, kind: pa.DataType, name: str) -> pa.Array:
    _check_classes(values, classes, {int, float}, type_name(type), name)
    if len(classes) == 2:
        # Apart, as one array of numpy would make doubles of whole numbers.
        whole = np.array([value.__class__ is int for value in values])
        parts = [
            _numbers([value for value in values if value.__class__ is one], {one}, type, kind, name)
            for one in (int, float)
        ]
        places = np.where(whole, np.cumsum(whole), np.cumsum(~whole) + whole.sum()) - 1
        return pa.concat_arrays(parts).take(pa.array(places))
    if float in classes:
        given = np.array(values, np.float64)
        if pa.types.is_integer(kind) and np.isnan(given).any():
            raise OutputDiffers(f'"{name}" has a number that is not whole, where {kind} is declared')
    else:
        try:
            given = np.array(values, np.int64)
        except OverflowError:
            if min(values) < 0 or max(values) >= 1 << 64:
                raise OutputDiffers(f'"{name}" has a whole number beyond 64 bits') from None
            given = np.array(values, np.uint64)
    faults = Violations()
    array = coerce_number(pa.array(given), kind, str(kind), True, FieldPath("", faults))
    if faults:
        raise OutputDiffers(f'"{name}" has a value that {faults.reported[0].description}')
    return array


def _nested(values: Sequence[Any], classes: set[Any], type: Type, kind: pa.DataType, name: str) -> pa.Array:
    match type:
        case Record():
            _check_classes(values, classes, {dict}, "an object", name)
            return _records(values, type, kind, name)
        case MapOf(items):
            _check_classes(values, classes, {dict}, "a map", name)
            keys = pa.array(list(chain.from_iterable(values)), pa.utf8())
            held = [item for value in values for item in value.values()]
            array = _column(held, items, kind.item_type, True, name)
            return pa.MapArray.from_arrays(_offsets(values), keys, array, type=kind)
        case Tensor(dtype, shape):
            items = Tensor(dtype, shape[1:])
        case ListOf(items):
            pass
    _check_classes(values, classes, {list}, "a list", name)
    fixed = pa.types.is_fixed_size_list(kind)
    if fixed and any(len(value) != kind.list_size for value in values):
        raise OutputDiffers(f'"{name}" has a list of another length than the declared {kind.list_size}')
    array = _column(list(chain.from_iterable(values)), items, kind.value_type, True, name)
    if fixed:
        return pa.FixedSizeListArray.from_arrays(array, type=kind)
    return pa.ListArray.from_arrays(_offsets(values), array, type=kind)


def _offsets(values: Sequence[Any]) -> pa.Array:
    return pa.array(np.cumsum([0, *map(len, values)]), pa.int32())


def _records(values: Sequence[Any], type: Record, kind: pa.DataType, name: str) -> pa.Array:
    known = {field.name for field in type.fields}
    needed = {field.name for field in type.fields if field.required}
    if any(value.keys() - known for value in values):
        raise OutputDiffers(f'"{name}" has a property that is not declared')
    if any(needed - value.keys() for value in values):
        raise OutputDiffers(f'"{name}" lacks a property that is declared')
    if not known:
        return pa.array(values, kind)
    children = []
    for field, child in zip(type.fields, kind, strict=True):
        held = child if field.required else child.type.field(0)
        absent = np.array([field.name not in value for value in values], np.bool_)
        given = [value[field.name] for value in values if field.name in value]
        array = _column(given, field.type, held.type, held.nullable, field.name)
        if not field.required:
            # An optional property is a struct of its value, so that it can be absent, too.
            array = _spread(pa.StructArray.from_arrays([array], fields=[held]), absent)
        children.append(array)
    return pa.StructArray.from_arrays(children, fields=list(kind))


def _instant(value: str | int, kind: pa.DataType, name: str) -> int:
    if isinstance(value, str):
        try:
            micros = parse_instant(value)
        except NotAnInstant as exc:
            raise OutputDiffers(f'"{name}" has text that {exc}') from None
        value, rest = divmod(int(micros) * _PER_SECOND[kind.unit], 10**6)
    else:
        rest = 0
    if rest or not -(1 << 63) < value < 1 << 63:
        raise OutputDiffers(f'"{name}" has a time that {kind} can\'t hold exactly')
    return value


def _binary(value: str, name: str) -> bytes:
    # MLflow breaks base64 into lines.
    text = value.replace("\n", "")
    try:
        held = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        held = b""
    if base64.b64encode(held).decode() != text:
        raise OutputDiffers(f'"{name}" has text that is not base64, where binary is declared')
    return held


def _json(value: object, name: str) -> str | None:
    if value is None:
        return None
    if not _is_shallow(value, MAX_DEPTH):
        raise OutputDiffers(f'"{name}" is nested deeper than {MAX_DEPTH} levels')
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise OutputDiffers(f'"{name}" has text that is not Unicode') from None
    return text


def _is_shallow(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return not isinstance(value, list) or (levels > 0 and all(_is_shallow(one, levels - 1) for one in value))


def observed_outputs(content: bytes) -> str | None:
    """Return the outputs of an answer as they would be declared: MLflow's JSON of a schema; None where none show."""
    try:
        predictions: Any = _predictions(content)
    except (NotPredictions, OutputDiffers):
        return None
    if isinstance(predictions, dict):
        if any(isinstance(value, list) for value in predictions.values()):
            # Of one row, or columns: it may be either.
            return None
        columns = {name: [value] for name, value in predictions.items()}
    elif isinstance(predictions, list) and predictions and all(isinstance(row, dict) for row in predictions):
        columns = {name: [row.get(name) for row in predictions] for row in predictions for name in row}
    else:
        columns = {"": predictions if isinstance(predictions, list) else [predictions]}
    outputs = [
        {**_observed_type(values), **({"name": name} if name else {}), "required": None not in values or not name}
        for name, values in columns.items()
    ]
    return json.dumps(outputs) if outputs else None


def _observed_type(values: list[Any]) -> dict[str, object]:
    kinds = {type(value) for value in values if value is not None}
    for names, name in (({bool}, "boolean"), ({int}, "long"), ({int, float}, "double"), ({str}, "string")):
        if kinds and kinds <= names:
            return {"type": name}
    if kinds == {list}:
        return {"type": "array", "items": _observed_type([one for value in values if value for one in value])}
    return {"type": "any"}


ErrorKind = Literal["invalid_input", "model_error", "unknown"]

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


def decode_error(status: int, content: bytes) -> tuple[ErrorKind, str]:
    """Return whose fault an answer with HTTP status 400 or more is, and the exception, by MLflow's JSON if it is that.

    `invalid_input` if the server refuses the rows or parameters; `model_error` if the model raised an exception, with
    the name of its type, else `unknown`. Nothing of the message, which repeats the data.
    """
    try:
        error = json.loads(content.decode())
    except (ValueError, RecursionError):
        error = None
    message = error.get("message") if isinstance(error, dict) else None
    if status in {401, 403, 404} or not isinstance(message, str):
        return "unknown", UNKNOWN
    if message.startswith(_MODEL_RAISED):
        trace = error.get("stack_trace")
        return "model_error", _exception_name(trace) if isinstance(trace, str) else UNKNOWN
    if message.startswith(_REFUSED) or error.get("error_class") == "SCHEMA_ENFORCEMENT_FAILED":
        return "invalid_input", UNKNOWN
    if message.startswith(_PREDICT_FAILED):
        # MLflow's own exceptions pass through the server: those of its checks, and those that a model raises.
        refused = _SCHEMA in message or "\nError: Invalid parameters found" in message
        return ("invalid_input", UNKNOWN) if refused else ("model_error", "MlflowException")
    return "unknown", UNKNOWN


def _exception_name(trace: str) -> str:
    # The first line without an indent after the frames. Those after it are of the message, which may hold data.
    chained = list(_CHAINED.finditer(trace))
    _, found, frames = ("", _TRACEBACK, trace[chained[-1].end() :]) if chained else trace.rpartition(_TRACEBACK)
    for line in frames.strip("\n").split("\n") if found else ():
        if not line.startswith(" "):
            name = _EXCEPTION.match(line)
            return name[1] if name else UNKNOWN
    return UNKNOWN
