"""The RPCs of `EnricherService`: raw calls in, answers by callback."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from prinz_enricher.batch.read_bounds import UNBOUNDED, ReadBounds
from prinz_enricher.batch.wire import Views
from prinz_enricher.catalog import CatalogModel, CatalogVersion, Union, paginate
from prinz_enricher.config import QuotaSettings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import (
    DeadlineExceeded,
    DecodedTooLarge,
    EnricherError,
    InvalidRequest,
    NotImplementedYet,
    Overloaded,
)
from prinz_enricher.scoring.ports import WorkerPool
from prinz_enricher.security.access import AccessRules, Method
from prinz_enricher.security.principal import Principal
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.background_source import BackgroundSource
from prinz_enricher.service.calls import Call, Source
from prinz_enricher.service.catalog_view import CatalogView
from prinz_enricher.service.fair_threads import FairThreads
from prinz_enricher.service.model_messages import ModelMessages, WatchSource, model_message
from prinz_enricher.service.score.call import score_alone
from prinz_enricher.service.score.messages import Limits, is_small, parse_score_request
from prinz_enricher.service.score.request_grouping import RequestGrouper
from prinz_enricher.service.status import internal_failure, to_status
from prinz_enricher.service.targets import Targets
from prinz_enricher.signature import to_wire
from prinz_enricher.telemetry.request_log import RequestLog
from prinz_enricher.telemetry.series import Series

log = structlog.stdlib.get_logger(__name__)

LARGE_REQUEST = 64 * 1024
"""Bytes from which a request is parsed by other threads, so that small calls do not wait behind it."""

SMALL_STREAM = 64 * 1024
"""Bytes that an Arrow stream may become to be read by the thread that receives calls."""

MAX_PAGE_BYTES = 2 * 1024 * 1024
"""Bytes of a page of ListModels, unless one model has more: half of what clients of gRPC accept by default."""

_M = TypeVar("_M", bound=Message)


class EnricherService:
    """Answers calls from the catalog and the worker pool, as far as access rules and quotas allow."""

    def __init__(
        self,
        catalog: Union,
        pool: WorkerPool,
        targets: Targets,
        limits: Limits,
        quotas: Quotas | None = None,
        series: Series | None = None,
        log: RequestLog | None = None,
    ) -> None:
        self._log = log
        self._series = series or Series()
        self._catalog = catalog
        self._pool = pool
        self._targets = targets
        self._limits = limits
        self._quotas = quotas or Quotas(QuotaSettings())
        self._grouper = RequestGrouper(pool, targets, self._quotas, limits.shared, self._series, log)
        self._messages = ModelMessages(targets, pool)
        # What wakes each watch.
        self._watches: set[Callable[[], None]] = set()
        self._readers = FairThreads(2, "read-request")
        # Writing a list of a thousand models takes longer than a score, or the signature asked for before it, may wait.
        self._lists = ThreadPoolExecutor(max_workers=2, thread_name_prefix="list-models")
        self._signatures = ThreadPoolExecutor(max_workers=2, thread_name_prefix="get-signature")
        self._methods: dict[str, Callable[[Call], None]] = {
            "ListModels": self._list_models,
            "GetSignature": self._get_signature,
            "Score": self._score_large,
        }

    def handle(self, calls: Sequence[Call]) -> None:
        """Answer calls, each by its own callbacks; never blocks for long and never raises."""
        scores = []
        for call in calls:
            if len(call.request) > LARGE_REQUEST:
                self._read_elsewhere(call)
            elif call.method == "Score":
                scores.append(call)
            else:
                self._submit((self._lists if call.method == "ListModels" else self._signatures).submit, call)
        if scores:
            self._gather(scores)

    def _read_elsewhere(self, call: Call, method: Callable[[Call], None] | None = None) -> None:
        self._submit(partial(self._readers.submit, call.principal or call.peer), call, method)

    def _submit(
        self, submit: Callable[[Callable[[], None]], object], call: Call, method: Callable[[Call], None] | None = None
    ) -> None:
        try:
            submit(partial(self._answer, call, method))
        except RuntimeError as error:
            # No thread can be started, or the service ends.
            call.fail(to_status(Overloaded(f"no thread can take the call ({error})")))

    def open_source(
        self, method: str, request: bytes, wake: Callable[[], None], principal: Principal | None
    ) -> Source | status_pb2.Status:
        """Open the stream of a watch; other methods are refused."""
        try:
            if method != "WatchModels":
                raise NotImplementedYet(method)  # noqa: TRY301 - answered as any other error
            return self._watch(parse(pb.WatchModelsRequest, request), wake, principal)
        except EnricherError as error:
            return to_status(error)
        except Exception as error:  # noqa: BLE001 - a fault of this service
            return internal_failure(log, "stream failed", error, method=method)

    def change(self, limits: Limits, rules: AccessRules) -> None:
        """Go on with other limits and rules; other rules end all watches, whose callers may see other models by now."""
        self._limits = limits
        self._grouper.limit(limits.shared)
        if rules.digest != self._targets.rules.digest:
            self._targets.rules = rules
            for wake in list(self._watches):
                wake()

    def close(self) -> None:
        """Wait for the threads of requests that are not small, lists and signatures."""
        for threads in (self._readers, self._lists, self._signatures):
            threads.shutdown()

    def _gather(self, calls: Sequence[Call]) -> None:
        """Score alike calls together, the others each by itself."""
        try:
            ungrouped = self._grouper.submit(calls)
        except Exception as error:  # noqa: BLE001 - a fault of this service
            status = internal_failure(log, "calls failed", error, calls=len(calls))
            # Of calls that were submitted, the first answer counts.
            for call in calls:
                call.fail(status)
            return
        for call, request in ungrouped:
            self._answer(call, partial(self._score_small, request=request))

    def _answer(self, call: Call, method: Callable[[Call], None] | None = None) -> None:
        try:
            (method or self._methods.get(call.method, _refuse))(call)
        except EnricherError as error:
            call.fail(to_status(error))
        except Exception as error:  # noqa: BLE001 - a fault of this service
            call.fail(internal_failure(log, "call failed", error, method=call.method, trace_id=call.trace_id))

    def _list_models(self, call: Call) -> None:
        request = parse(pb.ListModelsRequest, call.request)
        rules = self._targets.rules
        seen = CatalogView(self._catalog, rules, call.principal, "list")
        snapshot = seen.snapshot()
        full = is_full(request.view)
        view = "full" if full else "basic"
        contents: list[bytes] = []
        room = MAX_PAGE_BYTES

        def fits(model: CatalogModel) -> bool:
            """Write a model, and keep it where the page has room."""
            nonlocal room
            content = self._messages.get(model, full=full and rules.may(call.principal, "describe", model.name))
            room -= len(content)
            if room < 0 and contents:
                return False
            contents.append(content)
            return True

        page = paginate(
            *(snapshot, request.page_size, request.page_token, request.filter, view),
            caller=seen.caller,
            find=seen.find,
            fits=fits,
        )
        age = Duration()
        age.FromNanoseconds(int(self._catalog.age() * 1e9))
        response = pb.ListModelsResponse(
            next_page_token=page.next_token, catalog_revision=page.snapshot.revision, catalog_age=age
        )
        # Concatenated messages are one message with the fields of all.
        call.respond(b"".join([*contents, response.SerializeToString()]))

    def _watch(
        self, request: pb.WatchModelsRequest, wake: Callable[[], None], principal: Principal | None
    ) -> BackgroundSource:
        full = is_full(request.view)
        rules = self._targets.rules

        def to_message(model: CatalogModel) -> model_pb2.Model:
            statuses = map(self._targets.status_of, model.versions)
            has_signatures = full and rules.may(principal, "describe", model.name)
            return model_message(model, self._targets.default_version(model), statuses, full=has_signatures)

        view = CatalogView(self._catalog, rules, principal, "watch")

        def open_source(woken: Callable[[], None]) -> WatchSource:
            is_outdated = lambda: self._targets.rules is not rules  # noqa: E731 - as short as what it says
            forget = partial(self._watches.discard, woken)
            source = WatchSource(view, request.resume_token, to_message, woken, is_outdated, forget)
            # Before its first pull, which looks at the rules.
            self._watches.add(woken)
            return source

        return BackgroundSource(self._lists, open_source, wake)

    def _get_signature(self, call: Call) -> None:
        request = parse(pb.GetSignatureRequest, call.request)
        version = self._resolve(call, request.model, "describe")
        response = pb.GetSignatureResponse(
            model=model_pb2.ModelRef(name=version.name, version=version.version),
            signature=to_wire(self._targets.signature(version)),
        )
        call.respond(response.SerializeToString())

    def _score_large(self, call: Call) -> None:
        _check_waits(call)
        self._score(call, *parse_score_request(call.request, self._limits.rows, self._bounds(call)))

    def _score_small(self, call: Call, request: pb.ScoreRequest | None = None) -> None:
        """Score a request here if it is quickly read, and otherwise by a thread that may take its time."""
        message = parse(pb.ScoreRequest, call.request) if request is None else request
        small = is_small(message, len(call.request))
        if small and message.HasField("arrow_stream"):
            # No row of a stream is charged or read before it is known what it becomes.
            try:
                self._score(call, message, bounds=ReadBounds(SMALL_STREAM))
            except DecodedTooLarge:
                small = False
        elif small:
            self._score(call, message, bounds=UNBOUNDED)
        if not small:
            self._read_elsewhere(call, partial(self._score, request=message))

    def _score(
        self, call: Call, request: pb.ScoreRequest, views: Views | None = None, bounds: ReadBounds | None = None
    ) -> None:
        if call.audit is not None:
            call.audit.request_id = request.request_id
        version = self._resolve(call, request.model, "score")
        call.series = self._series.version(version.name, version.version)
        target = self._targets.of(version)
        bounds = bounds or self._bounds(call)
        score_alone(call, request, target, self._pool, self._limits, self._quotas, views, bounds, self._log)

    def _bounds(self, call: Call) -> ReadBounds:
        return ReadBounds(self._limits.decoded, partial(_check_waits, call), call.hold)

    def _resolve(self, call: Call, model: model_pb2.ModelRef, method: Method) -> CatalogVersion:
        """Return the version that a call means, and note it for the logs."""
        if call.audit is None:
            return self._targets.resolve(model, call.principal, method)
        call.audit.model = model.name
        version = self._targets.resolve(model, call.principal, method)
        call.audit.version = version.version
        return version


def is_full(view: int) -> bool:
    """Return whether a view has signatures; raises InvalidRequest for an unknown view."""
    if view not in pb.ModelView.values():
        raise InvalidRequest("view", "is not a ModelView")
    return view == pb.MODEL_VIEW_FULL


def _check_waits(call: Call) -> None:
    """Raise where nobody waits for the answer any more."""
    if call.cancelled() or (call.deadline is not None and time.monotonic() >= call.deadline):
        raise DeadlineExceeded("queue")


def _refuse(call: Call) -> None:
    raise NotImplementedYet(call.method)


def parse(kind: type[_M], data: bytes) -> _M:
    """Return the message in `data`; raises InvalidRequest where it is not of that kind."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidRequest("request", f"is not a {kind.DESCRIPTOR.name} message") from None
