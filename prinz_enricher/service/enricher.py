"""The RPCs of `EnricherService`: raw calls in, answers by callback."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from prinz_enricher.batch.wire import Views
from prinz_enricher.catalog import CatalogModel, CatalogVersion, Union, paginate
from prinz_enricher.config import QuotaSettings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import EnricherError, InvalidRequest, NotImplementedYet, Overloaded
from prinz_enricher.scoring.ports import WorkerPool
from prinz_enricher.security.access import Method
from prinz_enricher.security.principal import Principal
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.calls import Call, Source
from prinz_enricher.service.catalog_view import CatalogView
from prinz_enricher.service.model_messages import ModelMessages, WatchSource, model_message
from prinz_enricher.service.score.call import score_alone
from prinz_enricher.service.score.messages import Limits, parse_score_request
from prinz_enricher.service.score.request_grouping import RequestGrouper
from prinz_enricher.service.status import internal_failure, to_status
from prinz_enricher.service.targets import Targets
from prinz_enricher.signature import to_wire

log = structlog.stdlib.get_logger(__name__)

LARGE_REQUEST = 256 * 1024
"""Bytes from which a request is read by other threads, so that small calls do not wait behind it."""

HUGE_REQUEST = 8 * 1024 * 1024
"""Bytes from which the memory of a request is returned to the system at once."""

_M = TypeVar("_M", bound=Message)


class EnricherService:
    """Answers calls from the catalog and the worker pool, as far as access rules and quotas allow."""

    def __init__(
        self, catalog: Union, pool: WorkerPool, targets: Targets, limits: Limits, quotas: Quotas | None = None
    ) -> None:
        self._catalog = catalog
        self._pool = pool
        self._targets = targets
        self._limits = limits
        self._quotas = quotas or Quotas(QuotaSettings())
        self._grouper = RequestGrouper(pool, targets, self._quotas, limits.shared)
        self._messages = ModelMessages(targets, pool)
        self._large = ThreadPoolExecutor(max_workers=2, thread_name_prefix="large-request")
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
                self._submit(self._large, self._answer_large, call)
            elif call.method == "Score":
                scores.append(call)
            else:
                self._submit(self._lists if call.method == "ListModels" else self._signatures, self._answer, call)
        if scores:
            self._gather(scores)

    def _submit(self, threads: ThreadPoolExecutor, answer: Callable[[Call], None], call: Call) -> None:
        try:
            threads.submit(answer, call)
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

    def close(self) -> None:
        """Wait for the threads of large requests, lists and signatures."""
        for threads in (self._large, self._lists, self._signatures):
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
            call.fail(internal_failure(log, "call failed", error, method=call.method))

    def _answer_large(self, call: Call) -> None:
        self._answer(call)
        if len(call.request) > HUGE_REQUEST:
            # Its memory is free by now, and nobody waits for this thread.
            _trim_heap()

    def _list_models(self, call: Call) -> None:
        request = parse(pb.ListModelsRequest, call.request)
        seen = CatalogView(self._catalog, self._targets.rules, call.principal, "list")
        snapshot = seen.snapshot()
        full = is_full(request.view)
        view = "full" if full else "basic"
        page = paginate(
            snapshot,
            request.page_size,
            request.page_token,
            request.filter,
            view,
            caller=seen.caller,
            find=seen.find,
        )
        age = Duration()
        age.FromNanoseconds(int(self._catalog.age() * 1e9))
        response = pb.ListModelsResponse(
            next_page_token=page.next_token, catalog_revision=page.snapshot.revision, catalog_age=age
        )
        models = [
            self._messages.get(model, full=full and self._may_describe(call.principal, model)) for model in page.models
        ]
        # Concatenated messages are one message with the fields of all.
        call.respond(b"".join([*models, response.SerializeToString()]))

    def _watch(
        self, request: pb.WatchModelsRequest, wake: Callable[[], None], principal: Principal | None
    ) -> WatchSource:
        full = is_full(request.view)

        def to_message(model: CatalogModel) -> model_pb2.Model:
            statuses = map(self._targets.status_of, model.versions)
            has_signatures = full and self._may_describe(principal, model)
            return model_message(model, self._targets.default_version(model), statuses, full=has_signatures)

        view = CatalogView(self._catalog, self._targets.rules, principal, "watch")
        return WatchSource(view, request.resume_token, to_message, wake)

    def _may_describe(self, principal: Principal | None, model: CatalogModel) -> bool:
        """Return whether the caller may see the signatures of a model that it may list."""
        return self._targets.rules.may(principal, "describe", model.name)

    def _get_signature(self, call: Call) -> None:
        request = parse(pb.GetSignatureRequest, call.request)
        version = self._resolve(call, request.model, "describe")
        response = pb.GetSignatureResponse(
            model=model_pb2.ModelRef(name=version.name, version=version.version),
            signature=to_wire(self._targets.signature(version)),
        )
        call.respond(response.SerializeToString())

    def _score_large(self, call: Call) -> None:
        self._score(call, *parse_score_request(call.request))

    def _score_small(self, call: Call, request: pb.ScoreRequest | None = None) -> None:
        self._score(call, parse(pb.ScoreRequest, call.request) if request is None else request)

    def _score(self, call: Call, request: pb.ScoreRequest, views: Views | None = None) -> None:
        target = self._targets.of(self._resolve(call, request.model, "score"))
        score_alone(call, request, target, self._pool, self._limits, self._quotas, views)

    def _resolve(self, call: Call, model: model_pb2.ModelRef, method: Method) -> CatalogVersion:
        """Return the version that a call means, and note it for the audit."""
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


def _refuse(call: Call) -> None:
    raise NotImplementedYet(call.method)


def parse(kind: type[_M], data: bytes) -> _M:
    """Return the message in `data`; raises InvalidRequest where it is not of that kind."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidRequest("request", f"is not a {kind.DESCRIPTOR.name} message") from None


def _trim_heap() -> None:
    """Give back what malloc keeps of freed memory; does nothing where the C library can't.

    A large message arrives in thousands of small blocks. Once freed, they stay with the heaps of the threads that
    received them: a front would grow by such a message for each of its threads.
    """
    # Without malloc_trim, as on macOS or musl, the memory stays; nothing else is lost.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
