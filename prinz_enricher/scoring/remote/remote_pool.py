"""The pool that scores at the model servers of an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from prinz_enricher.registry.auth import Access
from prinz_enricher.scoring.ports import Target
from prinz_enricher.scoring.remote.endpoint import Endpoint
from prinz_enricher.scoring.remote.exchange import Exchange
from prinz_enricher.scoring.remote.remote_worker import RemoteWorker, Site
from prinz_enricher.scoring.runtime import VersionPool
from prinz_enricher.scoring.settings import PoolSettings

_PER_BASE = 2
"""Requests of a version at once, for each base: one is answered while the next one is on its way."""


_FIND_SECONDS = 60.0
"""How long finding a model may take: a few requests."""


class RemotePool(VersionPool):
    """Scores at the model servers of one endpoint: the lanes' batches become requests.

    What a version has in place of worker processes are the requests that it may have under way.
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        access: Access,
        settings: PoolSettings,
        *,
        conventions: tuple[str, ...],
        serving_names: dict[str, str],
        max_rows: int,
        max_bytes: int,
        on_change: Callable[[], object] = lambda: None,
        on_observed: Callable[[Target, str], object] = lambda *_: None,
    ) -> None:
        """Ask nobody yet.

        Args:
            name: The endpoint's, in the settings.
            endpoint: Its bases and limits.
            access: How they are reached.
            settings: How calls queue, and when what is not used ends; its limit of workers and its number of replicas
                do not count.
            conventions: Where below its bases models are.
            serving_names: What models are called there, where it is another name than the registry's.
            max_rows: Rows of one request at most.
            max_bytes: Bytes of one request at most, about.
            on_change: Called after each change of a status, from any thread, with locks held: it may only take note.
            on_observed: Called with the outputs that a model was seen to give, as MLflow's JSON of a schema.

        Raises:
            AccessError: A certificate, or a proxy of the environment, can't be used.
        """
        self._exchange = Exchange(endpoint, access)
        self._parts = ThreadPoolExecutor(endpoint.max_concurrent, thread_name_prefix=f"remote-{name}")
        site = Site(
            name,
            self._exchange,
            self._parts,
            conventions,
            serving_names,
            max_rows,
            max_bytes,
            load_seconds=min(settings.load_timeout, _FIND_SECONDS),
            call_seconds=settings.max_compute,
            exact_batching=settings.batching == "exact",
        )
        super().__init__(
            lambda target: RemoteWorker(target, site, on_observed), _of_requests(settings, endpoint), on_change
        )

    def close(self, grace: float) -> None:
        """Take no more jobs, finish those taken within `grace` seconds, and close all connections."""
        super().close(grace)
        self._exchange.close()
        self._parts.shutdown(wait=False, cancel_futures=True)


def _of_requests(settings: PoolSettings, endpoint: Endpoint) -> PoolSettings:
    """Make the settings of a pool whose workers are requests: each has a thread, and no other process."""
    at_once = min(endpoint.max_concurrent, _PER_BASE * len(endpoint.urls))
    return replace(
        settings,
        max_workers=1_000_000,
        replicas=max(1, at_once),
        max_replicas=endpoint.max_concurrent,
        hang_grace=settings.hang_grace + endpoint.timeout,
    )
