"""What each answer must be: scores of as many rows, or an error of the contract that tells no data of the caller."""

from __future__ import annotations

from typing import Any

import grpc
import pyarrow as pa
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import DOMAIN, EnricherError
from tests.fuzz.models import RAISES
from tests.fuzz.questions import MARK, MESSAGES, PACKAGE, Question

MAX_METADATA = 8 * 1024
"""Bytes of metadata that gRPC's clients take, by the count of HTTP/2: 32 for each entry, beside its name and value."""

DATA = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        "Value.string_value",
        "Value.bytes_value",
        "StringValues.values",
        "BytesValues.values",
        "Column.validity",
        "DenseBatch.values",
        "ScoreRequest.arrow_stream",
        "ScoreRequest.request_id",
        "ScoreRequest.signature_digest",
        "ListModelsRequest.page_token",
    )
)
"""Fields of callers' data. All other text names something, and may be named in an error that is about it."""

RESPONSES: dict[str, type[Message]] = {
    "Score": pb.ScoreResponse,
    "GetSignature": pb.GetSignatureResponse,
    "ListModels": pb.ListModelsResponse,
}


def _reasons(kind: type[EnricherError]) -> dict[str, int]:
    found = {kind.reason: int(kind.code)}
    for derived in kind.__subclasses__():
        found |= _reasons(derived)
    return found


REASONS = _reasons(EnricherError)


class Malformed(AssertionError):
    """An answer is not what the contract says."""


def _must(held: bool, what: str) -> None:
    if not held:
        raise Malformed(what)


def check(question: Question, outcome: bytes | grpc.RpcError) -> str:
    """Check an answer.

    Returns:
        Its code and reason.

    Raises:
        Malformed: It is none that the contract has.
    """
    if isinstance(outcome, bytes):
        _check_response(question, outcome)
        return f"{question.method} OK"
    return f"{question.method} {_check_error(question, outcome)}"


def _check_response(question: Question, outcome: bytes) -> None:
    try:
        response = RESPONSES[question.method].FromString(outcome)
    except DecodeError:
        raise Malformed("the response can't be read") from None
    if isinstance(response, pb.ScoreResponse):
        wanted = _rows(pb.ScoreRequest.FromString(question.data))
        _must(_rows(response) == wanted, f"the response has other rows than the request's {wanted}")


def _rows(message: Any) -> int:
    if message.HasField("columns"):
        rows: int = message.columns.num_rows
        for column in message.columns.columns if isinstance(message, pb.ScoreResponse) else ():
            held = len(getattr(column, column.WhichOneof("values")).values)
            _must(held == rows, f"a column of the response has {held} values, wanted {rows}")
        return rows
    if message.HasField("dense"):
        return int(message.dense.num_rows)
    with pa.ipc.open_stream(message.arrow_stream) as reader:
        return sum(batch.num_rows for batch in reader)


def _check_error(question: Question, error: grpc.RpcError) -> str:
    trailers: Any = error.trailing_metadata()
    metadata = [(str(key), value) for key, value in trailers or ()]
    found = [value for key, value in metadata if key == "grpc-status-details-bin"]
    _must(len(found) == 1, f"{error.code()} without details: {error.details()}")
    status = status_pb2.Status.FromString(found[0])
    _must(status.code == error.code().value[0] and status.message == error.details(), "the details differ")
    info = error_details_pb2.ErrorInfo()
    _must(bool(status.details) and status.details[0].Unpack(info), "the first detail is no ErrorInfo")
    _must(info.domain == DOMAIN and REASONS.get(info.reason) == status.code, f"{error.code()} with {info.reason}")
    _must(status.code != grpc.StatusCode.INTERNAL.value[0] or _may_fail(question, info.reason), f"{status.message}")
    # Binary values travel as base64.
    size = sum(
        32 + len(key) + (len(value) * 4 // 3 + 4 if isinstance(value, bytes) else len(value.encode()))
        for key, value in metadata
    )
    _must(size + 3 * len(status.message.encode()) <= MAX_METADATA, f"metadata of {size} bytes")
    shown = str(status).encode() + found[0]
    _must(b"Traceback" not in shown, "a traceback")
    _must(MARK.encode() not in shown or _names_hold_mark(question), f"the caller's data: {status.message}")
    return f"{error.code().name}/{info.reason}"


def _may_fail(question: Question, reason: str) -> bool:
    request = pb.ScoreRequest.FromString(question.data) if question.method == "Score" else None
    return request is not None and request.model.name == RAISES and reason == "MODEL_ERROR"


def _names_hold_mark(question: Question) -> bool:
    """Tell whether damage has put the mark into a name, where it may be repeated."""
    try:
        request = MESSAGES[question.method].FromString(question.data)
    except DecodeError:
        return False
    if isinstance(request, pb.ScoreRequest) and request.HasField("arrow_stream"):
        try:
            shown = str(pa.ipc.read_schema(pa.py_buffer(request.arrow_stream)))
        except (pa.ArrowException, OSError, ValueError):
            shown = ""
        # The keys of maps are names within a path, and damaged offsets may make any text a key.
        if MARK in shown or "map<" in shown:
            return True
    return _holds_mark(request)


def _holds_mark(message: Any) -> bool:
    for field, value in message.ListFields():
        if field.full_name in DATA:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"].message_type is not None
            if any(MARK in key or (inner and _holds_mark(value[key])) for key in value):
                return True
        elif field.message_type is not None:
            if any(_holds_mark(one) for one in (value if field.is_repeated else [value])):
                return True
        elif MARK in str(value):
            return True
    return False
