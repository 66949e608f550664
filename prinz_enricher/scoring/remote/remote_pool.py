"""The pool that scores at the model servers of an endpoint, and its workers: batches go there over HTTP."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import structlog

from prinz_enricher.config import EndpointSettings
from prinz_enricher.config.endpoint_paths import ModelAddress, NoPath, paths
from prinz_enricher.errors import (
    DeadlineExceeded,
    EnricherError,
    InvalidInput,
    ModelError,
    OutputMismatch,
    UnavailableError,
    UpstreamUnavailable,
    Violation,
)
from prinz_enricher.registry.auth import Access
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import Loaded, LoadFailed, ModelCall, OutputsObserved, ServerAway, Target, WorkerDied
from prinz_enricher.scoring.remote.endpoint_client import EndpointClient
from prinz_enricher.scoring.remote.in_thread import InThreadWorker
from prinz_enricher.scoring.remote.predictions import (
    NotPredictions,
    answer_reader,
    decode,
    decode_error,
    observed_outputs,
)
from prinz_enricher.scoring.remote.request_body import Body, BodyForm, choose, encode, row_bytes
from prinz_enricher.scoring.remote.upstream import CallCancelled, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from prinz_enricher.signature import input_schema
from prinz_enricher.telemetry.series import Series
from prinz_enricher.telemetry.tracing import BatchTrace
from prinz_enricher.worker import trial

_PER_BASE = 2
"""Requests of a version at once, for each base: one is answered while the next one is on its way."""

_FIND_SECONDS = 60.0
"""How long finding a model may take: a few requests."""

_MOST_PARAMS = 64
"""Sets of parameters for which it is remembered which rows may be in one request."""

_TRIED_ROWS = 4
"""Of a caller's request that are scored alone as well, where no sample showed what several rows are."""


@dataclass(frozen=True, slots=True)
class EndpointContext:
    """What the workers of an endpoint share; `parts` make the requests of a batch that needs several.

    `on_observed` is called with the outputs that a model returns, as MLflow's JSON of a schema, if they are not those
    declared and may replace them.
    """

    name: str
    client: EndpointClient
    parts: ThreadPoolExecutor
    settings: PoolSettings
    on_observed: Callable[[Target, str], object] = lambda *_: None


class RemotePool(VersionPool):
    """Scores at the model servers of one endpoint: a version has requests under way in place of worker processes."""

    def __init__(
        self,
        name: str,
        endpoint: EndpointSettings,
        access: Access,
        settings: PoolSettings,
        *,
        on_change: Callable[[], object] = lambda: None,
        on_observed: Callable[[Target, str], object] = lambda *_: None,
        series: Series | None = None,
    ) -> None:
        """Ask nobody yet; settings of worker numbers do not count. Raises AccessError as `ConnectionPool`."""
        self._client = EndpointClient(endpoint, access)
        self._parts = ThreadPoolExecutor(endpoint.max_concurrent, thread_name_prefix=f"remote-{name}")
        self._context = EndpointContext(name, self._client, self._parts, settings, on_observed)
        series = series or Series()
        series.upstreams[name] = self._client.usage
        super().__init__(lambda target: RemoteWorker(target, self._context), settings, on_change, series=series)

    def change(self, settings: PoolSettings) -> None:
        """Go on with other limits and times."""
        self._context = replace(self._context, settings=settings)
        endpoint = self._client.endpoint
        # Its workers are requests: each has a thread, and no other process.
        requests = replace(
            settings,
            max_workers=1_000_000,
            replicas=max(1, min(endpoint.max_concurrent, _PER_BASE * len(endpoint.urls))),
            max_replicas=endpoint.max_concurrent,
            hang_grace=settings.hang_grace + endpoint.timeout,
        )
        super().change(requests)

    def close(self, grace: float) -> None:
        """Accept no more jobs, finish those accepted within `grace` seconds, and close all connections."""
        super().close(grace)
        self._client.close()
        self._parts.shutdown(wait=False, cancel_futures=True)


