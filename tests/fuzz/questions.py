"""What the service is asked: bytes at random, messages by their descriptor, and real requests, whole or damaged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pyarrow as pa
from google.protobuf.message import Message
from hypothesis import strategies as st

from prinz_enricher.batch import batch_from_rows, encode_columns, encode_dense, encode_stream
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import value_pb2
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import Scalar, ScalarKind, Signature, Type
from prinz_enricher.signature.value import fill_value
from tests.batch.batch_strategies import fitting, value_for
from tests.fuzz.arrow_streams import streams
from tests.fuzz.damage import changes, damaged
from tests.fuzz.messages import Draw, binaries, integers, messages, texts
from tests.fuzz.models import MAX_ROWS, PENDING, UNREADABLE, signatures

MARK: Final = "kQ7-callers-own-data-"
"""Stands in the data of requests, and must not stand in an error."""

MESSAGES: Final[dict[str, type[Message]]] = {
    "Score": pb.ScoreRequest,
    "GetSignature": pb.GetSignatureRequest,
    "ListModels": pb.ListModelsRequest,
}
"""The requests of the methods that are asked."""


def _names(signature: Signature) -> list[str]:
    return [*(field.name for field in signature.inputs), *(param.name for param in signature.params)]


_models = st.sampled_from([*signatures(), UNREADABLE, PENDING])
_columns = st.sampled_from(sorted({name for one in signatures().values() for name in _names(one)}))
_rows = st.integers(0, 5) | st.sampled_from([-1, 2**31, 2**62, 2**63 - 1, -(2**63)])
_marked = texts.map(lambda text: MARK + text)
_marked_bytes = binaries.map(lambda data: MARK.encode() + data)

PACKAGE = "prinz.enricher.v1"
HINTS: Final = {
    f"{PACKAGE}.ModelRef.name": st.integers(0, 9).flatmap(lambda chance: texts if chance == 9 else _models),
    f"{PACKAGE}.ModelRef.version": st.sampled_from(["1"] * 6) | texts,
    f"{PACKAGE}.ModelRef.alias": st.just("champion") | texts,
    f"{PACKAGE}.ScoreRequest.ParamsEntry.key": _columns | texts,
    f"{PACKAGE}.ScoreRequest.outputs": _columns | texts,
    f"{PACKAGE}.ScoreRequest.request_id": _marked,
    f"{PACKAGE}.ScoreRequest.signature_digest": st.sampled_from([one.digest for one in signatures().values()])
    | _marked,
    f"{PACKAGE}.ScoreRequest.arrow_stream": _marked_bytes,
    f"{PACKAGE}.DenseBatch.values": binaries | _marked_bytes,
    f"{PACKAGE}.DenseBatch.num_rows": _rows,
    f"{PACKAGE}.ColumnBatch.num_rows": _rows,
    f"{PACKAGE}.Column.name": _columns | texts,
    f"{PACKAGE}.Column.validity": st.just(b"") | binaries,
    f"{PACKAGE}.Value.string_value": _marked,
    f"{PACKAGE}.Value.bytes_value": _marked_bytes,
    f"{PACKAGE}.StringValues.values": _marked,
    f"{PACKAGE}.BytesValues.values": _marked_bytes,
    f"{PACKAGE}.ListModelsRequest.page_token": st.just("") | _marked,
    f"{PACKAGE}.ListModelsRequest.filter": st.sampled_from(
        ["", 'name = "wide"', 'name LIKE "golden%"', 'tags.team = "fuzz" AND name LIKE "%1"', 'name LIKE "%%%%a%%%%"']
    )
    | texts,
    f"{PACKAGE}.ListModelsRequest.view": st.integers(0, 2) | integers,
}
"""Names that there are, so that not every call ends at its first check; and the mark in whatever is a caller's data."""


@dataclass(frozen=True, slots=True)
class Question:
    """One call.

    Attributes:
        method: The name of the RPC.
        data: Its request.
    """

    method: str
    data: bytes


def _by_descriptor(method: str) -> st.SearchStrategy[Question]:
    return messages(MESSAGES[method].DESCRIPTOR, HINTS).map(lambda data: Question(method, data))


@cache
def _fitting(type: Type, required: bool) -> st.SearchStrategy[Any]:
    return fitting(type, required)


