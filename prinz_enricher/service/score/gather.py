"""Puts calls that came together into groups, as far as they ask the same thing of the same model.

What a call costs beside the model is Python, and so is spent on groups: of the requests of one row that a front hands
over at once, those alike are read together, are one job of the pool, and are answered together. Any other request goes
its own way (`ScoreCall`), and so does one with a fault, which is then told in full.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from prinz_enricher import batch as codec
from prinz_enricher.batch.columns import one_row_values
from prinz_enricher.batch.few_rows import few_rows, rows_of_doubles
from prinz_enricher.batch.layout import Layout, input_layout
from prinz_enricher.catalog import CatalogVersion
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import DeadlineExceeded, EnricherError, InvalidInput, SignatureChanged
from prinz_enricher.scoring import Target, WorkerPool
from prinz_enricher.service.ports import Call
from prinz_enricher.service.score.call import MAX_REQUEST_ID
from prinz_enricher.service.score.group import Asked, Group
from prinz_enricher.service.score.template import Template, Templates, learn
from prinz_enricher.service.status import to_status

TOGETHER = 0.005
"""Seconds: calls are in one group whose deadlines are in the same span of this length, and the first of them counts."""

_FAR = 1e12
"""A deadline that is never reached."""

MOST = 256
"""Calls of a group at most: so many still share a model call with others."""


@dataclass(slots=True)
class _Alike:
    """Calls whose requests ask the same, but for their rows.

    Attributes:
        request: One of them.
        calls: The calls.
        ids: The `request_id` of each, in UTF-8.
        messages: The request of each; empty where `values` has the rows.
        template: What the values were read by; None where the messages have the rows.
        values: The rows, of shape (calls, inputs).
    """

    request: pb.ScoreRequest
    calls: list[Call] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    messages: list[pb.ScoreRequest] = field(default_factory=list)
    template: Template | None = None
    values: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    def at(self, places: Sequence[int]) -> _Alike:
        """Give some of the calls."""
        if len(places) == len(self.calls):
            return self
        return _Alike(
            self.request,
            [self.calls[place] for place in places],
            [self.ids[place] for place in places],
            [self.messages[place] for place in places] if self.messages else [],
            self.template,
            self.values[list(places)] if self.template is not None else self.values,
        )


_Alone = list[tuple[Call, pb.ScoreRequest | None]]
"""Calls that go their own way, with their messages where those were parsed."""


class Gatherer:
    """Takes what can be taken together.

    Args:
        pool: Where groups are scored.
        resolve: Gives the version that a reference means now; raises EnricherError.
        target_of: Gives what the pool needs to know of it; likewise.
        most: Rows of several callers in one model call at most.
    """

    def __init__(
        self,
        pool: WorkerPool,
        resolve: Callable[[model_pb2.ModelRef], CatalogVersion],
        target_of: Callable[[CatalogVersion], Target],
        most: int = MOST,
    ) -> None:
        self._pool = pool
        self._resolve = resolve
        self._target_of = target_of
        self._most = min(most, MOST)
        self._templates = Templates()

    def take(self, calls: Sequence[Call]) -> _Alone:
        """Take calls of `Score`.

        Args:
            calls: Their requests are of no great size.

        Returns:
            Those that go their own way, with their messages where those were parsed. The others are on their way.
        """
        by_size: dict[int, list[Call]] = {}
        for call in calls:
            by_size.setdefault(len(call.request), []).append(call)
        alone: _Alone = []
        unread: list[Call] = []
        for size, left in by_size.items():
            for template in self._templates.of_size(size):
                left = self._by_template(template, left, alone)  # noqa: PLW2901 - what is left of it
                if not left:
                    break
            unread += left
        if unread:
            self._by_message(unread, alone)
        return alone

    def _by_template(self, template: Template, calls: list[Call], alone: _Alone) -> list[Call]:
        """Take the calls whose requests are as a template is; returns the others."""
        if len(calls) == 1:
            return self._one_by_template(template, calls, alone)
        values, same = template.read([call.request for call in calls])
        ids = [template.request_id(call.request) for call in calls] if template.identified else [b""] * len(calls)
        left: list[Call] = []
        if same is not None or not all(map(bytes.isascii, ids)):
            # An id beyond ASCII is protobuf's to judge.
            fits = [id.isascii() and (same is None or bool(same[row])) for row, id in enumerate(ids)]
            left = [call for call, one in zip(calls, fits, strict=True) if not one]
            calls = [call for call, one in zip(calls, fits, strict=True) if one]
            ids = [id for id, one in zip(ids, fits, strict=True) if one]
            values = values[np.array(fits)]
        if calls:
            self._submit(_Alike(template.request, calls, ids, template=template, values=values), alone)
        return left

    def _one_by_template(self, template: Template, calls: list[Call], alone: _Alone) -> list[Call]:
        """Take one call, as it comes where there is not much to do: each microsecond is one that its caller waits."""
        request = calls[0].request
        values = template.read_one(request)
        id = template.request_id(request)
        if values is None or not id.isascii():
            return calls
        rows = np.frombuffer(values, "<f8").reshape(1, -1)
        self._submit(_Alike(template.request, calls, [id], template=template, values=rows), alone)
        return []

    def _by_message(self, calls: Sequence[Call], alone: _Alone) -> None:
        alike: dict[object, _Alike] = {}
        for call in calls:
            try:
                request = pb.ScoreRequest.FromString(call.request)
            except Exception:  # noqa: BLE001 - told in full where the call goes alone
                alone.append((call, None))
                continue
            key = _what(request)
            if key is None:
                alone.append((call, request))
                continue
            some = alike.setdefault(key, _Alike(request))
            some.calls.append(call)
            some.ids.append(request.request_id.encode())
            some.messages.append(request)
        for some in alike.values():
            self._submit(some, alone)

    def _submit(self, some: _Alike, alone: _Alone) -> None:
        """Send calls on their way, those with about the same deadline together."""
        try:
            target = self._target_of(self._resolve(some.request.model))
            template = some.template
            asked = None if template is None else template.asked
            if asked is None or asked.target is not target:
                asked = _asked(target, some.request)
                if template is not None:
                    template.asked = asked
        except InvalidInput:
            # With faults of its rows, if there are any, it is told alone.
            _leave(some, alone)
            return
        except EnricherError as error:
            _refuse(some.calls, error)
            return
        layout = input_layout(target.signature)
        if template is not None and not _same_layout(template.layout, layout):
            # The model takes something else by now.
            self._templates.forget(template)
            self._by_message(some.calls, alone)
            return
        if layout.one_row is None:
            _leave(some, alone)
            return
        for places, deadline in _by_deadline(some.calls, self._most):
            self._send(asked, layout, some.at(places), deadline, alone)

    def _send(self, asked: Asked, layout: Layout, some: _Alike, deadline: float | None, alone: _Alone) -> None:
        refusal = self._pool.refusal(asked.target, len(some.calls), deadline)
        if refusal is None and deadline is not None and time.monotonic() >= deadline:
            refusal = DeadlineExceeded("queue")
        if refusal is not None:
            _refuse(some.calls, refusal)
            return
        if some.template is not None:
            batch = rows_of_doubles(layout, some.values)
        else:
            rows = [_values(message, layout) for message in some.messages]
            if any(row is None for row in rows):
                places = [place for place, row in enumerate(rows) if row is not None]
                _leave(some.at([place for place, row in enumerate(rows) if row is None]), alone)
                some = some.at(places)
            read = [row for row in rows if row is not None]
            if not read:
                return
            template = learn(some.calls[0].request, some.messages[0], layout)
            if template is not None:
                self._templates.add(template)
            batch = few_rows(layout, read)
        self._pool.submit(Group(asked, some.calls, some.ids, batch, deadline).job())


def _what(request: pb.ScoreRequest) -> object:
    """Tell what a request asks, besides its row; None where it goes its own way."""
    form = request.WhichOneof("input")
    if form == "columns":
        rows = request.columns.num_rows
    elif form == "dense" and request.signature_digest:
        rows = request.dense.num_rows
    else:
        return None
    if rows != 1 or request.params or len(request.request_id) > MAX_REQUEST_ID:
        return None
    model = request.model
    selector = model.WhichOneof("selector")
    # The text of the selector tells an alias from a version of the same name.
    return (form, model.name, selector, model.version, model.alias, request.signature_digest, *request.outputs)


def _asked(target: Target, request: pb.ScoreRequest) -> Asked:
    """Give what calls have in common.

    Raises:
        SignatureChanged: They are for another signature.
        InvalidInput: They name outputs that there are not, or params are missing.
    """
    signature = target.signature
    if request.signature_digest and request.signature_digest != signature.digest:
        raise SignatureChanged(target.name, target.version, signature.digest)
    outputs = codec.select_outputs(signature.outputs, request.outputs)
    params = codec.decode_params(request.params, signature)
    return Asked(target, params, outputs, request.WhichOneof("input") or "")


def _same_layout(one: Layout, other: Layout) -> bool:
    return one is other or one.fields == other.fields


def _values(request: pb.ScoreRequest, layout: Layout) -> Sequence[object] | None:
    """Read the row of a request; None where it is not as plain as that."""
    if request.WhichOneof("input") == "columns":
        held = None if layout.one_row is None else one_row_values(request.columns, layout.one_row)
        # Rows with nulls share a model call with others of the same nulls alone, which the queue tells.
        return None if held is None or None in held else held
    values = request.dense.values
    if not layout.all_doubles or len(values) != 8 * len(layout.fields):
        return None
    row: list[object] = np.frombuffer(values, "<f8").tolist()
    return row


def _by_deadline(calls: Sequence[Call], most: int) -> Iterable[tuple[Sequence[int], float | None]]:
    """Give the places of at most so many calls with about the same deadline, and the first of their deadlines."""
    if len(calls) == 1:
        yield (0,), calls[0].deadline
        return
    spans: dict[int | None, list[int]] = {}
    for place, call in enumerate(calls):
        span = None if call.deadline is None else int(min(call.deadline, _FAR) / TOGETHER)
        spans.setdefault(span, []).append(place)
    for places in spans.values():
        for start in range(0, len(places), most):
            some = places[start : start + most]
            deadlines = [deadline for place in some if (deadline := calls[place].deadline) is not None]
            yield some, min(deadlines, default=None)


def _leave(some: _Alike, alone: _Alone) -> None:
    messages: Sequence[pb.ScoreRequest | None] = some.messages or [None] * len(some.calls)
    alone += zip(some.calls, messages, strict=True)


def _refuse(calls: Sequence[Call], error: EnricherError) -> None:
    status = to_status(error)
    for call in calls:
        call.fail(status)
