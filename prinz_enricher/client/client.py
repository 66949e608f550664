"""The synchronous client, for any number of threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Self

from prinz_enricher.client.coalescing import ThreadCoalescer
from prinz_enricher.client.connection import Channel, Connection, Tls, TokenSource, acquired
from prinz_enricher.client.reference import ModelReference
from prinz_enricher.client.row_forms import Rows
from prinz_enricher.client.score_plan import BatchRequest, KnownModel, RowRequest, ScorePlan
from prinz_enricher.client.scores import Scores
from prinz_enricher.client.service_error import ServiceError
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.signature import Signature

MAX_COALESCED_ROWS: Final = 1024
"""Rows of a message, by default."""

_MAX_ALLOWED_ROWS: Final = 4096
"""The contract's limit of independent rows."""


class BaseClient:
    """What both clients do without I/O."""

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        timeout: float = 60.0,
        tls: Tls | None = None,
        token: TokenSource | None = None,
        allow_insecure_token: bool = False,
        retry: bool = True,
        coalesce: bool = True,
        max_coalesced_rows: int = MAX_COALESCED_ROWS,
    ) -> None:
        if not 1 <= max_coalesced_rows <= _MAX_ALLOWED_ROWS:
            raise ValueError(f"max_coalesced_rows is from 1 to {_MAX_ALLOWED_ROWS}")
        self._timeout = timeout
        self._models: dict[str | ModelReference | tuple[ModelReference, ...], KnownModel] = {}
        parts = Connection(address, tls, token, allow_insecure_token=allow_insecure_token, retry=retry)
        self._open(parts, max_coalesced_rows if coalesce else 0)

    def _open(self, parts: Connection, max_coalesced_rows: int) -> None:
        """Make the channel and, unless it is for 0 rows, the coalescer."""
        raise NotImplementedError

    def _find(self, model: str | ModelReference) -> KnownModel:
        """Return a model by a text or a reference; raises ValueError for an invalid text."""
        found = self._models.get(model)
        if found is None:
            candidates = (model,) if isinstance(model, ModelReference) else ModelReference.candidates(model)
            # Concurrent threads get the same one.
            found = self._models.setdefault(candidates, KnownModel(candidates))
            self._models[model] = found
        return found

    def _deadline(self, timeout: float | None = None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)


def list_request(filter: str, page_token: str, *, full: bool) -> pb.ListModelsRequest:
    """Return the request of a page of models."""
    view = pb.MODEL_VIEW_FULL if full else pb.MODEL_VIEW_BASIC
    return pb.ListModelsRequest(page_size=1000, page_token=page_token, filter=filter, view=view)


