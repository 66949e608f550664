"""What a client knows of a model: its signature, and how requests are written and responses read by it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prinz_enricher.batch import column_parts, encode_params, stream_parts
from prinz_enricher.batch.layout import Layout
from prinz_enricher.batch.wire import prefix
from prinz_enricher.client.record import FULL, Records, Shape
from prinz_enricher.client.reference import ModelReference
from prinz_enricher.client.row_forms import Rows, is_arrow, to_batch
from prinz_enricher.client.scores import Scores, read_rows, wanted_outputs
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.signature import Signature
from prinz_enricher.signature.arrow import lossless_in_arrow

ARROW_FROM_ROWS: Final = 256
"""Rows from which an Arrow stream, where it loses nothing, is quicker than columns."""

_COLUMNS: Final = pb.ScoreRequest.DESCRIPTOR.fields_by_name["columns"].number
_ARROW_STREAM: Final = pb.ScoreRequest.DESCRIPTOR.fields_by_name["arrow_stream"].number


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request without its rows.

    Attributes:
        head: The serialised request.
        outputs: The layout of the response.
    """

    head: bytes
    outputs: Layout


@dataclass(frozen=True, slots=True)
class RowForm:
    """What rows that may share a message have in common.

    Attributes:
        records: Writes the rows.
        asked: The request without its rows.
        shape: The columns that are there, and those that are null.
    """

    records: Records
    asked: RequestHead
    shape: Shape

    @property
    def key(self) -> Hashable:
        """Equal for rows that may share a message."""
        return self.asked.head if self.shape is FULL else (self.asked.head, self.shape)

    def request(self, rows: Sequence[tuple[object, ...]]) -> bytes:
        """Return the serialised request of some rows."""
        columns = self.records.encode(self.shape, rows).SerializeToString()
        return self.asked.head + prefix(_COLUMNS, len(columns)) + columns

    def read_responses(self, response: pb.ScoreResponse, rows: int) -> list[Scores]:
        """Return the scores of each row; raises as `read_rows` does."""
        return read_rows(response, self.asked.outputs, rows)


class ScorePlan:
    """How rows are written and responses read by the signature of a model."""

    def __init__(self, reference: ModelReference, signature: Signature) -> None:
        self._reference = reference
        self._signature = signature
        self._records = Records(signature.inputs)
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._plain = self._form((), {}, "")
        self._arrow_tells_all = lossless_in_arrow(signature)

    def admit(
        self,
        record: Mapping[str, object],
        params: Mapping[str, object] | None,
        outputs: Sequence[str],
        request_id: str = "",
    ) -> tuple[RowForm, tuple[object, ...]]:
        """Check a single record; returns its form and its values.

        Raises:
            InvalidInput: All violations of the record, or of the parameters.
        """
        shape, values = self._records.admit(record)
        form = self._form(outputs, params or {}, request_id) if params or outputs or request_id else self._plain
        return (form if shape is FULL else RowForm(form.records, form.asked, shape)), values

    def request(
        self, rows: Rows, params: Mapping[str, object] | None, outputs: Sequence[str], request_id: str
    ) -> tuple[bytes, Layout]:
        """Return the serialised request of rows in any form, and the layout of its response.

        Raises:
            InvalidInput: All violations of the rows, or of the parameters.
        """
        batch = to_batch(rows, self._signature)
        asked = self._asked(outputs, params or {}, request_id, independent=False)
        if is_arrow(rows) or (batch.num_rows >= ARROW_FROM_ROWS and self._arrow_tells_all):
            number, parts = _ARROW_STREAM, stream_parts(batch)
        else:
            number, parts = _COLUMNS, column_parts(batch, self._signature.inputs)
        # Joined in one copy, since columns may be large.
        return b"".join((asked.head, prefix(number, sum(map(len, parts))), *parts)), asked.outputs

    def _form(self, outputs: Sequence[str], params: Mapping[str, object], request_id: str) -> RowForm:
        return RowForm(self._records, self._asked(outputs, params, request_id, independent=True), FULL)

    def _asked(
        self, outputs: Sequence[str], params: Mapping[str, object], request_id: str, *, independent: bool
    ) -> RequestHead:
        request = pb.ScoreRequest(
            model=self._reference.to_message(),
            outputs=outputs,
            signature_digest=self._signature.digest,
            request_id=request_id,
            independent_rows=independent,
            params=encode_params(params, self._signature),
        )
        # Parameters in another order give the same bytes.
        head = request.SerializeToString(deterministic=True)
        names = tuple(outputs)
        layout = self._layouts.get(names)
        if layout is None:
            layout = self._layouts[names] = Layout(wanted_outputs(self._signature, names))
        return RequestHead(head, layout)


class Model:
    """A model by one reference.

    Attributes:
        candidates: What the reference may mean; the first that the service knows counts.
        plan: None until the signature was read.
    """

    __slots__ = ("candidates", "plan")

    def __init__(self, candidates: tuple[ModelReference, ...]) -> None:
        self.candidates = candidates
        self.plan: ScorePlan | None = None


class Models:
    """The models that callers have named."""

    def __init__(self) -> None:
        self._by_name: dict[str | ModelReference | tuple[ModelReference, ...], Model] = {}

    def find(self, model: str | ModelReference) -> Model:
        """Return the model of a text or a reference; raises ValueError for an invalid text."""
        found = self._by_name.get(model)
        if found is None:
            candidates = (model,) if isinstance(model, ModelReference) else ModelReference.candidates(model)
            # Concurrent threads get the same one.
            found = self._by_name.setdefault(candidates, Model(candidates))
            self._by_name[model] = found
        return found
