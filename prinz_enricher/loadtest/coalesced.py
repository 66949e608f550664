"""The asynchronous client as a caller, for the mode COALESCED: its calls go together while others are on their way."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from prinz_enricher.batch import batch_to_rows
from prinz_enricher.client import AsyncClient, ServiceError, Tls
from prinz_enricher.loadtest.callers import Caller
from prinz_enricher.loadtest.comparison import same_batch
from prinz_enricher.loadtest.prepared import Prepared
from prinz_enricher.loadtest.reasons import CallFailedError
from prinz_enricher.loadtest.target import Target


class CoalescedCaller(Caller):
    """Calls `AsyncClient.score` with rows as a program has them; one client for each connection.

    Args:
        target: The server.
        model: `NAME/version`.
        pool: Rows and scores, both as Arrow streams.
        scores: Whether scores are compared; else the number of rows alone.
    """

    def __init__(self, target: Target, model: str, pool: Sequence[Prepared], *, scores: bool) -> None:
        tls = Tls(ca=target.authority.encode() if target.authority else None) if target.tls else None
        self._clients = [
            AsyncClient(address, timeout=target.timeout, tls=tls, token=target.token)
            for _ in range(target.connections)
            for address in target.addresses
        ]
        self._model = model
        self._rows = [batch_to_rows(_read(prepared.request)) for prepared in pool]
        self._expected = [_read(prepared.expected) for prepared in pool]
        self._scores = scores

    async def send(self, number: int) -> pa.RecordBatch:
        """Score, and return the outputs."""
        client = self._clients[number % len(self._clients)]
        try:
            return (await client.score(self._model, self._rows[number % len(self._rows)])).held
        except ServiceError as error:
            raise CallFailedError(error.reason or error.code.name, error.message) from None

    def is_right(self, number: int, answer: pa.RecordBatch) -> bool:
        """Compare outputs."""
        expected = self._expected[number % len(self._expected)]
        return same_batch(expected, answer) if self._scores else expected.num_rows == answer.num_rows

    async def close(self) -> None:
        """End all connections."""
        for client in self._clients:
            await client.close()


def _read(stream: bytes) -> pa.RecordBatch:
    (batch,) = pa.ipc.open_stream(stream)
    return batch
