"""Scores, whose parsing is shared by callers whose rows shared a message."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa

from prinz_enricher.batch import batch_to_rows, caller_batch, decode_columns
from prinz_enricher.batch.layout import Layout
from prinz_enricher.client.row_forms import one_batch
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import value_pb2
from prinz_enricher.signature import Signature

_NUMERIC: Final = {
    "doubles": np.float64,
    "floats": np.float32,
    "int64s": np.int64,
    "int32s": np.int32,
    "bools": np.bool_,
}
_FEW: Final = 16
"""Values up to which a list is quicker made one by one."""


class Scores:
    """Scores, and the version that made them.

    Attributes:
        name: The registered model's name.
        version: The version that scored.

    Examples:
        >>> row = {"age": "4", "gender": "F", "category": "es_transportation", "amount": 800.0}
        >>> with Client("localhost:50051") as client:
        ...     scores = client.score("MLF-FraudDetection-3", row)
        >>> scores.name, scores.version, scores.to_rows(), scores.batch.schema.names
        ('MLF-FraudDetection-3', '1', [{'output_0': 0}], ['output_0'])
    """

    __slots__ = ("_outputs", "_row", "name", "version")

    def __init__(self, name: str, version: str, outputs: pa.RecordBatch | _SharedOutputs, row: int = 0) -> None:
        self.name = name
        self.version = version
        self._outputs = outputs
        self._row = row

    @property
    def batch(self) -> pa.RecordBatch:
        """The outputs, a row for each row scored; a property that an object lacks is null."""
        return caller_batch(self.held)

    @property
    def held(self) -> pa.RecordBatch:
        """The outputs by `output_schema`, which distinguishes missing properties from null ones."""
        if isinstance(self._outputs, _SharedOutputs):
            return self._outputs.batch.slice(self._row, 1)
        return self._outputs

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the outputs as a list of records.

        Examples:
            >>> row = {"age": "2", "gender": "M", "category": "es_travel", "amount": 5000.0}
            >>> with Client("localhost:50051") as client:
            ...     client.score("MLF-FraudDetection-3", [row, row]).to_rows()
            [{'output_0': 1}, {'output_0': 1}]
        """
        if isinstance(self._outputs, _SharedOutputs):
            return [self._outputs.row(self._row)]
        return batch_to_rows(self._outputs)

    def __repr__(self) -> str:
        return f"Scores(name={self.name!r}, version={self.version!r}, batch={self.batch!r})"


class _SharedOutputs:
    """Outputs of several rows, of scalars without nulls: as Python values, and on demand as an Arrow batch."""

    def __init__(self, message: value_pb2.ColumnBatch, layout: Layout, values: dict[str, list[object]]) -> None:
        self._message = message
        self._layout = layout
        self._values = values

    def row(self, place: int) -> dict[str, Any]:
        return {name: column[place] for name, column in self._values.items()}

    @cached_property
    def batch(self) -> pa.RecordBatch:
        return decode_columns(self._message, Signature(inputs=self._layout.fields, outputs=()))


def read_batch(response: pb.ScoreResponse, outputs: Layout) -> Scores:
    """Return the scores of a response to one caller."""
    if response.WhichOneof("output") == "arrow_stream":
        answer = one_batch(pa.ipc.open_stream(response.arrow_stream).read_all())
    else:
        answer = decode_columns(response.columns, Signature(inputs=outputs.fields, outputs=()))
    return Scores(response.model.name, response.model.version, answer)


def read_rows(response: pb.ScoreResponse, outputs: Layout, rows: int) -> list[Scores]:
    """Return the scores of a response, in columns, to several callers of one row each.

    Raises:
        ValueError: The response has another number of rows.
        InvalidInput: The response does not have the wanted outputs.
    """
    if response.columns.num_rows != rows:
        raise ValueError(f"{rows} rows were sent, and {response.columns.num_rows} scored")
    name, version = response.model.name, response.model.version
    values = _plain_values(response.columns, outputs, rows)
    if values is None:
        batch = read_batch(response, outputs).held
        return [Scores(name, version, batch.slice(row, 1)) for row in range(rows)]
    shared = _SharedOutputs(response.columns, outputs, values)
    return [Scores(name, version, shared, row) for row in range(rows)]


def _plain_values(message: value_pb2.ColumnBatch, outputs: Layout, rows: int) -> dict[str, list[object]] | None:
    """Return the values of columns that are exactly as the signature says; None for others."""
    if len(message.columns) != len(outputs.fields):
        return None
    read = {}
    for column, field, kind in zip(message.columns, outputs.fields, outputs.kinds, strict=True):
        if kind is None or column.name != field.name or column.validity:
            return None
        values: Any = getattr(column, kind).values
        if len(values) != rows:
            return None
        numeric = _NUMERIC.get(kind) if rows > _FEW else None
        # np.array copies the memory of a protobuf container at once.
        read[field.name] = list(values) if numeric is None else np.array(values, numeric).tolist()
    return read
