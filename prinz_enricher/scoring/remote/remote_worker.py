"""A worker that is a model server elsewhere: batches go to it over HTTP, in the thread that keeps the worker."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pyarrow as pa
import structlog

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
from prinz_enricher.scoring.launch.in_thread import Given, InThreadWorker
from prinz_enricher.scoring.ports import Target
from prinz_enricher.scoring.remote.conventions import ModelAddress, NoPath, paths
from prinz_enricher.scoring.remote.errors import CallCancelled, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from prinz_enricher.scoring.remote.exchange import Exchange
from prinz_enricher.scoring.remote.predictions import (
    NotPredictions,
    answer_reader,
    decode,
    decode_error,
    observed_outputs,
)
from prinz_enricher.scoring.remote.request_body import Form, choose, encode, row_bytes
from prinz_enricher.scoring.worker import Loaded, LoadFailed, OutputsObserved, ServerAway, WorkerDied
from prinz_enricher.signature import input_schema
from prinz_enricher.worker.trial import (
    OutputsDiffer,
    RowsExchanged,
    Sample,
    Score,
    Sharing,
    UnfitModel,
    check_answers,
    made_batch,
    may_share,
)

_MOST_PARAMS = 64
"""Sets of parameters for which it is remembered which rows may be in one request."""

_TRIED_ROWS = 4
"""Of a caller's request that are scored alone as well, where no sample showed what several rows are."""


@dataclass(frozen=True, slots=True)
class Site:
    """An endpoint, as its workers use it.

    Attributes:
        name: Its name in the settings.
        exchange: Asks its servers.
        parts: Where the requests of a batch that needs several are made.
        conventions: Where below its bases models are.
        serving_names: What models are called there, where it is another name than the registry's.
        max_rows: Rows of one request at most.
        max_bytes: Bytes of one request at most, about.
        load_seconds: How long finding a model there may take.
        call_seconds: How long a call without a deadline may take.
        exact_batching: Whether rows may share a call only where that changes no bit of an answer.
    """

    name: str
    exchange: Exchange
    parts: ThreadPoolExecutor
    conventions: tuple[str, ...]
    serving_names: Mapping[str, str] = field(default_factory=dict)
    max_rows: int = 8192
    max_bytes: int = 16 << 20
    load_seconds: float = 60.0
    call_seconds: float = 600.0
    exact_batching: bool = False


