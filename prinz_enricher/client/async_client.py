"""The client for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from prinz_enricher.client.client import MAX_COALESCED_ROWS, check_coalesced_rows
from prinz_enricher.client.connection import SERVICE, Tls, TokenSource, connection
from prinz_enricher.client.reference import ModelReference
from prinz_enricher.client.row_forms import Rows, one_record
from prinz_enricher.client.score_plan import Model, Models, ScorePlan
from prinz_enricher.client.scores import Scores, read_batch
from prinz_enricher.client.service_error import ServiceError, client_closed, service_error, timed_out
from prinz_enricher.client.tasks import TaskCoalescer
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc, model_pb2
from prinz_enricher.signature import Signature, from_wire

_R = TypeVar("_R")


class AsyncClient:
    """Discovers, describes and scores models from the tasks of the event loop in which it is made.

    It has the arguments and methods of `Client`.

    Examples:
        >>> import asyncio
        >>> async def main():
        ...     async with AsyncClient("localhost:50051") as client:
        ...         row = {"age": "4", "gender": "F", "category": "es_transportation", "amount": 800.0}
        ...         scores = await asyncio.gather(*(client.score("MLF-FraudDetection-3", row) for _ in range(8)))
        ...         return [one.to_rows()[0]["output_0"] for one in scores]
        >>> asyncio.run(main())
        [0, 0, 0, 0, 0, 0, 0, 0]
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
        parts = connection(address, tls, token, allow_insecure_token=allow_insecure_token, retry=retry)
        options = list(parts.options)
        self._channel = (
            grpc.aio.secure_channel(parts.target, parts.credentials, options)
            if parts.credentials
            else grpc.aio.insecure_channel(parts.target, options)
        )
        self._stub: Any = enricher_service_pb2_grpc.EnricherServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        # Requests are already serialised.
        self._score_method: Any = self._channel.unary_unary(
            f"/{SERVICE}/Score", request_serializer=None, response_deserializer=pb.ScoreResponse.FromString
        )
        self._bearer = parts.bearer
        self._closed = False
        self._timeout = timeout
        self._models = Models()
        self._asking = asyncio.Lock()
        self._coalescer = TaskCoalescer(self._send, max_coalesced_rows) if coalesce else None

    async def __aenter__(self) -> Self:
        """Use the client in an `async with` statement, which closes it."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the client."""
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in flight fail with CANCELLED."""
        self._closed = True
        await self._channel.close()

    async def list_models(self, filter: str = "", *, full: bool = False) -> AsyncIterator[model_pb2.Model]:
        """Yield the models by name, page by page; see `Client.list_models`.

        Examples:
            >>> import asyncio
            >>> async def main():
            ...     async with AsyncClient("localhost:50051") as client:
            ...         return [model.name async for model in client.list_models('name LIKE "MLF-F%"')]
            >>> asyncio.run(main())
            ['MLF-FraudDetection-3']
        """
        view = pb.MODEL_VIEW_FULL if full else pb.MODEL_VIEW_BASIC
        token = ""
        while True:
            request = pb.ListModelsRequest(page_size=1000, page_token=token, filter=filter, view=view)
            page = await self._call(self._stub.ListModels, request, self._deadline(None))
            for model in page.models:
                yield model
            token = page.next_page_token
            if not token:
                return

    async def signature(self, model: str | ModelReference) -> tuple[ModelReference, Signature]:
        """Return the version that a reference means now, and its signature; see `Client.signature`.

        Examples:
            >>> import asyncio
            >>> async def main():
            ...     async with AsyncClient("localhost:50051") as client:
            ...         return await client.signature("MLF-FraudDetection-3")
            >>> version, signature = asyncio.run(main())
            >>> version.version, [field.name for field in signature.outputs]
            ('1', ['output_0'])
        """
        return await self._signature(self._models.find(model), self._deadline(None))

    async def score(
        self,
        model: str | ModelReference,
        rows: Rows,
        *,
        params: Mapping[str, object] | None = None,
        outputs: Sequence[str] = (),
        request_id: str = "",
        timeout: float | None = None,  # noqa: ASYNC109 - it goes to the service, as the call's deadline
    ) -> Scores:
        """Score rows, with the arguments, results and errors of `Client.score`.

        A single record may share a message with those of other tasks, unless it has a `request_id`.

        Examples:
            >>> import asyncio
            >>> row = {"age": "4", "gender": "F", "category": "es_transportation", "amount": 800.0}
            >>> async def main():
            ...     async with AsyncClient("localhost:50051") as client:
            ...         return await client.score("MLF-FraudDetection-3/1", [row, row], timeout=10)
            >>> asyncio.run(main()).to_rows()
            [{'output_0': 0}, {'output_0': 0}]
        """
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        known = self._models.find(model)
        plan = known.plan or await self._plan(known, None, deadline)
        try:
            return await self._score(plan, rows, params, outputs, request_id, deadline)
        except ServiceError as error:
            if error.reason != "SIGNATURE_CHANGED":
                raise
        plan = await self._plan(known, plan, deadline)
        return await self._score(plan, rows, params, outputs, request_id, deadline)

    async def _score(
        self,
        plan: ScorePlan,
        rows: Rows,
        params: Mapping[str, object] | None,
        outputs: Sequence[str],
        request_id: str,
        deadline: float,
    ) -> Scores:
        record = one_record(rows)
        if record is None:
            request, layout = plan.request(rows, params, outputs, request_id)
            return read_batch(await self._send(request, deadline), layout)
        form, row = plan.admit(record, params, outputs, request_id)
        if self._coalescer is None or request_id:
            return form.read_responses(await self._send(form.request([row]), deadline), 1)[0]
        return await self._coalescer.score(form, row, deadline)

    async def _plan(self, model: Model, stale: ScorePlan | None, deadline: float) -> ScorePlan:
        """Read a signature that is unknown or outdated; of the tasks that need it, one does."""
        try:
            await asyncio.wait_for(self._asking.acquire(), max(deadline - time.monotonic(), 0.0))
        except TimeoutError:
            raise timed_out() from None
        try:
            if model.plan is stale:
                await self._signature(model, deadline)
            assert model.plan is not None  # noqa: S101 - it was asked for
            return model.plan
        finally:
            self._asking.release()

    async def _signature(self, model: Model, deadline: float) -> tuple[ModelReference, Signature]:
        for reference in model.candidates:
            request = pb.GetSignatureRequest(model=reference.to_message())
            try:
                response = await self._call(self._stub.GetSignature, request, deadline)
                break
            except ServiceError as error:
                if error.reason != "MODEL_NOT_FOUND" or reference is model.candidates[-1]:
                    raise
        signature = from_wire(response.signature)
        model.plan = ScorePlan(reference, signature)
        return ModelReference(response.model.name, version=response.model.version), signature

    async def _send(self, request: bytes, deadline: float) -> pb.ScoreResponse:
        return await self._call(self._score_method, request, deadline)

    async def _call(self, method: Callable[..., Awaitable[_R]], request: object, deadline: float) -> _R:
        try:
            left = max(deadline - time.monotonic(), 0.0)
            return await method(request, timeout=left, metadata=self._bearer.metadata())
        except grpc.RpcError as error:
            raise service_error(error) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise client_closed() from None
            raise
        except grpc.aio.UsageError as error:
            raise client_closed() from error

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)
