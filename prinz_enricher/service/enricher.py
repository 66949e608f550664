"""The RPCs of `EnricherService`: raw calls in, answers by callback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from prinz_enricher.catalog import (
    CatalogModel,
    CatalogVersion,
    Snapshot,
    Union,
    default_version,
    paginate,
    resolve,
)
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import (
    EnricherError,
    InvalidRequest,
    NotImplementedYet,
    Overloaded,
)
from prinz_enricher.scoring import Status, Target, WorkerPool
from prinz_enricher.service.alias_routing import AliasRouter
from prinz_enricher.service.calls import Call, Source
from prinz_enricher.service.heap import trim_heap
from prinz_enricher.service.model_messages import ModelMessages, model_message
from prinz_enricher.service.score.call import ScoreCall
from prinz_enricher.service.score.payload import Limits, parse_score_request
from prinz_enricher.service.score.request_grouping import RequestGrouper
from prinz_enricher.service.status import internal_failure, to_status
from prinz_enricher.service.targets import Routes, Targets
from prinz_enricher.service.watch import WatchSource
from prinz_enricher.signature import to_wire

log = structlog.stdlib.get_logger(__name__)

LARGE_REQUEST = 256 * 1024
"""Bytes from which a request is read by other threads, so that small calls do not wait behind it."""

HUGE_REQUEST = 8 * 1024 * 1024
"""Bytes from which the memory of a request is returned to the system at once."""

_M = TypeVar("_M", bound=Message)


class EnricherService:
    """Answers calls from the catalog and the worker pool.

    Args:
        catalog: The models there are.
        pool: Scores them.
        default_policy: The policies for calls that name no version.
        limits: Bounds of a request.
        allowed_loaders: Patterns of the names of modules that may load a model.
        allow_observed: Whether observed outputs may be served where a tag wants it.
        environment_tag: Whether the tag `prinz.environment` counts.
        routes: Chooses endpoints.
    """

    def __init__(
        self,
        catalog: Union,
        pool: WorkerPool,
        *,
        default_policy: Sequence[str],
        limits: Limits,
        allowed_loaders: Sequence[str] = ("*",),
        allow_observed: bool = False,
        environment_tag: bool = False,
        routes: Routes | None = None,
    ) -> None:
        self._catalog = catalog
        self._pool = pool
        self._policy = tuple(default_policy)
        self._limits = limits
        self._targets = Targets(
            catalog,
            allowed_loaders,
            routes or Routes({}),
            allow_observed=allow_observed,
            environment_tag=environment_tag,
        )
        self._aliases = AliasRouter(pool, self.target)
        self._grouper = RequestGrouper(pool, self._resolve, self._targets.of, limits.shared)
        self._messages = ModelMessages(self.default_version, self.target, self._pool.status, self._targets.state)
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

    def open_source(self, method: str, request: bytes, wake: Callable[[], None]) -> Source | status_pb2.Status:
        """Open the stream of a watch; other methods are refused."""
        try:
            if method != "WatchModels":
                raise NotImplementedYet(method)  # noqa: TRY301 - answered as any other error
            return self._watch(parse(pb.WatchModelsRequest, request), wake)
        except EnricherError as error:
            return to_status(error)
        except Exception as error:  # noqa: BLE001 - a fault of this service
            return internal_failure(log, "stream failed", error, method=method)

    def close(self) -> None:
        """Wait for the threads of large requests, lists and signatures."""
        for threads in (self._large, self._lists, self._signatures):
            threads.shutdown()

    def target(self, version: CatalogVersion) -> Target | None:
        """Return the target of a version; None where it can't be scored."""
        return self._targets.find(version)

    def status_of(self, version: CatalogVersion) -> Status:
        """Return the status of a version, by the registry and the pool."""
        target = self.target(version)
        return self._targets.state(version, None if target is None else self._pool.status(target))

    def follow(self, snapshot: Snapshot) -> None:
        """Load the versions that aliases in use mean in a snapshot."""
        self._aliases.follow(snapshot, lambda name, alias: self._meant(snapshot, name, alias))

    def _meant(self, snapshot: Snapshot, name: str, alias: str | None) -> CatalogVersion | None:
        try:
            return resolve(snapshot, name, None, alias, self._policy)
        except EnricherError:
            return None

    def default_version(self, model: CatalogModel) -> CatalogVersion | None:
        """Return the version that a reference without a selector means; None for none."""
        return default_version(model, self._policy)

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
            self._answer(call, partial(self._score_alone, request=request))

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
            trim_heap()

    def _list_models(self, call: Call) -> None:
        request = parse(pb.ListModelsRequest, call.request)
        snapshot = self._catalog.snapshot()
        full = is_full(request.view)
        page = paginate(
            snapshot,
            request.page_size,
            request.page_token,
            request.filter,
            "full" if full else "basic",
            find=self._catalog.find,
        )
        age = Duration()
        age.FromNanoseconds(int(self._catalog.age() * 1e9))
        response = pb.ListModelsResponse(
            next_page_token=page.next_token, catalog_revision=page.snapshot.revision, catalog_age=age
        )
        models = [self._messages.get(model, full=full) for model in page.models]
        # Concatenated messages are one message with the fields of all.
        call.respond(b"".join([*models, response.SerializeToString()]))

    def _watch(self, request: pb.WatchModelsRequest, wake: Callable[[], None]) -> WatchSource:
        full = is_full(request.view)

        def to_message(model: CatalogModel) -> model_pb2.Model:
            return model_message(model, self.default_version(model), self.status_of, full=full)

        return WatchSource(self._catalog, request.resume_token, to_message, wake)

    def _get_signature(self, call: Call) -> None:
        request = parse(pb.GetSignatureRequest, call.request)
        version = self._resolve(request.model)
        response = pb.GetSignatureResponse(
            model=model_pb2.ModelRef(name=version.name, version=version.version),
            signature=to_wire(self._targets.signature(version)),
        )
        call.respond(response.SerializeToString())

    def _score_large(self, call: Call) -> None:
        request, views = parse_score_request(call.request)
        target = self._targets.of(self._resolve(request.model))
        ScoreCall(call, request, target, views).submit(self._pool, self._limits)

    def _score_alone(self, call: Call, request: pb.ScoreRequest | None) -> None:
        if request is None:
            request = parse(pb.ScoreRequest, call.request)
        target = self._targets.of(self._resolve(request.model))
        ScoreCall(call, request, target).submit(self._pool, self._limits)

    def _resolve(self, model: model_pb2.ModelRef) -> CatalogVersion:
        if not model.name:
            raise InvalidRequest("model.name", "is required")
        selector = model.WhichOneof("selector")
        if selector and not getattr(model, selector):
            raise InvalidRequest(f"model.{selector}", "is empty; leave it out for the default version")
        version = model.version if selector == "version" else None
        alias = model.alias if selector == "alias" else None
        snapshot = self._catalog.snapshot()
        if model.name not in snapshot.models and (why := self._catalog.unknown(model.name)) is not None:
            raise why
        meant = resolve(snapshot, model.name, version, alias, self._policy)
        if version is not None:
            return meant
        return self._aliases.choose(snapshot.models[model.name], alias, meant)


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
