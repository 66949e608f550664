"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Self

from prinz_enricher.client.client import BaseClient, list_request
from prinz_enricher.client.coalescing import TaskCoalescer
from prinz_enricher.client.connection import AsyncChannel, Connection, async_acquired
from prinz_enricher.client.reference import ModelReference
from prinz_enricher.client.row_forms import Rows
from prinz_enricher.client.score_plan import BatchRequest, KnownModel, RowRequest, ScorePlan
from prinz_enricher.client.scores import Scores
from prinz_enricher.client.service_error import ServiceError
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.signature import Signature


class AsyncClient(BaseClient):
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

    def _open(self, parts: Connection, max_coalesced_rows: int) -> None:
        self._channel = AsyncChannel(parts)
        self._asking = asyncio.Lock()
        self._coalescer = TaskCoalescer(self._channel, max_coalesced_rows) if max_coalesced_rows else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in flight fail with CANCELLED."""
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
        page = pb.ListModelsResponse()
        while True:
            request = list_request(filter, page.next_page_token, full=full)
            page = await self._channel.call(self._channel.stub.ListModels, request, self._deadline())
            for model in page.models:
                yield model
            if not page.next_page_token:
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
        return await self._signature(self._find(model), self._deadline())

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
        deadline = self._deadline(timeout)
        known = self._find(model)
        plan = known.plan or await self._plan(known, None, deadline)
        try:
            return await self._score(plan.request(rows, params, outputs, request_id), deadline)
        except ServiceError as error:
            if error.reason != "SIGNATURE_CHANGED":
                raise
        plan = await self._plan(known, plan, deadline)
        return await self._score(plan.request(rows, params, outputs, request_id), deadline)

    async def _score(self, request: RowRequest | BatchRequest, deadline: float) -> Scores:
        if isinstance(request, RowRequest) and request.shares and self._coalescer is not None:
            return await self._coalescer.score(request, deadline)
        return request.read(await self._channel.score(request.encode(), deadline))

    async def _plan(self, model: KnownModel, stale: ScorePlan | None, deadline: float) -> ScorePlan:
        """Read a signature that is unknown or outdated; of the tasks that need it, one does."""
        async with async_acquired(self._asking, deadline):
            if model.plan is stale:
                await self._signature(model, deadline)
            assert model.plan is not None  # noqa: S101 - it was asked for
            return model.plan

    async def _signature(self, model: KnownModel, deadline: float) -> tuple[ModelReference, Signature]:
        for reference in model.candidates:
            request = pb.GetSignatureRequest(model=reference.to_message())
            try:
                response = await self._channel.call(self._channel.stub.GetSignature, request, deadline)
                break
            except ServiceError as error:
                if error.reason != "MODEL_NOT_FOUND" or reference is model.candidates[-1]:
                    raise
        return model.learn(reference, response)
