"""Reads many requests at once that differ from a known one in their values alone.

A client writes the requests for a model always alike: the same tags, lengths and names, and the numbers of a row at the
same places. Once such a request has been read in full, others that equal it in every byte but those of the numbers are
read by it, all at once: what protobuf and the signature say of them is the same.
"""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.batch.layout import Layout
from prinz_enricher.batch.wire import BYTES, NotPlain, WireField, fields_of
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import value_pb2
from prinz_enricher.service.calls import MAX_REQUEST_ID
from prinz_enricher.service.score.call import ScoreSpec

_FIELDS: Final = {name: field.number for name, field in pb.ScoreRequest.DESCRIPTOR.fields_by_name.items()}
_INPUTS: Final = tuple(field.number for field in pb.ScoreRequest.DESCRIPTOR.oneofs_by_name["input"].fields)
_COLUMN: Final = {name: field.number for name, field in value_pb2.Column.DESCRIPTOR.fields_by_name.items()}
_COLUMNS: Final = value_pb2.ColumnBatch.DESCRIPTOR.fields_by_name["columns"].number
_DENSE_VALUES: Final = value_pb2.DenseBatch.DESCRIPTOR.fields_by_name["values"].number
_PACKED: Final = value_pb2.DoubleValues.DESCRIPTOR.fields_by_name["values"].number

_MAX_FIELDS: Final = 1024
_MAX_OF_A_SIZE: Final = 4
"""Templates of one length: each is tried on what the ones before it have left."""

_OVERHEAD: Final = 2048
"""Bytes of a template's objects, about, whatever its size."""

_DOUBLE: Final = 8

_LITTLE_ENDIAN: Final = sys.byteorder == "little"


class Template:
    """What requests of some rows of doubles have in common.

    Attributes:
        request: One of them.
        rows: Of each request.
        spec: What its requests ask besides their rows; set by whoever reads by it.
        identified: Whether each request has a `request_id`, of the same length.
        memory: Bytes of the template, about.
    """

    def __init__(
        self, data: bytes, request: pb.ScoreRequest, layout: Layout, spans: Sequence[slice], id_span: slice | None
    ) -> None:
        self.size = len(data)
        self.request = request
        self.rows = rows_of(request)
        self.layout = layout
        self.spec: ScoreSpec | None = None
        self.identified = id_span is not None
        self._id_span = id_span
        self._constant = np.frombuffer(data, np.uint8)
        variable = [*spans, *(() if id_span is None else (id_span,))]
        # The bytes of values may differ, no bit of another one.
        self._mask = np.full(self.size, 0xFF, np.uint8)
        for span in variable:
            self._mask[span] = 0
        self._spans = spans
        self._parts, self._constants, self._order = _cut(data, variable, len(spans))
        # The request as it came, and as protobuf has it.
        self.memory = 2 * self.size + self._mask.nbytes + _OVERHEAD

    def reads_as(self, other: Template) -> bool:
        """Return whether another template of this size matches the same requests."""
        if not np.array_equal(self._mask, other._mask):
            return False
        return not ((self._constant ^ other._constant) & self._mask).any()

    def read(self, requests: Sequence[bytes]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_] | None]:
        """Return the values of requests of this size, and which requests match; None where all do.

        The values of each request are in the order of its spans; those of others mean nothing.
        """
        bytes_of = np.frombuffer(b"".join(requests), np.uint8).reshape(len(requests), self.size)
        differ = (bytes_of ^ self._constant) & self._mask
        values = np.concatenate([bytes_of[:, span] for span in self._spans], axis=1).view("<f8")
        if not differ.any():
            return values, None
        same: npt.NDArray[np.bool_] = np.logical_not(differ.any(axis=1))
        return values, same

    def read_one(self, request: bytes) -> bytes | None:
        """Return the bytes of a request's values in the order of its spans; None where it does not match."""
        parts = self._parts.unpack(request)
        if parts[::2] != self._constants:
            return None
        values = parts[1::2]
        return b"".join([values[place] for place in self._order])

    def batch(self, values: npt.NDArray[np.float64]) -> pa.RecordBatch:
        """Return the rows of requests, whose values are of shape (requests, rows of each * columns)."""
        width = len(self.layout.fields)
        if len(self._spans) == 1 or self.rows == 1:
            return self.layout.batch_of_doubles(values.reshape(-1, width))
        # Column by column in each request, and then in the batch.
        return self.layout.batch_of_doubles(values.reshape(-1, width, self.rows).swapaxes(0, 1).reshape(width, -1).T)

    def request_id(self, data: bytes) -> bytes:
        """Return the bytes of a request's `request_id`; empty where it has none."""
        return b"" if self._id_span is None else data[self._id_span]


def _cut(data: bytes, variable: Sequence[slice], values: int) -> tuple[struct.Struct, tuple[bytes, ...], list[int]]:
    """Return what cuts a request into constant and variable parts by turns, the constants, and where the values are.

    The first `values` of the variable parts are values.
    """
    order = sorted(range(len(variable)), key=lambda one: variable[one].start)
    format, constants, at = "<", [], 0
    for place in order:
        span = variable[place]
        constants.append(data[at : span.start])
        format += f"{span.start - at}s{span.stop - span.start}s"
        at = span.stop
    constants.append(data[at:])
    where = {place: position for position, place in enumerate(order)}
    cut = struct.Struct(f"{format}{len(data) - at}s")
    return cut, tuple(constants), [where[place] for place in range(values)]


