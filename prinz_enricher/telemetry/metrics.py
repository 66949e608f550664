"""What the service tells Prometheus: read when it is scraped, so that no call pays for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from prinz_enricher import __version__
from prinz_enricher.catalog import CatalogState

States = Callable[[], Mapping[str, CatalogState]]
"""Tells how the catalog of each registry fares, by the registry's name."""

Counts = Callable[[], Mapping[str, int]]
"""Tells how many deliveries of webhooks there were, by what was thought of them."""


class Metrics:
    """The metrics of one service, in the forms that Prometheus reads."""

    def __init__(self, states: States, deliveries: Counts) -> None:
        """Read nothing yet.

        Args:
            states: How the catalogs fare.
            deliveries: How many deliveries of webhooks there were.
        """
        # One of our own: the global one belongs to the program that we are a part of.
        self._registry = CollectorRegistry()
        self._registry.register(_ServiceCollector(states, deliveries))
        ProcessCollector(registry=self._registry)

    def write(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics as they are now, and their content type.

        Args:
            accept: The header `Accept` of the scrape.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _ServiceCollector(Collector):
    def __init__(self, states: States, deliveries: Counts) -> None:
        self._states = states
        self._deliveries = deliveries

    def describe(self) -> Iterable[Metric]:
        """Return nothing: names are not looked for before the first scrape."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return all metrics but those of the process."""
        info = InfoMetricFamily("prinz_enricher", "The service that runs")
        info.add_metric([], {"version": __version__})
        yield info
        yield from _of_catalogs(self._states())
        deliveries = CounterMetricFamily(
            "prinz_enricher_webhook_deliveries", "Deliveries of webhooks by their outcome", labels=["outcome"]
        )
        for outcome, count in self._deliveries().items():
            deliveries.add_metric([outcome], count)
        yield deliveries


def _of_catalogs(states: Mapping[str, CatalogState]) -> Iterable[Metric]:
    age = _gauge("age_seconds", "Seconds since the registry was last read; absent where it never was")
    stale = _gauge("stale", "Whether the registry could not be read the last time, or was not read yet")
    models = _gauge("models", "Models that are served")
    versions = _gauge("versions", "Versions of the models that are served")
    faults = _gauge("faults", "Versions, and other things the registry told, that have something amiss")
    failures = _gauge("failures_in_row", "Looks at the registry that failed since the last good one")
    duration = _gauge("last_refresh_duration_seconds", "Seconds that the last look at the registry took")
    refreshes = CounterMetricFamily("prinz_enricher_catalog_refreshes", "Looks at the registry", labels=["registry"])
    for registry, state in states.items():
        if state.age is not None:
            age.add_metric([registry], state.age)
        stale.add_metric([registry], float(state.stale))
        models.add_metric([registry], state.models)
        versions.add_metric([registry], state.versions)
        faults.add_metric([registry], state.faults)
        failures.add_metric([registry], state.failures_in_row)
        duration.add_metric([registry], state.last_refresh_seconds)
        refreshes.add_metric([registry], state.refreshes)
    return (age, stale, models, versions, faults, failures, duration, refreshes)


def _gauge(name: str, what: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"prinz_enricher_catalog_{name}", what, labels=["registry"])
