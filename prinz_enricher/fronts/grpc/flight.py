"""Arrow Flight: `DoExchange` takes batches of rows for one model, and returns their scores in batches of that order.

Flight is gRPC with Arrow's messages in protobuf's (https://arrow.apache.org/docs/format/Flight.html), so the front
serves it as it serves `ScoreStream`: each batch becomes a `Score` call with an Arrow stream. What limits, checks, notes
and counts these does it here too, and no other library reads what a caller has sent.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
from google.protobuf import json_format
from google.rpc import status_pb2

from prinz_enricher.batch import arrow_messages as arrow
from prinz_enricher.batch.wire import BYTES, NotPlain, fields_of, prefix
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import InvalidRequest, OutputMismatch
from prinz_enricher.fronts.grpc.score_stream import MAX_MESSAGES, ScoreMessage, ScoreStream, StreamEnded
from prinz_enricher.service.status import to_status

MAX_COMMAND_BYTES: Final = 64 * 1024

# Of `Flight.proto`: fields of a FlightData, and of the FlightDescriptor in the first one.
_DESCRIPTOR, _HEADER, _BODY, _COMMAND = 1, 2, 1000, 2
_MAX_FIELDS: Final = 16

_ARROW_STREAM: Final = pb.ScoreRequest.DESCRIPTOR.fields_by_name["arrow_stream"].number
_MODEL: Final = pb.ScoreResponse.DESCRIPTOR.fields_by_name["model"].number
_ANSWER_STREAM: Final = pb.ScoreResponse.DESCRIPTOR.fields_by_name["arrow_stream"].number


class _Failure(bytes):
    """A serialised status in the place of an answer."""


class FlightExchange(ScoreStream):
    """Serves one exchange.

    The command of its descriptor is a `ScoreRequest` without rows, in protobuf's JSON. All batches are scored by the
    version that the first one was scored by. The first batch that fails ends the exchange, once those before it are
    answered.
    """

    most = 1

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._request: pb.ScoreRequest | None = None
        self._head = b""
        self._schema = b""
        # By their ids, each with what was added to it later.
        self._dictionaries: dict[int, list[bytes]] = {}
        self._kept = 0
        # The first row of each batch.
        self._starts: list[int] = []
        self._rows = 0
        self._next = 0
        self._early: dict[int, bytes] = {}
        self._answered: pa.Buffer | None = None

    async def serve(self) -> status_pb2.Status | None:
        """Serve until every batch is answered; returns the error that ends it before, if any."""
        try:
            return await super().serve()
        finally:
            for answer in self._early.values():
                self._admission.drop(self._caller, len(answer))
            self._admission.drop(self._caller, self._kept)

    def read(self, data: bytes) -> ScoreMessage | None:
        """Return what a batch asks; None for a schema, a dictionary, or a descriptor alone."""
        try:
            fields = _fields(memoryview(data))
            if self._request is None:
                self._request = _read_command(fields.get(_DESCRIPTOR))
                self._head = self._request.SerializeToString()
            header = fields.get(_HEADER)
            if not header:
                return None
            kind = arrow.kind_of(header)
            parts = arrow.frame(header), fields.get(_BODY, b"")
            if kind == arrow.BATCH:
                return self._ask(arrow.rows_of(header), *parts)
            self._keep(kind, header, b"".join(parts))
        except (NotPlain, struct.error, IndexError):
            raise InvalidRequest("message", "is not a FlightData message with a sound Arrow message") from None
        return None

    def read_end(self) -> ScoreMessage | None:
        """Return what an exchange without batches asks: no rows are answered by no scores, and these have a schema."""
        return None if self._starts else self._ask(0)

    def write_answer(self, sequence: int, response: bytes) -> bytes:
        """Return the response as it is: which of its messages are sent is known when it has its turn."""
        return response

    def write_error(self, sequence: int, status: status_pb2.Status) -> bytes:
        """Return the error, which says which batch it is of."""
        found = status_pb2.Status()
        found.CopyFrom(status)
        found.message = f"Batch {sequence}, whose first row is row {self._starts[sequence]}: {status.message}"
        return _Failure(found.SerializeToString())

    def queue(self, sequence: int, answer: bytes) -> None:
        """Put an answer behind those of the batches before it."""
        self._early[sequence] = answer
        while (found := self._early.pop(self._next, None)) is not None:
            self._next += 1
            super().queue(sequence, found)

    async def send(self, answer: bytes) -> None:
        """Write the scores of a batch, before the first ones their schema."""
        if isinstance(answer, _Failure):
            raise StreamEnded(status_pb2.Status.FromString(answer))
        fields = _fields(memoryview(answer))
        for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(fields[_ANSWER_STREAM])):
            if message.type != "schema":
                await super().send(b"".join(_flight_data(message.metadata, message.body)))
            elif self._answered is None:
                self._answered = message.metadata
                await super().send(self._pin(pb.ScoreResponse.FromString(_field(_MODEL, fields)), message))
            elif not self._answered.equals(message.metadata):
                why = "its outputs have other types than those of the first batch"
                model = self._request.model if self._request else pb.ScoreRequest().model
                raise StreamEnded(to_status(OutputMismatch(model.name, model.version, why)))

    def _pin(self, response: pb.ScoreResponse, schema: pa.Message) -> bytes:
        """Have all further batches scored by the version of a response; returns the schema, with its name."""
        if self._request is not None:
            self._request.model.CopyFrom(response.model)
            self._head = self._request.SerializeToString()
        self.most = MAX_MESSAGES
        names = {"prinz.model": response.model.name, "prinz.version": response.model.version}
        named = pa.ipc.read_schema(schema).with_metadata(names).serialize()
        (message,) = pa.ipc.MessageReader.open_stream(pa.BufferReader(named))
        return b"".join(_flight_data(message.metadata))

    def _keep(self, kind: int, header: memoryview, message: bytes) -> None:
        """Keep a schema or a dictionary for the batches that follow."""
        if kind == arrow.SCHEMA and not self._schema:
            self._schema = message
        elif kind == arrow.DICTIONARY and self._schema:
            id, adds = arrow.dictionary_of(header)
            replaced = [] if adds else self._dictionaries.pop(id, [])
            self._dictionaries.setdefault(id, []).append(message)
            self._hold(-sum(map(len, replaced)))
        else:
            raise InvalidRequest("message", "is neither the one schema, which comes first, nor a dictionary or batch")
        self._hold(len(message))

    def _hold(self, size: int) -> None:
        """Count what is kept, up to the size of a message, among the bytes in flight."""
        kept = self._kept + size
        if kept > self.max_message_bytes:
            raise InvalidRequest("message", f"makes schema and dictionaries larger than {self.max_message_bytes} bytes")
        self._admission.drop(self._caller, self._kept)
        self._kept = 0
        if (refusal := self._admission.hold(self._caller, kept)) is not None:
            raise InvalidRequest("message", f"can't be kept: {refusal.message}")
        self._kept = kept

    def _ask(self, rows: int, *batch: bytes | memoryview) -> ScoreMessage:
        if not self._schema:
            raise InvalidRequest("message", "is not an Arrow schema, which comes first")
        sequence = len(self._starts)
        self._starts.append(self._rows)
        self._rows += rows
        dictionaries = [message for messages in self._dictionaries.values() for message in messages]
        stream = [self._schema, *dictionaries, *batch, arrow.END]
        request = b"".join((self._head, prefix(_ARROW_STREAM, sum(map(len, stream))), *stream))
        return ScoreMessage(sequence, request, None, None)


def _read_command(descriptor: memoryview | None) -> pb.ScoreRequest:
    command = _field_of(descriptor, _COMMAND)
    request = pb.ScoreRequest()
    if not command or len(command) > MAX_COMMAND_BYTES:
        raise InvalidRequest("descriptor", f"has no command, or one of more than {MAX_COMMAND_BYTES} bytes")
    try:
        json_format.Parse(bytes(command), request)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError):
        why = 'has a command that is not a ScoreRequest in JSON, such as {"model": {"name": "wine"}}'
        raise InvalidRequest("descriptor", why) from None
    if request.WhichOneof("input") is not None:
        raise InvalidRequest("descriptor", "has a command with rows, which come as batches")
    return request


def _field_of(message: memoryview | None, number: int) -> memoryview | None:
    return None if message is None else _fields(message).get(number)


def _fields(message: memoryview) -> dict[int, memoryview]:
    """Return the fields that are bytes or messages; raises NotPlain."""
    found = fields_of(message, _MAX_FIELDS)
    return {one.number: message[one.value : one.end] for one in found if one.wire_type == BYTES}


def _field(number: int, fields: dict[int, memoryview]) -> bytes:
    return prefix(number, len(fields[number])) + fields[number]


def _flight_data(*parts: pa.Buffer | None) -> Iterator[bytes | pa.Buffer]:
    """Yield the parts of a FlightData with the metadata of a message, and its body."""
    for number, part in zip((_HEADER, _BODY), parts, strict=False):
        if part is not None:
            yield prefix(number, len(part))
            yield memoryview(part)
