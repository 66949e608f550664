"""Rows in bodies of HTTP as `Score` messages, and responses as bodies: what a caller of gRPC does by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Final
from urllib.parse import parse_qs, quote

from prinz_enricher.batch.json_answers import EXACT, NULLS, JsonStyle, json_values, write
from prinz_enricher.batch.json_rows import columns_of, json_columns, json_params, parse_json
from prinz_enricher.batch.wire import prefix
from prinz_enricher.catalog import CatalogVersion
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2, value_pb2
from prinz_enricher.errors import BatchTooLarge, InvalidRequest, OutputMismatch, SignatureChanged
from prinz_enricher.fronts.http.row_template import JSON, MAX_BODY, Answer, RowTemplate, RowTemplates
from prinz_enricher.service.calls import Call
from prinz_enricher.service.targets import Targets
from prinz_enricher.signature import Signature
from prinz_enricher.telemetry.series import Series

ARROW: Final = "application/vnd.apache.arrow.stream"
DIGEST: Final = 8
"""Characters of a signature's digest that stand in the paths of Nussknacker."""

_KEYS: Final = {"rows", "params", "outputs"}
_REQUEST_ID: Final = pb.ScoreRequest.DESCRIPTOR.fields_by_name["request_id"].number
_RESPONSE_ID: Final = pb.ScoreResponse.DESCRIPTOR.fields_by_name["request_id"].number
_DECODE_ERROR: Final = "has a year outside 1 to 9999, which JSON can't tell"


@dataclass(slots=True)
class Asked:
    """Rows as a caller sends them, column by column, before they are checked; or an Arrow stream, or checked rows."""

    columns: Mapping[str, Sequence[object]] = field(default_factory=dict)
    rows: int = 0
    params: Mapping[str, object] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    stream: bytes | None = None
    batch: value_pb2.ColumnBatch | None = None


class ScoreForm:
    """How a route has its rows and its scores. One object for each request."""

    many = False
    """Whether the body is a list, where a form has rows by themselves and lists of them."""

    def read(self, body: bytes, media: str, query: bytes, signature: Signature) -> Asked:
        """Return the rows of a body; raises EnricherError."""
        raise NotImplementedError

    def write(self, response: pb.ScoreResponse, signature: Signature) -> Answer:
        """Return the answer with the scores; raises OverflowError for a value that JSON lacks."""
        raise NotImplementedError


class ScoreExchange:
    """Turns one body into a serialised `ScoreRequest`, and the response into a body.

    The version is chosen here, since its signature says what a text or a number means, and named in the request: the
    service then checks rights, quotas and rows as it does for gRPC.
    """

    def __init__(
        self, targets: Targets, series: Series, templates: RowTemplates, names: Mapping[str, str], form: ScoreForm
    ) -> None:
        """Make one for a path with these parts."""
        self._targets = targets
        self._templates = templates
        self._series = series
        self._reference = _reference(names["name"], names.get("version"), names.get("alias"))
        self._form = form
        self._digest = names.get("digest", "")
        self._signature: Signature | None = None
        self._version = ""
        self._template: RowTemplate | None = None
        self._id = b""

    def request(self, call: Call, body: bytes, media: str, query: bytes, request_id: str, max_rows: int) -> bytes:
        """Return the message that asks for a body's scores; raises EnricherError."""
        reference = self._reference
        if call.audit is not None:
            call.audit.model = reference.name
        version = self._targets.resolve(reference, call.principal, "score")
        self._version = version.version
        if call.audit is not None:
            call.audit.version = version.version
        call.series = self._series.version(version.name, version.version)
        signature = self._signature = self._targets.signature(version)
        if self._digest and (len(self._digest) < DIGEST or not signature.digest.startswith(self._digest)):
            raise SignatureChanged(version.name, version.version, signature.digest)
        self._id = request_id.encode()
        general = partial(self._write, version, signature, media, query, max_rows)
        if media == JSON and len(body) <= MAX_BODY:
            of = (type(self._form), self._form.many, version.name, version.version)
            write = partial(self._form.write, signature=signature)
            message, self._template = self._templates.read(of, body, signature, general, write)
        else:
            message = general(body)
        # Concatenated messages are one message with the fields of all.
        return message + _id_field(_REQUEST_ID, self._id)

    def _write(
        self, version: CatalogVersion, signature: Signature, media: str, query: bytes, max_rows: int, body: bytes
    ) -> bytes:
        asked = self._form.read(body, media, query, signature)
        if asked.rows > max_rows:
            raise BatchTooLarge(asked.rows, max_rows)
        message = pb.ScoreRequest(outputs=_texts(asked.outputs))
        message.model.name, message.model.version = version.name, version.version
        if asked.batch is not None:
            message.columns.CopyFrom(asked.batch)
        elif asked.stream is None:
            # No rows have no columns either, and fit every model.
            columns = asked.columns if asked.rows else dict.fromkeys((field.name for field in signature.inputs), ())
            message.columns.CopyFrom(json_columns(columns, asked.rows, signature.inputs))
        else:
            message.arrow_stream = asked.stream
        if asked.stream is None:
            message.signature_digest = signature.digest
        for name, value in json_params(asked.params, signature.params).items():
            message.params[name].CopyFrom(value)
        return message.SerializeToString()

    def answer(self, response: bytes) -> Answer:
        """Return the body with the scores of a serialised response; raises OutputMismatch."""
        if self._signature is None:
            raise ValueError("answered before it was asked")
        try:
            if self._template is None:
                return self._form.write(pb.ScoreResponse.FromString(response), self._signature)
            # The id is not part of an answer; the rest is the same for calls that were scored together.
            return self._template.answer(response.removesuffix(_id_field(_RESPONSE_ID, self._id)))
        except OverflowError:
            raise OutputMismatch(self._reference.name, self._version, _DECODE_ERROR) from None