class Client(BaseClient):
    """Discovers, describes and scores models; safe for threads.

    Every method raises `ServiceError` where the service refuses or is unreachable, or the client was closed. A model is
    named by text, such as `wine`, `wine/3` or `wine@champion`, or by a `ModelReference`. A model whose name is the
    whole text takes precedence over an alias of another one.

    Args:
        address: Address of the service, such as `localhost:50051`; all addresses of its name are used in turn, and so
            are several `HOST:PORT`, whose names are resolved once.
        timeout: Seconds of one call, with its retries.
        tls: TLS settings; None for a plaintext connection.
        token: Bearer token of each call: the token, the path of its file, which is read again when it changes, or a
            quick function that returns it, called for each message.
        allow_insecure_token: Whether the token may be sent unencrypted to another machine.
        retry: Whether calls that fail with UNAVAILABLE are retried.
        coalesce: Whether single rows of concurrent threads share messages.
        max_coalesced_rows: Rows of such a message.

    Raises:
        ValueError: An address is invalid, or the token would be sent unencrypted.
        OSError: A file of `tls` can't be read.

    Examples:
        >>> with Client("localhost:50051", timeout=10) as client:
        ...     row = {"age": "4", "gender": "F", "category": "es_transportation", "amount": 800.0}
        ...     print(client.score("MLF-FraudDetection-3@champion", row).to_rows())
        [{'output_0': 0}]
    """

    def _open(self, parts: Connection, max_coalesced_rows: int) -> None:
        self._channel = Channel(parts)
        self._asking = threading.Lock()
        self._coalescer = ThreadCoalescer(self._channel, max_coalesced_rows) if max_coalesced_rows else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in flight fail with CANCELLED."""
        self._channel.close()

    def list_models(self, filter: str = "", *, full: bool = False) -> Iterator[model_pb2.Model]:
        """Yield the models by name, page by page.

        Args:
            filter: A filter such as `name LIKE "wine%" AND tags.team = "cellar"`; empty for all models.
            full: Whether signatures are included.

        Examples:
            >>> with Client("localhost:50051") as client:
            ...     for model in client.list_models('name LIKE "MLF-F%"'):
            ...         print(model.name, model.default_version)
            MLF-FraudDetection-3 1
        """
        page = pb.ListModelsResponse()
        while True:
            request = list_request(filter, page.next_page_token, full=full)
            page = self._channel.call(self._channel.stub.ListModels, request, self._deadline())
            yield from page.models
            if not page.next_page_token:
                return

    def signature(self, model: str | ModelReference) -> tuple[ModelReference, Signature]:
        """Return the version that a reference means now, and its signature.

        Examples:
            >>> with Client("localhost:50051") as client:
            ...     version, signature = client.signature("MLF-FraudDetection-3@champion")
            >>> version.version, [field.name for field in signature.inputs]
            ('1', ['age', 'gender', 'category', 'amount'])
        """
        return self._signature(self._find(model), self._deadline())

    def score(
        self,
        model: str | ModelReference,
        rows: Rows,
        *,
        params: Mapping[str, object] | None = None,
        outputs: Sequence[str] = (),
        request_id: str = "",
        timeout: float | None = None,
    ) -> Scores:
        """Score rows.

        The signature is read once, and again where the model has another one. A single record may share a message with
        those of other threads, unless it has a `request_id`.

        Args:
            model: The model, by name, version or alias.
            rows: The rows, by the names of the signature's inputs: a list of records, one record, columns of values, a
                `pandas.DataFrame`, or an Arrow batch or table; see `Rows`.
            params: Parameters of the prediction, by name; those left out have their defaults.
            outputs: Names of the wanted outputs; empty for all.
            request_id: The caller's id of the call, for the service's log.
            timeout: Seconds of the call, with its retries; None for the client's.

        Returns:
            The scores, with as many rows as `rows`, in their order.

        Raises:
            InvalidInput: Values or parameters do not fit the signature; nothing was sent.
            ValueError: `model` is not a reference.

        Examples:
            >>> columns = {"age": ["4", "2"], "gender": ["F", "M"], "category": ["es_transportation", "es_travel"]}
            >>> with Client("localhost:50051") as client:
            ...     scores = client.score("MLF-FraudDetection-3", columns | {"amount": [800.0, 5000.0]})
            >>> scores.version, scores.batch.num_rows
            ('1', 2)
        """
        deadline = self._deadline(timeout)
        known = self._find(model)
        plan = known.plan or self._plan(known, None, deadline)
        try:
            return self._score(plan.request(rows, params, outputs, request_id), deadline)
        except ServiceError as error:
            if error.reason != "SIGNATURE_CHANGED":
                raise
        plan = self._plan(known, plan, deadline)
        return self._score(plan.request(rows, params, outputs, request_id), deadline)

    def _score(self, request: RowRequest | BatchRequest, deadline: float) -> Scores:
        if isinstance(request, RowRequest) and request.shares and self._coalescer is not None:
            return self._coalescer.score(request, deadline)
        return request.read(self._channel.score(request.encode(), deadline))

    def _plan(self, model: KnownModel, stale: ScorePlan | None, deadline: float) -> ScorePlan:
        """Read a signature that is unknown or outdated; of the threads that need it, one does."""
        with acquired(self._asking, deadline):
            if model.plan is stale:
                self._signature(model, deadline)
            assert model.plan is not None  # noqa: S101 - it was asked for
            return model.plan

    def _signature(self, model: KnownModel, deadline: float) -> tuple[ModelReference, Signature]:
        for reference in model.candidates:
            request = pb.GetSignatureRequest(model=reference.to_message())
            try:
                response = self._channel.call(self._channel.stub.GetSignature, request, deadline)
                break
            except ServiceError as error:
                if error.reason != "MODEL_NOT_FOUND" or reference is model.candidates[-1]:
                    raise
        return model.learn(reference, response)
