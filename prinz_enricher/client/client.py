"""The synchronous client, for any number of threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc

from prinz_enricher.client.connection import SERVICE, Connection, connection
from prinz_enricher.client.credentials import Tls, TokenSource
from prinz_enricher.client.errors import ServiceError, service_error, too_late, was_closed
from prinz_enricher.client.model import Model, Models, Plan
from prinz_enricher.client.reference import ModelReference
from prinz_enricher.client.rows import Rows, one_record
from prinz_enricher.client.scores import Scores, read_batch
from prinz_enricher.client.threads import ThreadLanes
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc, model_pb2
from prinz_enricher.signature import Signature, from_wire

MAX_COALESCED_ROWS: Final = 1024
"""Rows of a message at most, where nothing else is said."""

MOST_COALESCED_ROWS: Final = 4096
"""What that can be at most: as the contract has it for rows that are calls of their own."""

_R = TypeVar("_R")


def check_coalesced_rows(rows: int) -> None:
    """Raise ValueError where messages can't be limited to so many rows."""
    if not 1 <= rows <= MOST_COALESCED_ROWS:
        raise ValueError(f"max_coalesced_rows is from 1 to {MOST_COALESCED_ROWS}")


class Client:
    """Discovers, describes and scores models; safe for threads.

    Every method raises `ServiceError` where the service refuses or is not there, or the client was closed. A model is
    named by text, such as `wine`, `wine/3` or `wine@champion`, or by a `ModelReference`. A model whose name is the
    whole text goes before an alias of another one.

    Args:
        address: Where the service listens, such as `localhost:50051`. All addresses that its name has are used in turn.
            Several `HOST:PORT` are used likewise; their names are resolved once, here.
        timeout: Seconds that one call may take, its retries included.
        tls: How the connection is encrypted; None means not at all.
        token: Sent with each call as `authorization: Bearer …`: the token, the path of its file, which is read again
            once it changes, or a function that gives it for each message, and so is to be quick.
        allow_insecure_token: Whether the token may go unencrypted to another machine.
        retry: Whether calls that fail with UNAVAILABLE are tried again.
        coalesce: Whether single rows that several threads score at the same time travel together.
        max_coalesced_rows: How many of them at most.

    Raises:
        ValueError: An address can't be used, or the token would go over the network for all to read.
        OSError: A file of `tls` can't be read.
    """

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
        check_coalesced_rows(max_coalesced_rows)
        self._line = _Line(connection(address, tls, token, allow_insecure_token=allow_insecure_token, retry=retry))
        self._timeout = timeout
        self._models = Models()
        self._asking = threading.Lock()
        self._lanes = ThreadLanes(self._line, max_coalesced_rows) if coalesce else None

    def __enter__(self) -> Self:
        """Use the client in a `with` statement, which closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """End the connection; calls under way fail with CANCELLED."""
        self._line.close()

    def list_models(self, filter: str = "", *, full: bool = False) -> Iterator[model_pb2.Model]:
        """Yield the models by name, page by page.

        Args:
            filter: Which models, such as `name LIKE "wine%" AND tags.team = "cellar"`; empty means all.
            full: Whether each version's signature is wanted too.
        """
        view = pb.MODEL_VIEW_FULL if full else pb.MODEL_VIEW_BASIC
        token = ""
        while True:
            request = pb.ListModelsRequest(page_size=1000, page_token=token, filter=filter, view=view)
            page = self._line.ask(self._line.stub.ListModels, request, self._deadline(None))
            yield from page.models
            token = page.next_page_token
            if not token:
                return

    def signature(self, model: str | ModelReference) -> tuple[ModelReference, Signature]:
        """Return the version a reference means now, and its signature."""
        return self._signature(self._models.find(model), self._deadline(None))

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

        The signature is asked for once; where the model has another one since, it is asked for again.

        A single record travels together with those of other threads, unless it has a `request_id`.

        Args:
            model: Which version.
            rows: The rows, by the names of the signature's inputs: a list of records, one record, columns of values, a
                `pandas.DataFrame`, or an Arrow batch or table. A mapping whose every value is a column is columns, and
                one record otherwise: see `Rows`.
            params: Parameters of the prediction, of the types that values of rows have; those left out have their
                defaults.
            outputs: Names of the outputs wanted; empty means all.
            request_id: The caller's name for the call, found again in the service's log.
            timeout: Seconds that the call may take, its retries included; None means the client's.

        Returns:
            The scores: as many rows as there are in `rows`.

        Raises:
            InvalidInput: Values or parameters do not fit the signature; nothing was sent.
            ValueError: `model` names none.
        """
        deadline = self._deadline(timeout)
        known = self._models.find(model)
        plan = known.plan or self._plan(known, None, deadline)
        try:
            return self._score(plan, rows, params, outputs, request_id, deadline)
        except ServiceError as error:
            if error.reason != "SIGNATURE_CHANGED":
                raise
        return self._score(self._plan(known, plan, deadline), rows, params, outputs, request_id, deadline)

    def _score(
        self,
        plan: Plan,
        rows: Rows,
        params: Mapping[str, object] | None,
        outputs: Sequence[str],
        request_id: str,
        deadline: float,
    ) -> Scores:
        record = one_record(rows)
        if record is None:
            request, layout = plan.request(rows, params, outputs, request_id)
            return read_batch(self._line.call(request, deadline), layout)
        form, row = plan.admit(record, params, outputs, request_id)
        if self._lanes is None or request_id:
            return form.answers(self._line.call(form.request([row]), deadline), 1)[0]
        return self._lanes.score(form, row, deadline)

    def _plan(self, model: Model, stale: Plan | None, deadline: float) -> Plan:
        """Ask for a signature that is not known, or is another one by now; of threads that need it, one asks."""
        if not self._asking.acquire(timeout=_seconds(deadline)):
            raise too_late()
        try:
            if model.plan is stale:
                self._signature(model, deadline)
            assert model.plan is not None  # noqa: S101 - it was asked for
            return model.plan
        finally:
            self._asking.release()

    def _signature(self, model: Model, deadline: float) -> tuple[ModelReference, Signature]:
        for reference in model.candidates:
            request = pb.GetSignatureRequest(model=reference.to_message())
            try:
                response = self._line.ask(self._line.stub.GetSignature, request, deadline)
                break
            except ServiceError as error:
                if error.reason != "MODEL_NOT_FOUND" or reference is model.candidates[-1]:
                    raise
        signature = from_wire(response.signature)
        model.plan = Plan(reference, signature)
        return ModelReference(response.model.name, version=response.model.version), signature

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)