@cache
def _near(type: Type, required: bool) -> st.SearchStrategy[Any]:
    return value_for(type, required)


def _with_mark(value: object) -> object:
    match value:
        case str():
            return MARK + value
        case list():
            return [_with_mark(one) for one in value]
        case dict():
            return {key: _with_mark(one) for key, one in value.items()}
    return value


def _score(draw: Draw) -> bytes:
    """Make a request for a model, of the types of its signature or of others."""
    name = draw(st.sampled_from(sorted(signatures())))
    signature = signatures()[name]
    rows = draw(st.integers(0, 4))
    request = pb.ScoreRequest(request_id=MARK)
    request.model.name = name
    if draw(st.booleans()):
        request.signature_digest = signature.digest
    if signature.params and draw(st.booleans()):
        for param in draw(st.lists(st.sampled_from(signature.params), max_size=4)):
            values = draw(st.lists(_near(param.type, False), max_size=3))
            _fill(request.params[param.name], values if param.shape or not values else values[0])
    if signature.inputs and draw(st.integers(0, 2)):
        try:
            _write(draw, request, signature, rows)
            return request.SerializeToString()
        except InvalidInput:
            pass
    request.columns.CopyFrom(_near_columns(draw, signature, rows))
    return request.SerializeToString()


def _write(draw: Draw, request: pb.ScoreRequest, signature: Signature, rows: int) -> None:
    present = [field for field in signature.inputs if field.required or draw(st.integers(0, 3)) == 0]
    columns = {field.name: _values(draw, field.type, field.required, rows) for field in present}
    batch = batch_from_rows(columns, signature.inputs)
    if batch.num_rows and draw(st.integers(0, 24)) == 24:
        # Requests of over 256 KiB are read in another way.
        batch = pa.concat_batches([batch] * (1 + draw(st.sampled_from([150_000, 300_000])) // (batch.nbytes + 1)))
        batch = batch.slice(0, MAX_ROWS)
    form = draw(st.integers(0, 6))
    dense = encode_dense(batch) if form == 0 else None
    if dense is not None:
        request.dense.CopyFrom(dense)
        request.signature_digest = signature.digest
    elif form == 1:
        request.columns.CopyFrom(encode_columns(batch, signature.inputs))
    elif form == 2:
        request.arrow_stream = encode_stream(batch).to_pybytes()
    else:
        request.arrow_stream = draw(streams(batch))


def _values(draw: Draw, type: Type, required: bool, rows: int) -> list[object]:
    values = draw(st.lists(_fitting(type, required), min_size=rows, max_size=rows))
    # Text where an instant is wanted would be refused for the mark.
    return values if type == Scalar(ScalarKind.DATETIME) else [_with_mark(value) for value in values]


def _near_columns(draw: Draw, signature: Signature, rows: int) -> value_pb2.ColumnBatch:
    message = value_pb2.ColumnBatch(num_rows=rows)
    for field in signature.inputs[:6]:
        column = message.columns.add(name=field.name)
        column.nested.SetInParent()
        for value in draw(st.lists(_near(field.type, field.required), min_size=rows, max_size=rows)):
            _fill(column.nested.values.add(), _with_mark(value))
    return message


def _fill(message: value_pb2.Value, value: object) -> None:
    try:
        fill_value(message, value)
    except ValueError:
        message.Clear()


requests: st.SearchStrategy[bytes] = st.composite(_score)()
_whole = requests.map(lambda data: Question("Score", data))
_damaged = st.builds(lambda data, done: Question("Score", damaged(data, done)), requests, changes)
_spliced = st.builds(lambda a, b, done: Question("Score", damaged(a, done, donor=b)), requests, requests, changes)
_random = st.builds(Question, st.sampled_from(sorted(MESSAGES)), st.binary(max_size=200))
_by_any_descriptor = st.sampled_from(["Score", "Score", "Score", "GetSignature", "ListModels"]).flatmap(_by_descriptor)

_kinds = (_random, _damaged, _spliced, *[_by_any_descriptor] * 4, *[_whole] * 7)

questions: st.SearchStrategy[Question] = st.sampled_from(_kinds).flatmap(lambda kind: kind)
"""Every kind of call."""