def learn_template(data: bytes, request: pb.ScoreRequest, layout: Layout) -> Template | None:
    """Return the template of a request that was read; None where it is written unusually or not all are doubles.

    The request has rows in columns or dense, without params, that fit the layout of the model's inputs.
    """
    if not (_LITTLE_ENDIAN and layout.all_doubles and layout.fields):
        return None
    try:
        spans, id_span = _spans(memoryview(data), layout, _DOUBLE * rows_of(request))
    except NotPlain:
        return None
    return Template(data, request, layout, spans, id_span)


def rows_of(request: pb.ScoreRequest) -> int:
    """Return the rows of a request in columns or dense."""
    return request.columns.num_rows or request.dense.num_rows


def _spans(view: memoryview, layout: Layout, size: int) -> tuple[list[slice], slice | None]:
    """Return where the values of a request are, and its id; raises NotPlain.

    Those of columns, of a size in bytes each, are in the order of the signature; dense ones are one span.
    """
    seen: dict[int, WireField] = {}
    for one in fields_of(view, _MAX_FIELDS):
        if one.number in seen and one.number != _FIELDS["outputs"]:
            # protobuf merges what is there twice, or takes the last.
            raise NotPlain
        seen[one.number] = one
    id_field = seen.get(_FIELDS["request_id"])
    # One beyond the limit in bytes may be within it in characters, and another one of as many bytes not.
    if id_field is not None and (id_field.wire_type != BYTES or id_field.end - id_field.value > MAX_REQUEST_ID):
        raise NotPlain
    id_span = None if id_field is None else slice(id_field.value, id_field.end)
    # Of several inputs the last one counts to protobuf.
    inputs = [seen[number] for number in _INPUTS if number in seen]
    if len(inputs) != 1 or inputs[0].wire_type != BYTES:
        raise NotPlain
    if inputs[0].number == _FIELDS["columns"]:
        return _of_columns(view, inputs[0], layout, size), id_span
    values = _only(view, inputs[0], _DENSE_VALUES)
    if values.end - values.value != size * len(layout.fields):
        raise NotPlain
    return [slice(values.value, values.end)], id_span


def _of_columns(view: memoryview, columns: WireField, layout: Layout, size: int) -> list[slice]:
    spans: dict[str, slice] = {}
    for one in _inside(view, columns):
        if one.number != _COLUMNS:
            continue
        name_field = _only(view, one, _COLUMN["name"])
        name = bytes(view[name_field.value : name_field.end]).decode()
        packed = _only(view, _only(view, one, _COLUMN["doubles"]), _PACKED)
        if packed.end - packed.value != size or name in spans:
            raise NotPlain
        spans[name] = slice(packed.value, packed.end)
    if spans.keys() != layout.by_name.keys():
        raise NotPlain
    return [spans[field.name] for field in layout.fields]


def _only(view: memoryview, message: WireField, number: int) -> WireField:
    """Return a length-delimited field that is in a message once; raises NotPlain."""
    found = [one for one in _inside(view, message) if one.number == number]
    if len(found) != 1 or found[0].wire_type != BYTES:
        raise NotPlain
    return found[0]


def _inside(view: memoryview, message: WireField) -> Iterator[WireField]:
    """Yield the fields of a nested message, by their places in the request."""
    start = message.value
    for one in fields_of(view[start : message.end], _MAX_FIELDS):
        yield WireField(one.number, one.wire_type, start + one.start, start + one.value, start + one.end)


class Templates:
    """Remembers templates, a few of each length; where there are too many, or too large ones, all are learnt anew."""

    def __init__(self, max_count: int = 4096, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._count = self._bytes = 0
        self._by_size: dict[int, tuple[Template, ...]] = {}

    def __len__(self) -> int:
        return self._count

    def of_size(self, size: int) -> Sequence[Template]:
        """Return the templates for requests of a size in bytes, the latest first."""
        return self._by_size.get(size, ())

    def add(self, template: Template) -> None:
        """Remember a template, in place of one that matches the same requests."""
        with self._lock:
            if self._count >= self._max_count or self._bytes + template.memory > self._max_bytes:
                self._by_size, self._count, self._bytes = {}, 0, 0
            kept = [one for one in self.of_size(template.size) if not one.reads_as(template)]
            self._put(template.size, (template, *kept[: _MAX_OF_A_SIZE - 1]))

    def forget(self, template: Template) -> None:
        """Forget a template that is of no use any more."""
        with self._lock:
            kept = [one for one in self.of_size(template.size) if one is not template]
            self._put(template.size, tuple(kept))

    def _put(self, size: int, templates: tuple[Template, ...]) -> None:
        # Replaced as a whole: another thread may be going through the old ones.
        before = self._by_size.pop(size, ())
        if templates:
            self._by_size[size] = templates
        self._count += len(templates) - len(before)
        self._bytes += sum(one.memory for one in templates) - sum(one.memory for one in before)
