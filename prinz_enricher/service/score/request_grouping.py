"""Groups `Score` calls that came together, as far as they ask the same of the same version.

What a call costs beside the model is Python, and so is spent on groups: alike requests that a front hands over at once
are read together, are one job of the pool, and are answered together. They have one row each, or as many rows of
doubles. Any other request is scored by itself (`score_alone`), and so is one with a fault, whose error then has all
violations.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher import batch as codec
from prinz_enricher.batch.layout import Layout, input_layout
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import value_pb2
from prinz_enricher.errors import DeadlineExceeded, EnricherError, InvalidInput, SignatureChanged
from prinz_enricher.scoring.ports import Job, Target, WorkerPool
from prinz_enricher.security.access import AccessRules
from prinz_enricher.security.principal import Principal
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.calls import MAX_REQUEST_ID, Call, are_noted
from prinz_enricher.service.score.call import Answers, ScoreSpec, fail_all, traces_of
from prinz_enricher.service.score.template import Template, Templates, learn_template, rows_of
from prinz_enricher.service.status import to_status
from prinz_enricher.service.targets import Targets
from prinz_enricher.telemetry.request_log import RequestLog
from prinz_enricher.telemetry.series import Series

DEADLINE_SPAN = 0.005
"""Seconds: calls of one group have their deadlines in the same span of this length, and the first of them counts."""

MAX_CALLS = 256
"""Calls of a group: so many still share a model call with others."""

_NOBODY: frozenset[Principal | None] = frozenset()
_MAX_ALLOWED = 1024
"""Models, and callers of one, whose right to score is remembered."""

_FAR = 1e12
"""A deadline that is never reached."""


@dataclass(slots=True)
class RequestGroup:
    """Calls whose requests differ from `request` in the values of their rows alone, and in their ids, in UTF-8.

    The values are of shape (calls, rows of each * inputs), read by a template, or else in `messages`.
    """

    request: pb.ScoreRequest
    calls: list[Call] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    messages: list[pb.ScoreRequest] = field(default_factory=list)
    template: Template | None = None
    values: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    def at(self, places: Sequence[int]) -> RequestGroup:
        """Return the group of some of the calls."""
        if len(places) == len(self.calls):
            return self
        return RequestGroup(
            self.request,
            [self.calls[place] for place in places],
            [self.ids[place] for place in places],
            [self.messages[place] for place in places] if self.messages else [],
            self.template,
            self.values[list(places)] if self.template is not None else self.values,
        )


def _job_of(
    spec: ScoreSpec, calls: Sequence[Call], ids: Sequence[bytes], batch: pa.RecordBatch, deadline: float | None
) -> Job:
    """Return the job of a group, with the first of the calls' deadlines."""
    rows = batch.num_rows // len(calls)
    traces = traces_of(calls, rows)
    answers = Answers(spec, calls, ids, rows, traces=traces)

    def split_calls() -> list[Job]:
        return [
            _job_of(spec, [call], [id], batch.slice(place * rows, rows), call.deadline)
            for place, (call, id) in enumerate(zip(calls, ids, strict=True))
        ]

    return Job(
        spec.target,
        batch,
        spec.params,
        deadline,
        answers.done,
        calls[0].cancelled if len(calls) == 1 else answers.cancelled,
        nulls=False,
        calls=len(calls),
        split_calls=split_calls,
        traces=traces,
        lone=calls[0].lone,
    )


_Ungrouped = list[tuple[Call, pb.ScoreRequest | None]]
"""Calls that are scored by themselves, with their messages where those were parsed."""