class RemoteWorker(InThreadWorker):
    """Scores one model version at the servers of an endpoint."""

    def __init__(
        self,
        target: Target,
        site: Site,
        on_observed: Callable[[Target, str], object] = lambda *_: None,
    ) -> None:
        """Ask nobody yet.

        Args:
            target: The version.
            site: The endpoint.
            on_observed: Called with the outputs that the model gives, as MLflow's JSON of a schema, where they are not
                those declared and may take their place.
        """
        super().__init__()
        self._target = target
        self._site = site
        self._log = structlog.get_logger(__name__).bind(model=target.name, version=target.version)
        self._path = ""
        self._parquet_works = False
        self._answers = answer_reader(target.signature)
        self._on_observed = on_observed
        # By the parameters: with others a model may do something else.
        self._sharing: dict[str, Sharing] = {}
        # The last answer, while the model is tried.
        self._content = b""

    def start(self) -> Loaded:
        """Find the model, see which forms its server takes, and whether calls may share a request."""
        began = time.monotonic()
        deadline = began + self._site.load_seconds
        signature = self._target.signature
        made = made_batch(input_schema(signature)) if signature.inputs else None
        sample = made if made is not None else _no_rows()
        params = {param.name: param.default for param in signature.params}
        try:
            name = self._target.registered_name
            alias = next(iter(self._target.aliases), "")
            serving_name = self._site.serving_names.get(name, name)
            candidates = paths(self._site.conventions, ModelAddress(name, self._target.version, alias, serving_name))
            body = encode(
                sample, signature, params, Form.SPLIT if signature.inputs else choose(sample, signature, False)
            )
            found = self._site.exchange.probe(
                candidates, body.content, body.content_type, deadline=deadline, cancelled=self._is_killed
            )
        except (NoPath, InvalidInput) as exc:
            raise LoadFailed(f"it can't be asked for at the endpoint {self._site.name}: {exc}") from exc
        except UpstreamFailed as exc:
            raise ServerAway(f"the endpoint {self._site.name}: {exc.why}", exc.retry_after) from exc
        except UpstreamTimeout as exc:
            raise ServerAway(f"the endpoint {self._site.name}: {exc.why}") from exc
        except CallCancelled as exc:
            raise WorkerDied("killed") from exc
        self._path = found.path
        self._parquet_works = bool(signature.inputs) and not signature.params and self._takes_parquet(sample, deadline)
        self._sharing[_key(params)] = sharing = self._try(made, params, deadline)
        self._log.info(
            "a model server was found",
            endpoint=self._site.name,
            path=found.path,
            parquet=self._parquet_works,
            batching=sharing.shared,
            why=sharing.why,
        )
        seconds = {"probe": time.monotonic() - began}
        return Loaded(f"remote {found.path}", sharing.shared, seconds, sharing.note)

    @contextlib.contextmanager
    def _trying(self, call: Given) -> Iterator[tuple[Score, list[Exception]]]:
        """Give what scores rows as a call's, while the model's form is learned, and what shows that nobody answered."""
        away: list[Exception] = []

        def score(rows: pa.RecordBatch) -> pa.RecordBatch:
            try:
                return self._score(replace(call, batch=rows), self._site.max_rows)
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

    def _try(self, made: pa.RecordBatch | None, params: Mapping[str, object], deadline: float) -> Sharing:
        """See that the model answers as declared, and which rows may share a request: as workers here are tried."""
        samples = [] if made is None else [Sample(made, example=False)]
        call = Given(made if made is not None else _no_rows(), params, "", deadline)
        try:
            with self._trying(call) as (score, away):
                check_answers(score, samples)
                sharing = may_share(score, [sample.rows for sample in samples], exact=self._site.exact_batching)
        except OutputsDiffer as exc:
            outputs = observed_outputs(self._content) if self._target.observe else None
            if outputs is None:
                raise LoadFailed(str(exc)) from exc
            self._on_observed(self._target, outputs)
            raise OutputsObserved(str(exc), outputs) from exc
        except (UnfitModel, RowsExchanged) as exc:
            raise LoadFailed(str(exc)) from exc
        if away:
            why = f"the endpoint {self._site.name}: it gave no answer while the model was tried"
            raise ServerAway(why) from away[0]
        return sharing

    def _takes_parquet(self, sample: pa.RecordBatch, deadline: float) -> bool:
        """Ask with a sample as Parquet: a server that does not know it says so."""
        if choose(sample, self._target.signature, parquet_works=True) is Form.INPUTS and not _is_flat(sample):
            return False
        try:
            body = encode(sample, self._target.signature, {}, Form.PARQUET)
            self._site.exchange.post(
                self._path, body.content, body.content_type, deadline=deadline, cancelled=self._is_killed
            )
        except UpstreamRefused as refusal:
            # A model that raises on made rows has read them.
            return decode_error(refusal.status, refusal.content)[0] == "model_error"
        except (UpstreamFailed, UpstreamTimeout, CallCancelled, InvalidInput, pa.ArrowException):
            return False
        return True

    def score(self, call: Given) -> pa.RecordBatch:
        """Score a batch in as many requests as it needs.

        Raises:
            EnricherError: Why there are no scores.
            WorkerDied: Nobody waits for them any more.
        """
        if call.batch.num_rows == 1:
            return self._score(call, 1)
        sharing = self._sharing.get(_key(call.params))
        if sharing is None or not sharing.shown:
            sharing = self._try_on(call)
        return self._score(call, self._site.max_rows if sharing.shown and not sharing.single else 1)

    def _try_on(self, call: Given) -> Sharing:
        """See on the first rows of a caller what no sample showed: what becomes of several rows."""
        with self._trying(call) as (score, away):
            try:
                sharing = may_share(score, [call.batch.slice(0, _TRIED_ROWS)], exact=self._site.exact_batching)
            except RowsExchanged as exc:
                sharing = Sharing(shared=False, single=True, why=str(exc))
        if away:
            return replace(sharing, shown=False)
        if len(self._sharing) >= _MOST_PARAMS:
            self._sharing.clear()
        self._sharing[_key(call.params)] = sharing
        return sharing

    def _score(self, call: Given, max_rows: int) -> pa.RecordBatch:
        rows = max(1, min(max_rows, self._site.max_bytes // row_bytes(call.batch)))
        if call.batch.num_rows <= rows:
            return self._ask(call, call.batch)
        parts = [call.batch.slice(start, rows) for start in range(0, call.batch.num_rows, rows)]
        return pa.concat_batches(list(self._site.parts.map(lambda part: self._ask(call, part), parts)))

    def _ask(self, call: Given, batch: pa.RecordBatch) -> pa.RecordBatch:
        form = choose(batch, self._target.signature, self._parquet_works)
        try:
            return self._request(call, batch, form)
        except UpstreamRefused as refusal:
            if form is not Form.PARQUET or decode_error(refusal.status, refusal.content)[0] != "unknown":
                raise self._refusal(refusal, call) from refusal
        # It took Parquet before; another server may answer now.
        self._parquet_works = False
        try:
            return self._request(call, batch, choose(batch, self._target.signature, parquet_works=False))
        except UpstreamRefused as refusal:
            raise self._refusal(refusal, call) from refusal

    def _request(self, call: Given, batch: pa.RecordBatch, form: Form) -> pa.RecordBatch:
        target, site = self._target, self._site
        body = encode(batch, target.signature, call.params, form)
        try:
            answer = site.exchange.post(
                self._path, body.content, body.content_type, deadline=self._end(call), cancelled=self._is_killed
            )
            if self._answers.learning:
                self._content = answer.content
            return decode(answer.content, target.name, target.version, target.signature, batch.num_rows, self._answers)
        except UpstreamFailed as failure:
            raise UpstreamUnavailable(site.name, failure.why, failure.retry_after) from failure
        except NotPredictions as exc:
            raise UpstreamUnavailable(site.name, str(exc)) from exc
        except UpstreamTimeout as exc:
            raise DeadlineExceeded("upstream" if exc.asked else "queue") from exc
        except CallCancelled as exc:
            raise WorkerDied("killed") from exc

    def _refusal(self, refusal: UpstreamRefused, call: Given) -> EnricherError:
        """Tell what a 4xx of a model server means, without its words."""
        kind, exception = decode_error(refusal.status, refusal.content)
        if kind == "invalid_input":
            return InvalidInput([Violation("input", "is refused by the model server's own checks")])
        if kind == "model_error":
            return ModelError(self._target.name, self._target.version, exception, call.correlation)
        return UpstreamUnavailable(self._site.name, refusal.why)

    def _end(self, call: Given) -> float:
        return time.monotonic() + self._site.call_seconds if call.deadline is None else call.deadline

    def _is_killed(self) -> bool:
        return self.killed


def _key(params: Mapping[str, object]) -> str:
    return repr(sorted(params.items()))


def _no_rows() -> pa.RecordBatch:
    """Make a batch of one row without columns, for a model that declares none."""
    return pa.RecordBatch.from_struct_array(pa.array([{}], pa.struct([])))


def _is_flat(batch: pa.RecordBatch) -> bool:
    return not any(pa.types.is_nested(array.type) for array in batch.columns)
