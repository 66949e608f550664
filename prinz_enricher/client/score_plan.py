"""What a client knows of a model: how rows are written as requests and responses read, by its signature."""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import NoneType
from typing import Any, Final

import numpy as np
import pyarrow as pa

from prinz_enricher.batch import Violations, column_parts, encode_columns, encode_params, stream_parts
from prinz_enricher.batch.coerce_values import ValueCoercer, is_unicode
from prinz_enricher.batch.layout import Layout, any_fields, record_batch
from prinz_enricher.batch.violation import MISSING_COLUMN, UNKNOWN_COLUMN, column_path
from prinz_enricher.batch.wire import prefix
from prinz_enricher.client.reference import ModelReference
from prinz_enricher.client.row_forms import Rows, one_record, to_batch
from prinz_enricher.client.scores import Scores, read_batch, read_rows
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import value_pb2
from prinz_enricher.signature import Field, Signature, fields_schema, from_wire
from prinz_enricher.signature.arrow import lossless_in_arrow

ARROW_FROM_ROWS: Final = 256
"""Rows from which an Arrow stream, where it loses nothing, is quicker than columns."""

_COLUMNS: Final = pb.ScoreRequest.DESCRIPTOR.fields_by_name["columns"].number
_ARROW_STREAM: Final = pb.ScoreRequest.DESCRIPTOR.fields_by_name["arrow_stream"].number

_INT32, _INT64 = np.iinfo(np.int32), np.iinfo(np.int64)
_LARGEST_FLOAT: Final = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]

_EXACT: Final[dict[str | None, tuple[type, Callable[[Any], bool] | None]]] = {
    "doubles": (float, None),
    "floats": (float, lambda value: -_LARGEST_FLOAT <= value <= _LARGEST_FLOAT or value != value),  # noqa: PLR0124
    "int64s": (int, lambda value: _INT64.min <= value <= _INT64.max),
    "int32s": (int, lambda value: _INT32.min <= value <= _INT32.max),
    "bools": (bool, None),
    "strings": (str, is_unicode),
    "binaries": (bytes, None),
    # Values of other columns are always converted.
    None: (NoneType, lambda _: False),
}
"""By kind of wire column: the Python type whose values need no conversion, and a further check, if any."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What rows must have in common, so that a model sees of each the same as if it came alone.

    A column of whole numbers is another one to a model as soon as one of them is missing.

    Attributes:
        names: The columns that are there; None for all of the signature.
        nulls: The places of null columns.
    """

    names: tuple[str, ...] | None = None
    nulls: tuple[int, ...] = ()


FULL: Final = Shape()
"""Every column is there, and none is null."""


class Records:
    """Checks single records, and writes those of one shape as columns of the wire.

    Args:
        fields: The inputs of a signature; empty for columns of any name and type.
    """

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self._layout = Layout(fields)
        exact = [_EXACT[kind] for kind in self._layout.kinds]
        names = [field.name for field in fields]
        self._exact = dict(zip(names, exact, strict=True))
        self._paths = {name: column_path(name) for name in names}
        self._types = tuple(type for type, _ in exact)
        self._checks = [(place, check) for place, (_, check) in enumerate(exact) if check is not None]
        self._values_of: Callable[[Mapping[str, object]], tuple[object, ...]] = (
            itemgetter(*names) if len(names) > 1 else lambda record: tuple(record[name] for name in names)
        )

    def admit(self, record: Mapping[str, object]) -> tuple[Shape, tuple[object, ...]]:
        """Check a record, by the names of the fields, by the service's rules.

        Returns:
            Its shape, and a value for each of its columns, as Arrow and the wire take it.

        Raises:
            InvalidInput: All violations, such as of `columns["alcohol"][0]`.
        """
        if len(record) == len(self._types):
            try:
                values = self._values_of(record)
            except KeyError:
                return self._convert(record)
            # Nearly every record has values of the exact types.
            if tuple(map(type, values)) == self._types:
                for place, check in self._checks:
                    if not check(values[place]):
                        return self._convert(record)
                return FULL, values
        return self._convert(record)

    def _convert(self, record: Mapping[str, object]) -> tuple[Shape, tuple[object, ...]]:
        columns = {str(name): value for name, value in record.items()}
        fields = self._layout.fields or any_fields(columns)
        paths = self._paths or {name: column_path(name) for name in columns}
        faults = Violations()
        for name in columns:
            if name not in paths:
                faults.add(column_path(name), UNKNOWN_COLUMN)
        names, values = [], []
        for field in fields:
            if field.name in columns:
                names.append(field.name)
                value = columns[field.name]
                type, check = self._exact.get(field.name, _EXACT[None])
                if value.__class__ is not type or (check is not None and not check(value)):
                    coercer = ValueCoercer(paths[field.name], faults)
                    value = coercer.coerce(value, field.type, field.required, 0)
                values.append(value)
            elif field.required:
                faults.add(paths[field.name], MISSING_COLUMN)
        faults.raise_any()
        nulls = tuple(place for place, value in enumerate(values) if value is None)
        if len(names) != len(self._layout.fields):
            return Shape(tuple(names), nulls), tuple(values)
        return (Shape(None, nulls) if nulls else FULL), tuple(values)

    def encode(self, shape: Shape, rows: Sequence[tuple[object, ...]]) -> value_pb2.ColumnBatch:
        """Return one or more rows of a shape, as `admit` returned them, as columns of the wire.

        Raises:
            InvalidInput: Values without a form on the wire.
        """
        layout, fields, columns = self._layout, self._layout.fields, list(zip(*rows, strict=True))
        schema = layout.schema
        if shape is FULL and fields and None not in layout.kinds:
            message = value_pb2.ColumnBatch(num_rows=len(rows))
            add = message.columns.add
            for field, kind, values in zip(fields, layout.kinds, columns, strict=True):
                getattr(add(name=field.name), str(kind)).values.extend(values)
            return message
        if shape.names is not None:
            fields = tuple(fields[layout.by_name[name]] for name in shape.names) if fields else any_fields(shape.names)
            schema = fields_schema(fields)
        arrays = [pa.array(values, type) for values, type in zip(columns, schema.types, strict=True)]
        return encode_columns(record_batch(arrays, schema, len(rows)), fields)