class RequestGrouper:
    """Groups calls, of any callers, and submits groups of up to `max_rows` rows, and `MAX_CALLS` calls."""

    def __init__(
        self,
        pool: WorkerPool,
        targets: Targets,
        quotas: Quotas,
        max_rows: int = MAX_CALLS,
        series: Series | None = None,
        log: RequestLog | None = None,
    ) -> None:
        self._log = log
        self._series = series or Series()
        self._pool = pool
        self._targets = targets
        self._quotas = quotas
        self._templates = Templates()
        self.limit(max_rows)

    def limit(self, max_rows: int) -> None:
        """Submit groups of up to so many rows from now on."""
        self._max_rows = max_rows

    def submit(self, calls: Sequence[Call]) -> _Ungrouped:
        """Submit what can be grouped of calls with small requests; returns the other calls."""
        calls[0].lone = len(calls) == 1
        by_size: dict[int, list[Call]] = {}
        for call in calls:
            by_size.setdefault(len(call.request), []).append(call)
        ungrouped: _Ungrouped = []
        unread: list[Call] = []
        for size, left in by_size.items():
            for template in self._templates.of_size(size):
                if not self._groups(template.rows):
                    continue
                left = self._by_template(template, left, ungrouped)  # noqa: PLW2901 - what is left of it
                if not left:
                    break
            unread += left
        if unread:
            self._by_message(unread, ungrouped)
        return ungrouped

    def _groups(self, rows: int) -> bool:
        """Return whether calls of so many rows are grouped: any of one row, and others where two may be together."""
        return rows == 1 or 1 < 2 * rows <= self._max_rows

    def _by_template(self, template: Template, calls: list[Call], ungrouped: _Ungrouped) -> list[Call]:
        """Submit the calls whose requests match a template; returns the others."""
        if len(calls) == 1:
            return self._one_by_template(template, calls, ungrouped)
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
            self._submit(RequestGroup(template.request, calls, ids, template=template, values=values), ungrouped)
        return left

    def _one_by_template(self, template: Template, calls: list[Call], ungrouped: _Ungrouped) -> list[Call]:
        """Submit a lone call: each microsecond is one that its caller waits."""
        request = calls[0].request
        values = template.read_one(request)
        id = template.request_id(request)
        if values is None or not id.isascii():
            return calls
        held = np.frombuffer(values, "<f8").reshape(1, -1)
        self._submit(RequestGroup(template.request, calls, [id], template=template, values=held), ungrouped)
        return []

    def _by_message(self, calls: Sequence[Call], ungrouped: _Ungrouped) -> None:
        alike: dict[object, RequestGroup] = {}
        for call in calls:
            try:
                request = pb.ScoreRequest.FromString(call.request)
            except Exception:  # noqa: BLE001 - `score_alone` raises it again
                ungrouped.append((call, None))
                continue
            key = _key(request)
            if key is None or not self._groups(rows_of(request)):
                ungrouped.append((call, request))
                continue
            some = alike.setdefault(key, RequestGroup(request))
            some.calls.append(call)
            some.ids.append(request.request_id.encode())
            some.messages.append(request)
        for some in alike.values():
            if len(some.calls) == 1 < rows_of(some.request):
                # Not worth a template.
                _leave(some, ungrouped)
            else:
                self._submit(some, ungrouped)

    def _submit(self, some: RequestGroup, ungrouped: _Ungrouped) -> None:
        """Submit a group, those with about the same deadline together."""
        # The same for all of them, whatever rules come meanwhile.
        rules = self._targets.rules
        if rules.restricted:
            some = self._allowed(some, rules, ungrouped)
            if not some.calls:
                return
        try:
            # All of them may, as the first one.
            version = self._targets.resolve(some.request.model, some.calls[0].principal, "score", rules)
            _note(some, version.name, version.version)
            series = self._series.version(version.name, version.version)
            for call in some.calls:
                call.series = series
            target = self._targets.of(version)
            template = some.template
            spec = None if template is None else template.spec
            if spec is None or spec.target is not target:
                spec = _spec(target, some.request, self._log)
                if template is not None:
                    template.spec = spec
        except InvalidInput:
            # `score_alone` adds the violations of its rows.
            _leave(some, ungrouped)
            return
        except EnricherError as error:
            _note(some, some.request.model.name, error.metadata.get("version", ""))
            fail_all(some.calls, to_status(error))
            return
        layout = input_layout(target.signature)
        if template is not None and template.layout is not layout and template.layout.fields != layout.fields:
            # The model takes something else by now.
            self._templates.forget(template)
            self._by_message(some.calls, ungrouped)
            return
        if layout.one_row is None:
            _leave(some, ungrouped)
            return
        rows = rows_of(some.request)
        if template is None and rows > 1:
            self._by_first(some, layout, ungrouped)
            return
        for places, deadline in _by_deadline(some.calls, min(max(self._max_rows // rows, 1), MAX_CALLS)):
            self._send(spec, layout, some.at(places), deadline, ungrouped)

    def _by_first(self, some: RequestGroup, layout: Layout, ungrouped: _Ungrouped) -> None:
        """Submit the calls of a group that read as its first one does; the others are scored by themselves."""
        template = learn_template(some.calls[0].request, some.messages[0], layout)
        alike = [template is not None and len(call.request) == template.size for call in some.calls]
        _leave(some.at([place for place, one in enumerate(alike) if not one]), ungrouped)
        if template is not None:
            self._templates.add(template)
            some = some.at([place for place, one in enumerate(alike) if one])
            ungrouped += [(call, None) for call in self._by_template(template, some.calls, ungrouped)]

    def _allowed(self, some: RequestGroup, rules: AccessRules, ungrouped: _Ungrouped) -> RequestGroup:
        """Return the group of those whose callers may score the model; the others hear why not by themselves."""
        name = some.request.model.name
        allowed = rules.scorers.get(name, _NOBODY)
        others = {call.principal for call in some.calls} - allowed
        if not others:
            return some
        refused = {principal for principal in others if not rules.may(principal, "score", name)}
        if len(refused) < len(others):
            if len(rules.scorers) >= _MAX_ALLOWED or len(allowed) >= _MAX_ALLOWED:
                rules.scorers = {}
            rules.scorers[name] = allowed | (others - refused)
        if not refused:
            return some
        _leave(some.at([place for place, call in enumerate(some.calls) if call.principal in refused]), ungrouped)
        return some.at([place for place, call in enumerate(some.calls) if call.principal not in refused])

    def _send(
        self, spec: ScoreSpec, layout: Layout, some: RequestGroup, deadline: float | None, ungrouped: _Ungrouped
    ) -> None:
        rows = rows_of(some.request)
        refusal = self._pool.refusal(spec.target, len(some.calls) * rows, deadline)
        if refusal is None and deadline is not None and time.monotonic() >= deadline:
            refusal = DeadlineExceeded("queue")
        if refusal is not None:
            fail_all(some.calls, to_status(refusal))
            return
        read: list[Sequence[object]] = []
        if some.template is None:
            held = [_values(message, layout) for message in some.messages]
            if any(row is None for row in held):
                places = [place for place, row in enumerate(held) if row is not None]
                _leave(some.at([place for place, row in enumerate(held) if row is None]), ungrouped)
                some = some.at(places)
            read += [row for row in held if row is not None]
            if not read:
                return
            template = learn_template(some.calls[0].request, some.messages[0], layout)
            if template is not None:
                self._templates.add(template)
        if self._quotas.enabled:
            places = self._charge(some.calls, rows)
            if not places:
                return
            some, read = some.at(places), [read[place] for place in places if read]
        batch = layout.batch_of_rows(read) if some.template is None else some.template.batch(some.values)
        self._pool.submit(_job_of(spec, some.calls, some.ids, batch, deadline))

    def _charge(self, calls: Sequence[Call], rows: int) -> list[int]:
        """Take the rows of each call from the quota of its caller; returns the places of those that pass."""
        places: list[int] = []
        of_principal: dict[Principal | None, list[int]] = {}
        for place, call in enumerate(calls):
            of_principal.setdefault(call.principal, []).append(place)
        for principal, own in of_principal.items():
            passed, refusal = self._quotas.charge_each(principal, len(own), rows)
            places += own[:passed]
            if refusal is not None:
                fail_all([calls[place] for place in own[passed:]], to_status(refusal))
        # As they are in the group.
        return sorted(places)


def _note(some: RequestGroup, model: str, version: str) -> None:
    """Note for the logs what calls score."""
    if not are_noted(some.calls):
        return
    rows = rows_of(some.request)
    for call, id in zip(some.calls, some.ids, strict=True):
        if (record := call.audit) is not None:
            record.model, record.version, record.rows = model, version, rows
            record.request_id = id.decode()


def _key(request: pb.ScoreRequest) -> object:
    """Return what a request asks besides its values, as a key; None where it is scored by itself."""
    form = request.WhichOneof("input")
    if form == "columns":
        rows = request.columns.num_rows
        if rows > 1 and not all(_is_plain(column, rows) for column in request.columns.columns):
            return None
    elif form == "dense" and request.signature_digest:
        rows = request.dense.num_rows
    else:
        return None
    if (
        rows < 1
        or (rows > 1 and request.independent_rows)
        or request.params
        or len(request.request_id) > MAX_REQUEST_ID
    ):
        return None
    model = request.model
    selector = model.WhichOneof("selector")
    # The text of the selector distinguishes an alias from a version of the same name.
    return (form, rows, model.name, selector, model.version, model.alias, request.signature_digest, *request.outputs)


def _is_plain(column: value_pb2.Column, rows: int) -> bool:
    """Return whether a column is of doubles, of which none is null."""
    return column.HasField("doubles") and len(column.doubles.values) == rows and not column.validity


def _spec(target: Target, request: pb.ScoreRequest, log: RequestLog | None) -> ScoreSpec:
    """Return what calls ask; raises EnricherError where it does not fit the signature."""
    signature = target.signature
    if request.signature_digest and request.signature_digest != signature.digest:
        raise SignatureChanged(target.name, target.version, signature.digest)
    outputs = codec.select_outputs(signature.outputs, request.outputs)
    params = codec.decode_params(request.params, signature)
    return ScoreSpec(target, params, outputs, request.WhichOneof("input") or "", log)


def _values(request: pb.ScoreRequest, layout: Layout) -> Sequence[object] | None:
    """Return the row of a plain request; None for others."""
    if request.WhichOneof("input") == "columns":
        held = None if layout.one_row is None else layout.one_row.values(request.columns)
        # Rows with nulls share a model call with rows of the same nulls only, which is the queue's to decide.
        return None if held is None or None in held else held
    values = request.dense.values
    if not layout.all_doubles or len(values) != 8 * len(layout.fields):
        return None
    row: list[object] = np.frombuffer(values, "<f8").tolist()
    return row


def _by_deadline(calls: Sequence[Call], max_calls: int) -> Iterable[tuple[Sequence[int], float | None]]:
    """Yield the places of up to `max_calls` calls with about the same deadline, and the first of their deadlines."""
    if len(calls) == 1:
        yield (0,), calls[0].deadline
        return
    spans: dict[int | None, list[int]] = {}
    for place, call in enumerate(calls):
        span = None if call.deadline is None else int(min(call.deadline, _FAR) / DEADLINE_SPAN)
        spans.setdefault(span, []).append(place)
    for places in spans.values():
        for start in range(0, len(places), max_calls):
            some = places[start : start + max_calls]
            deadlines = [deadline for place in some if (deadline := calls[place].deadline) is not None]
            yield some, min(deadlines, default=None)


def _leave(some: RequestGroup, ungrouped: _Ungrouped) -> None:
    messages: Sequence[pb.ScoreRequest | None] = some.messages or [None] * len(some.calls)
    ungrouped += zip(some.calls, messages, strict=True)
