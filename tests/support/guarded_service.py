"""The service in this process with access rules and quotas, over a catalog that tests publish."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.catalog import CatalogModel, CatalogVersion, Snapshot, Union
from prinz_enricher.config import AccessRule, Settings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import value_pb2
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import Target
from prinz_enricher.security.principal import Principal
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.calls import Source
from prinz_enricher.service.enricher import EnricherService
from prinz_enricher.service.score.messages import Limits
from prinz_enricher.service.targets import Targets
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature, output_schema
from prinz_enricher.telemetry.request_log import RequestLog
from prinz_enricher.telemetry.series import Series
from tests.support.callback_call import CallbackCall

SIGNATURE = Signature((Field("x", Scalar(ScalarKind.DOUBLE)),), (Field("y", Scalar(ScalarKind.DOUBLE)),))

WAIT = 20.0
"""Seconds until a test gives up."""

RESPONSES: Mapping[str, Any] = {
    "ListModels": pb.ListModelsResponse,
    "GetSignature": pb.GetSignatureResponse,
    "Score": pb.ScoreResponse,
}


def rule(principals: str, models: str, methods: str = "list describe score watch") -> AccessRule:
    """Return a rule; each argument is a list of words."""
    return AccessRule.model_validate(
        {"principals": principals.split(), "models": models.split(), "methods": methods.split()}
    )


def model_of(name: str, description: str = "") -> CatalogModel:
    """Return a model of one version, with an alias and tags."""
    tags = {"team": f"team of {name}"}
    version = CatalogVersion(
        name, "1", ("champion",), description, tags, "READY", ("python_function",), "run", f"s3://models/{name}",
        0, 0, SIGNATURE,
    )  # fmt: skip
    fingerprint = hashlib.sha256(f"{name}\n{description}".encode()).digest()
    return CatalogModel(name, description, tags, {"champion": "1"}, (version,), 0, 0, fingerprint=fingerprint)


class PublishedCatalog(Union):
    """A catalog of models that tests publish."""

    def __init__(self) -> None:
        super().__init__([])
        self._models: dict[str, CatalogModel] = {}

    def change(self, *added: CatalogModel, removed: Iterable[str] = ()) -> None:
        """Publish the catalog with some models added or changed, and some removed."""
        self._models |= {model.name: model for model in added}
        for name in removed:
            del self._models[name]
        models = dict(sorted(self._models.items()))
        revision = hashlib.sha256(b"".join(model.fingerprint for model in models.values())).hexdigest()
        self.publish(Snapshot(revision[:32], models))

    def url_of(self, version: CatalogVersion) -> str:
        """Return the one registry there is."""
        return "http://registry"

    def age(self) -> float:
        """Return how old it is."""
        return 0.0


def halve(batch: pa.RecordBatch, _: object) -> pa.RecordBatch:
    """Score: halve each row."""
    halves = [value / 2 for value in batch.column(0).to_pylist()]
    return pa.RecordBatch.from_arrays([pa.array(halves)], schema=output_schema(SIGNATURE))


class GuardedService:
    """A service with these models, rules and quotas."""

    def __init__(
        self,
        *models: str,
        rules: Sequence[AccessRule] = (),
        quotas: Quotas | None = None,
        workers: int = 64,
        log: RequestLog | None = None,
    ) -> None:
        # Imported here: most tests of the folder need no pool.
        from tests.support.inline_pool import InlinePool

        self.catalog = PublishedCatalog()
        self.catalog.change(*map(model_of, models))
        settings = Settings.load({}, environment={}).model_copy(update={"access": tuple(rules)})
        self.series = Series()
        self.pool = InlinePool(self.function_of, PoolSettings(max_workers=workers), series=self.series)
        self.targets = Targets(self.catalog, self.pool, settings)
        limits = Limits(10_000, 1 << 24)
        self.service = EnricherService(self.catalog, self.pool, self.targets, limits, quotas, self.series, log)

    def function_of(self, target: Target) -> Any:
        """Return what scores a model."""
        return halve

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self.service.close()
        self.pool.close(1.0)

    def ask(self, principal: Principal | None, *requests: Message) -> list[Any]:
        """Hand over requests at once, and return their outcomes in order."""
        return self.ask_each([(principal, request) for request in requests])

    def ask_each(self, requests: Sequence[tuple[Principal | None, Message]]) -> list[Any]:
        """Hand over requests of several principals at once, and return their outcomes in order."""
        answers: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in requests]
        self.service.handle(
            [
                CallbackCall(
                    type(request).__name__.removesuffix("Request"),
                    request.SerializeToString(),
                    time.monotonic(),
                    None,
                    answer.put,
                    answer.put,
                    principal=principal,
                )
                for (principal, request), answer in zip(requests, answers, strict=True)
            ]
        )
        return [answer.get(timeout=WAIT) for answer in answers]

    def one(self, principal: Principal | None, request: Message) -> Any:
        """Return the response to a request, or the status."""
        [outcome] = self.ask(principal, request)
        kind = RESPONSES[type(request).__name__.removesuffix("Request")]
        return kind.FromString(outcome) if isinstance(outcome, bytes) else outcome

    def watch(self, principal: Principal | None, token: str = "", *, full: bool = False) -> Source | status_pb2.Status:
        """Open a watch."""
        view = pb.MODEL_VIEW_FULL if full else pb.MODEL_VIEW_BASIC
        request = pb.WatchModelsRequest(resume_token=token, view=view)
        source = self.service.open_source("WatchModels", request.SerializeToString(), lambda: None, principal)
        return source if isinstance(source, status_pb2.Status) else SettledSource(source, self.service._lists)


class SettledSource:
    """A source, which is waited for until its threads have written what there is."""

    def __init__(self, source: Source, threads: ThreadPoolExecutor) -> None:
        self._source = source
        self._threads = threads
        self._count = threads._max_workers

    def pull(self) -> bytes | status_pb2.Status | None:
        """Return the next message; None where there is none."""
        item = self._source.pull()
        if item is None:
            # Once each thread is at the barrier, none of them writes.
            barrier = threading.Barrier(self._count + 1)
            for _ in range(self._count):
                self._threads.submit(barrier.wait, WAIT)
            barrier.wait(WAIT)
            item = self._source.pull()
        return item

    def close(self) -> None:
        """End it."""
        self._source.close()


def events_of(source: Source | status_pb2.Status) -> list[pb.WatchModelsResponse]:
    """Pull the events that a watch has now."""
    assert not isinstance(source, status_pb2.Status), source
    events = []
    while (item := source.pull()) is not None:
        assert isinstance(item, bytes), item
        events.append(pb.WatchModelsResponse.FromString(item))
    return events


def score_request(model: str, *rows: float, version: str = "", alias: str = "") -> pb.ScoreRequest:
    """Return a request of rows in columns."""
    column = value_pb2.Column(name="x", doubles=value_pb2.DoubleValues(values=rows))
    request = pb.ScoreRequest(columns=value_pb2.ColumnBatch(num_rows=len(rows), columns=[column]))
    request.model.name = model
    if version:
        request.model.version = version
    if alias:
        request.model.alias = alias
    return request


def signature_request(model: str, **selector: str) -> pb.GetSignatureRequest:
    """Return a request for a signature."""
    return pb.GetSignatureRequest(model={"name": model, **selector})


def reason_of(outcome: Any) -> str:
    """Return the reason of an error, or OK."""
    if not isinstance(outcome, status_pb2.Status):
        return "OK"
    info = error_details_pb2.ErrorInfo()
    outcome.details[0].Unpack(info)
    return str(info.reason)