@lru_cache(maxsize=512)
def _reference(name: str, version: str | None, alias: str | None) -> model_pb2.ModelRef:
    # Made anew, it takes a tenth of the time of a call; nobody changes it.
    return model_pb2.ModelRef(name=name, version=version, alias=alias)


def _id_field(number: int, id: bytes) -> bytes:
    return prefix(number, len(id)) + id if id else b""


def _texts(names: Sequence[object]) -> list[str]:
    texts = [name for name in names if isinstance(name, str) and name.isprintable()]
    if len(texts) < len(names):
        raise InvalidRequest("outputs", "is not a list of names")
    return texts


def objects(batch: Any, style: JsonStyle, more: Mapping[str, object] | None = None) -> list[dict[str, Any]]:
    """Return an object for each row of a `ColumnBatch`, with the values of `more` added."""
    columns = {column.name: json_values(column, style) for column in batch.columns}
    if not columns:
        return [dict(more or {}) for _ in range(batch.num_rows)]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return rows if more is None else [{**more, **row} for row in rows]


class JsonForm(ScoreForm):
    """`{"rows": [{…}], "params": {…}, "outputs": […]}` and `{"model": …, "rows": […], "timing": …}`; or Arrow."""

    def __init__(self) -> None:
        self._arrow = False

    def read(self, body: bytes, media: str, query: bytes, signature: Signature) -> Asked:
        """Return the rows of JSON, or of an Arrow stream with parameters and outputs in the query."""
        if media == ARROW:
            self._arrow = True
            options = parse_qs(query.decode("ascii", "replace"))
            params = parse_json(options.get("params", ["{}"])[-1].encode())
            if not isinstance(params, dict):
                raise InvalidRequest("params", "is not an object")
            return Asked(stream=body, params=params, outputs=options.get("outputs", []))
        content = parse_json(body)
        if not isinstance(content, dict) or "rows" not in content:
            raise InvalidRequest("body", 'is not an object with "rows"')
        if unknown := sorted(content.keys() - _KEYS):
            raise InvalidRequest("body", f"has {len(unknown)} keys other than rows, params and outputs")
        columns, rows = columns_of(content["rows"])
        params, outputs = content.get("params") or {}, content.get("outputs") or []
        if not isinstance(params, dict) or not isinstance(outputs, list):
            raise InvalidRequest("body", "has params that are not an object, or outputs that are not a list")
        return Asked(columns, rows, params, outputs)

    def write(self, response: pb.ScoreResponse, signature: Signature) -> Answer:
        """Return the scores of each row."""
        model, timing = response.model, response.timing
        if self._arrow:
            return Answer(response.arrow_stream, ARROW, f"Prinz-Model-Version: {quote(model.version)}\r\n".encode())
        content = {
            "model": {"name": model.name, "version": model.version},
            "rows": objects(response.columns, EXACT),
            "timing": {
                "queue": timing.queue.ToJsonString(),
                "compute": timing.compute.ToJsonString(),
                "total": timing.total.ToJsonString(),
                "batchRows": timing.batch_rows,
            },
        }
        return Answer(write(content).encode())


class NussknackerForm(ScoreForm):
    """An object of inputs and one of outputs, or a list of them."""

    def __init__(self, *, many: bool) -> None:
        self.many = many

    def read(self, body: bytes, media: str, query: bytes, signature: Signature) -> Asked:
        """Return the row, or the rows."""
        content = parse_json(body)
        if not self.many and not isinstance(content, dict):
            raise InvalidRequest("body", "is not an object")
        columns, rows = columns_of(content if self.many else [content], "body")
        return Asked(columns, rows)

    def write(self, response: pb.ScoreResponse, signature: Signature) -> Answer:
        """Return the scores, with the version that they are of."""
        rows = objects(response.columns, NULLS, {"modelVersion": response.model.version})
        return Answer(write(rows if self.many else rows[0]).encode())