class RemoteWorker(InThreadWorker):
    """Scores one model version at the servers of an endpoint, in the thread that keeps the worker."""

    def __init__(self, target: Target, context: EndpointContext) -> None:
        super().__init__()
        self._target = target
        self._context = context
        self._endpoint = context.client.endpoint
        self._exact = context.settings.batching == "exact"
        self._log = structlog.get_logger(__name__).bind(model=target.name, version=target.version)
        self._path = ""
        self._parquet_works = False
        self._answers = answer_reader(target.signature)
        # By the parameters: with others a model may do something else.
        self._sharing: dict[str, trial.Sharing] = {}
        # The last answer, while the model is tried.
        self._content = b""

    def start(self) -> Loaded:
        """Find the model, see which forms its server takes, and whether calls may share a request."""
        began = time.monotonic()
        deadline = began + min(self._context.settings.load_timeout, _FIND_SECONDS)
        signature = self._target.signature
        made = trial.made_batch(input_schema(signature)) if signature.inputs else None
        # Of a model that declares no inputs, a row without columns.
        sample = made if made is not None else pa.RecordBatch.from_struct_array(pa.array([{}], pa.struct([])))
        params = {param.name: param.default for param in signature.params}
        self._path = self._find(sample, params, deadline)
        self._parquet_works = bool(signature.inputs) and not signature.params and self._takes_parquet(sample, deadline)
        samples = [] if made is None else [trial.Sample(made, example=False)]
        sharing = self._try(ModelCall(sample, params, "", deadline), samples)
        self._sharing[_key(params)] = sharing
        facts = {"parquet": self._parquet_works, "batching": sharing.shared, "why": sharing.why}
        self._log.info("a model server was found", endpoint=self._context.name, path=self._path, **facts)
        return Loaded(f"remote {self._path}", sharing.shared, {"probe": time.monotonic() - began}, sharing.note)

    def score(self, call: ModelCall) -> pa.RecordBatch:
        """Score a batch in as many requests as it needs; raises WorkerDied if nobody waits for it any more."""
        if call.batch.num_rows == 1:
            return self._score(call, 1)
        sharing = self._sharing.get(_key(call.params))
        if sharing is None or not sharing.shown:
            sharing = self._try_on(call)
        return self._score(call, self._endpoint.max_rows if sharing.shown and not sharing.single else 1)

    # While the model is found and tried.

    def _find(self, sample: pa.RecordBatch, params: Mapping[str, object], deadline: float) -> str:
        """Return the path at which a server has the model."""
        target, context = self._target, self._context
        signature, name = target.signature, target.registered_name
        alias = next(iter(target.aliases), "")
        address = ModelAddress(name, target.version, alias, self._endpoint.endpoint_names.get(name, name))
        form = BodyForm.SPLIT if signature.inputs else choose(sample, signature, parquet_works=False)
        try:
            body = encode(sample, signature, params, form)
            candidates = paths(self._endpoint.convention, address)
            return context.client.probe(
                candidates, body.content, body.content_type, deadline=deadline, cancelled=self._is_killed
            )
        except (NoPath, InvalidInput) as exc:
            raise LoadFailed(f"it can't be asked for at the endpoint {context.name}: {exc}") from exc
        except (UpstreamFailed, UpstreamTimeout) as exc:
            raise ServerAway(f"the endpoint {context.name}: {exc}") from exc
        except CallCancelled as exc:
            raise WorkerDied("killed") from exc

    def _takes_parquet(self, sample: pa.RecordBatch, deadline: float) -> bool:
        """Ask with a sample as Parquet: a server that does not know it says so."""
        flat = not any(pa.types.is_nested(array.type) for array in sample.columns)
        if not flat and choose(sample, self._target.signature, parquet_works=True) is BodyForm.INPUTS:
            return False
        try:
            self._post(encode(sample, self._target.signature, {}, BodyForm.PARQUET), deadline)
        except UpstreamRefused as refusal:
            # A model that raises on made rows has read them.
            return decode_error(refusal.status, refusal.content)[0] == "model_error"
        except (UpstreamFailed, UpstreamTimeout, CallCancelled, InvalidInput, pa.ArrowException):
            return False
        return True

    def _try(self, call: ModelCall, samples: list[trial.Sample]) -> trial.Sharing:
        """See that the model answers as declared, and which rows may share a request: as workers here are tried."""
        try:
            with self._trying(call) as (score, away):
                trial.check_answers(score, samples)
                sharing = trial.may_share(score, [one.rows for one in samples], exact=self._exact)
        except trial.OutputsDiffer as exc:
            outputs = observed_outputs(self._content) if self._target.observe else None
            if outputs is None:
                raise LoadFailed(str(exc)) from exc
            self._context.on_observed(self._target, outputs)
            raise OutputsObserved(str(exc), outputs) from exc
        except (trial.UnfitModel, trial.RowsExchanged) as exc:
            raise LoadFailed(str(exc)) from exc
        if away:
            raise ServerAway(f"the endpoint {self._context.name} gave no answer while the model was tried") from away[0]
        return sharing

    def _try_on(self, call: ModelCall) -> trial.Sharing:
        """See on the first rows of a caller what no sample showed: what becomes of several rows."""
        with self._trying(call) as (score, away):
            try:
                sharing = trial.may_share(score, [call.batch.slice(0, _TRIED_ROWS)], exact=self._exact)
            except trial.RowsExchanged as exc:
                sharing = trial.Sharing(shared=False, single=True, why=str(exc))
        if away:
            return replace(sharing, shown=False)
        if len(self._sharing) >= _MOST_PARAMS:
            self._sharing.clear()
        self._sharing[_key(call.params)] = sharing
        return sharing

    @contextlib.contextmanager
    def _trying(self, call: ModelCall) -> Iterator[tuple[trial.Score, list[Exception]]]:
        """Yield what scores rows as a call's while the model's form is learned, and where nobody answered."""
        away: list[Exception] = []

        def score(rows: pa.RecordBatch) -> pa.RecordBatch:
            try:
                return self._score(call._replace(batch=rows), self._endpoint.max_rows)
            except OutputMismatch as mismatch:
                raise mismatch.__cause__ or mismatch from None
            except (UnavailableError, DeadlineExceeded) as exc:
                away.append(exc)
                raise

        self._answers.learning = True
        try:
            yield score, away
        finally:
            self._answers.learning = False

    # Requests.

    def _score(self, call: ModelCall, max_rows: int) -> pa.RecordBatch:
        rows = max(1, min(max_rows, self._endpoint.max_bytes // row_bytes(call.batch)))
        if call.batch.num_rows <= rows:
            return self._ask(call, call.batch)
        parts = [call.batch.slice(start, rows) for start in range(0, call.batch.num_rows, rows)]
        return pa.concat_batches(list(self._context.parts.map(lambda part: self._ask(call, part), parts)))

    def _ask(self, call: ModelCall, batch: pa.RecordBatch) -> pa.RecordBatch:
        signature = self._target.signature
        form = choose(batch, signature, self._parquet_works)
        try:
            try:
                return self._request(call, batch, form)
            except UpstreamRefused as refusal:
                if form is not BodyForm.PARQUET or decode_error(refusal.status, refusal.content)[0] != "unknown":
                    raise
            # It took Parquet before; another server may answer now.
            self._parquet_works = False
            return self._request(call, batch, choose(batch, signature, parquet_works=False))
        except UpstreamRefused as refusal:
            raise self._refusal(refusal, call) from refusal

    def _request(self, call: ModelCall, batch: pa.RecordBatch, form: BodyForm) -> pa.RecordBatch:
        target, context = self._target, self._context
        deadline = time.monotonic() + context.settings.max_compute if call.deadline is None else call.deadline
        body = encode(batch, target.signature, call.params, form)
        try:
            content = self._post(body, deadline, call.trace)
            if self._answers.learning:
                self._content = content
            return decode(content, target.name, target.version, target.signature, batch.num_rows, self._answers)
        except UpstreamFailed as failure:
            raise UpstreamUnavailable(context.name, str(failure), failure.retry_after) from failure
        except NotPredictions as exc:
            raise UpstreamUnavailable(context.name, str(exc)) from exc
        except UpstreamTimeout as exc:
            raise DeadlineExceeded("upstream" if exc.asked else "queue") from exc
        except CallCancelled as exc:
            raise WorkerDied("killed") from exc

    def _post(self, body: Body, deadline: float, trace: BatchTrace | None = None) -> bytes:
        ask = partial(self._context.client.post, deadline=deadline, cancelled=self._is_killed, trace=trace)
        return ask(self._path, body.content, body.content_type)

    def _refusal(self, refusal: UpstreamRefused, call: ModelCall) -> EnricherError:
        """Return what a refusal of a model server means, without its words."""
        kind, exception = decode_error(refusal.status, refusal.content)
        if kind == "invalid_input":
            return InvalidInput([Violation("input", "is refused by the model server's own checks")])
        if kind == "model_error":
            return ModelError(self._target.name, self._target.version, exception, call.correlation)
        return UpstreamUnavailable(self._context.name, str(refusal))

    def _is_killed(self) -> bool:
        return self._killed


def _key(params: Mapping[str, object]) -> str:
    return repr(sorted(params.items()))