@dataclass(slots=True)
class RowRequest:
    """A request of a single row, which may share a message with those of the same `key` if it `shares`.

    `head` is the serialised request without its row.
    """

    head: bytes
    outputs: Layout
    records: Records
    shape: Shape
    row: tuple[object, ...]
    shares: bool

    @property
    def key(self) -> Hashable:
        """Equal for requests that differ in their rows alone."""
        return self.head if self.shape is FULL else (self.head, self.shape)

    def encode(self, rows: Sequence[tuple[object, ...]] = ()) -> bytes:
        """Return it serialised, with `rows` of other requests, if any, in the place of its own.

        Raises:
            InvalidInput: Values without a form on the wire.
        """
        columns = self.records.encode(self.shape, rows or [self.row]).SerializeToString()
        return self.head + prefix(_COLUMNS, len(columns)) + columns

    def read(self, response: pb.ScoreResponse) -> Scores:
        """Return the scores of its response; raises as `read_rows` does."""
        return read_rows(response, self.outputs, 1)[0]


@dataclass(slots=True)
class BatchRequest:
    """A request of rows in any form, serialised."""

    payload: bytes
    outputs: Layout

    def encode(self) -> bytes:
        """Return it serialised."""
        return self.payload

    def read(self, response: pb.ScoreResponse) -> Scores:
        """Return the scores of its response."""
        return read_batch(response, self.outputs)


class ScorePlan:
    """How rows are written and responses read by the signature of a model."""

    def __init__(self, reference: ModelReference, signature: Signature) -> None:
        self._reference = reference
        self._signature = signature
        self._records = Records(signature.inputs)
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._plain = self._head((), {}, "", independent=True)
        self._is_lossless_in_arrow = lossless_in_arrow(signature)

    def request(
        self, rows: Rows, params: Mapping[str, object] | None, outputs: Sequence[str], request_id: str
    ) -> RowRequest | BatchRequest:
        """Check rows in any form, and return their request.

        Raises:
            InvalidInput: All violations of the rows, or of the parameters.
        """
        record = one_record(rows)
        if record is None:
            return self._batch_request(rows, params or {}, outputs, request_id)
        shape, values = self._records.admit(record)
        head, layout = self._plain
        if params or outputs or request_id:
            head, layout = self._head(outputs, params or {}, request_id, independent=True)
        return RowRequest(head, layout, self._records, shape, values, not request_id)

    def _batch_request(
        self, rows: Rows, params: Mapping[str, object], outputs: Sequence[str], request_id: str
    ) -> BatchRequest:
        batch = to_batch(rows, self._signature)
        head, layout = self._head(outputs, params, request_id, independent=False)
        # Arrow is answered in Arrow.
        if isinstance(rows, pa.RecordBatch | pa.Table) or (
            batch.num_rows >= ARROW_FROM_ROWS and self._is_lossless_in_arrow
        ):
            number, parts = _ARROW_STREAM, stream_parts(batch)
        else:
            number, parts = _COLUMNS, column_parts(batch, self._signature.inputs)
        # Joined in one copy, since columns may be large.
        return BatchRequest(b"".join((head, prefix(number, sum(map(len, parts))), *parts)), layout)

    def _head(
        self, outputs: Sequence[str], params: Mapping[str, object], request_id: str, *, independent: bool
    ) -> tuple[bytes, Layout]:
        """Return a serialised request without its rows, and the layout of its response."""
        request = pb.ScoreRequest(
            model=self._reference.to_message(),
            outputs=outputs,
            signature_digest=self._signature.digest,
            request_id=request_id,
            independent_rows=independent,
            params=encode_params(params, self._signature),
        )
        names = tuple(outputs)
        layout = self._layouts.get(names)
        if layout is None:
            fields = tuple(field for field in self._signature.outputs if not names or field.name in names)
            layout = self._layouts[names] = Layout(fields)
        # Parameters in another order give the same bytes.
        return request.SerializeToString(deterministic=True), layout


@dataclass(slots=True, eq=False)
class KnownModel:
    """A model by one reference.

    Attributes:
        candidates: What the reference may mean; the first that the service knows counts.
        plan: None until the signature was read.
    """

    candidates: tuple[ModelReference, ...]
    plan: ScorePlan | None = None

    def learn(self, reference: ModelReference, response: pb.GetSignatureResponse) -> tuple[ModelReference, Signature]:
        """Plan by the response to a candidate; returns the version that it means now, and its signature."""
        signature = from_wire(response.signature)
        self.plan = ScorePlan(reference, signature)
        return ModelReference(response.model.name, version=response.model.version), signature