def _seconds(deadline: float) -> float:
    return min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)


class _Line:
    """A channel, and what each call on it has."""

    def __init__(self, made_of: Connection) -> None:
        target, options, credentials = made_of.target, list(made_of.options), made_of.credentials
        self.channel = (
            grpc.secure_channel(target, credentials, options) if credentials else grpc.insecure_channel(target, options)
        )
        self.stub: Any = enricher_service_pb2_grpc.EnricherServiceStub(self.channel)  # type: ignore[no-untyped-call]  # generated
        # Requests are written by hand.
        self._score: Any = self.channel.unary_unary(
            f"/{SERVICE}/Score", request_serializer=None, response_deserializer=pb.ScoreResponse.FromString
        )
        self._bearer = made_of.bearer
        self._closed = False

    def close(self) -> None:
        """End the connection."""
        self._closed = True
        self.channel.close()

    def ask(self, method: Callable[..., _R], request: object, deadline: float) -> _R:
        """Call a method, and wait for the answer."""
        metadata = self._bearer.metadata()
        try:
            return method(request, timeout=_seconds(deadline), metadata=metadata)
        except grpc.RpcError as error:
            raise service_error(error) from error
        except ValueError as error:
            raise self._refusal(error) from error

    def call(self, request: bytes, deadline: float) -> pb.ScoreResponse:
        """Score, and wait for the answer."""
        return self.ask(self._score, request, deadline)  # type: ignore[no-any-return]  # grpc has no types

    def start(self, request: bytes, deadline: float) -> _Sending:
        """Score, and do not wait."""
        metadata = self._bearer.metadata()
        try:
            return _Sending(self._score.future(request, timeout=_seconds(deadline), metadata=metadata))
        except ValueError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: ValueError) -> Exception:
        # gRPC says by it that the channel is closed, but not by it alone.
        return was_closed() if self._closed else error


class _Sending:
    """A request on its way."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def result(self, timeout: float) -> pb.ScoreResponse:
        """Wait for the answer."""
        try:
            return self._future.result(timeout=min(max(timeout, 0.0), threading.TIMEOUT_MAX))  # type: ignore[no-any-return]
        except grpc.FutureTimeoutError:
            raise TimeoutError from None
        except grpc.FutureCancelledError as error:
            raise was_closed() from error
        except grpc.RpcError as error:
            raise service_error(error) from error

    def then(self, done: Callable[[], None]) -> None:
        """Have something done once there is an answer."""
        self._future.add_done_callback(lambda _: done())
