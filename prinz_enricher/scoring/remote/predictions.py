"""What a model server answers, as a record batch of the declared outputs; and what its errors mean.

MLflow writes whatever a model returned as JSON: an array as nested lists, a DataFrame as a list of records, a Series as
one of records with a single key, all else as it is. So JSON does not tell a Series from a DataFrame of one column, nor
a DataFrame from a list of dicts, nor an array of rows from a list of arrays. `prinz_enricher.worker.answers` decides
what belongs to which row and output, as in a worker; of what JSON does not tell, it takes what fits the outputs.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, Literal

import pyarrow as pa

from prinz_enricher.batch.layout import record_batch
from prinz_enricher.errors import OutputMismatch
from prinz_enricher.ipc.faults import OutputDiffers
from prinz_enricher.scoring.remote.prediction_values import output_array
from prinz_enricher.signature import Signature, output_schema
from prinz_enricher.worker.answers import AnswerReader


class NotPredictions(Exception):
    """An answer holds no predictions at all, so it is none of a model server; the text is one sentence."""


def decode(
    content: bytes,
    target_name: str,
    version: str,
    signature: Signature,
    rows: int,
    answers: AnswerReader | None = None,
) -> pa.RecordBatch:
    """Read an answer.

    Args:
        content: JSON with `predictions`, as MLflow writes it: with the tokens `NaN`, `Infinity` and `-Infinity`.
        target_name: The model's name, for messages.
        version: Its version, for messages.
        signature: Of the model.
        rows: How many rows were sent.
        answers: Of `answer_reader`, where it is kept for the next answers of the model.

    Returns:
        As many rows, of exactly the output schema of the signature.

    Raises:
        OutputMismatch: The predictions are something else than was declared; the message holds no data.
        NotPredictions: The content is no JSON, or has no predictions.
    """
    reader = answers or answer_reader(signature)
    try:
        columns = reader.columns(_predictions(content), rows)
        arrays = [output_array(values, field) for values, field in zip(columns, signature.outputs, strict=True)]
    except OutputDiffers as exc:
        raise OutputMismatch(target_name, version, str(exc)) from exc
    return record_batch(arrays, output_schema(signature), rows)


def _predictions(content: bytes) -> object:
    try:
        answer = json.loads(content.decode(), object_pairs_hook=_unique, parse_float=_finite)
    except (json.JSONDecodeError, UnicodeDecodeError) as exc:
        raise NotPredictions("The answer is no JSON.") from exc
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


def answer_reader(signature: Signature) -> AnswerReader:
    """Return what takes the predictions of a model apart: it keeps what they show of the model's form.

    Args:
        signature: Of the model.
    """
    schema = output_schema(signature)
    # Outputs without names were given these when the signature was read.
    named = schema.names != [f"output_{place}" for place in range(len(schema))]
    required = [field.name for field in signature.outputs if field.required]
    return AnswerReader(schema, named=named, required=required if named else (), json=True)


def observed_outputs(content: bytes) -> str | None:
    """Return the outputs of an answer as they would be declared: MLflow's JSON of a schema; None where none show.

    Args:
        content: As `decode` takes it.
    """
    try:
        predictions: Any = _predictions(content)
    except (NotPredictions, OutputDiffers):
        return None
    if isinstance(predictions, dict):
        if any(isinstance(value, list) for value in predictions.values()):
            # Of one row, or columns: nothing tells.
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
