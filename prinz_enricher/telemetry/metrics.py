"""The metrics for Prometheus: the page of one scrape, made of what is counted and what there is then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from prinz_enricher import __version__
from prinz_enricher.catalog import CatalogState
from prinz_enricher.telemetry.exposition import Exposition, Versions
from prinz_enricher.telemetry.series import Series, Usage

States = Callable[[], Mapping[str, CatalogState]]
"""Returns the state of each catalog, by its registry's name."""
Counts = Callable[[], Mapping[str, int]]
"""Returns how many deliveries of webhooks there were, by their outcome."""
Security = Callable[[], Mapping[str, Mapping[str, float]]]
"""Returns the metrics below by their names, without the prefix, and by the value of their label."""
Activity = Callable[[], tuple[Series, Usage, Versions]]
"""Returns what is counted, what pools have now, and which versions are served."""

SECURITY: dict[str, tuple[type[CounterMetricFamily | GaugeMetricFamily], str, str]] = {
    "auth_failures": (CounterMetricFamily, "reason", "Calls whose caller is not known, by the error's reason"),
    "quota_rejections": (CounterMetricFamily, "principal", "Calls of a caller that were over a quota"),
    "connection_refusals": (
        CounterMetricFamily,
        "reason",
        "Connections refused or ended, and answers reset, at a limit",
    ),
    "reload_failures": (CounterMetricFamily, "what", "New settings, certificates, tokens or keys that can't be used"),
    "tls_certificate_expiry_seconds": (GaugeMetricFamily, "what", "Seconds until the certificate in use expires"),
}

_GAUGES: dict[str, tuple[str, Callable[[CatalogState], float | None]]] = {
    "age_seconds": ("Seconds since the registry was last read; absent where it never was", lambda state: state.age),
    "stale": ("Whether the last refresh failed, or there was none yet", lambda state: state.stale),
    "models": ("Models that are served", lambda state: state.models),
    "versions": ("Versions of the models that are served", lambda state: state.versions),
    "faults": ("Model versions and registry entries with errors", lambda state: state.faults),
    "failures_in_row": ("Refreshes that failed since the last good one", lambda state: state.failures_in_row),
    "last_refresh_duration_seconds": ("Seconds of the last refresh", lambda state: state.last_refresh_seconds),
}


class Metrics:
    """The metrics of one service."""

    def __init__(self, states: States, deliveries: Counts, security: Security, activity: Activity) -> None:
        self._activity = activity
        # One of our own: the global one belongs to the program that we are a part of.
        self._registry = CollectorRegistry()
        self._registry.register(_ServiceCollector(states, deliveries, security))
        ProcessCollector(registry=self._registry)

    def write(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics as they are now, and their content type, by the header `Accept` of the scrape."""
        encode, content_type = choose_encoder(accept)
        exposition = Exposition(open_metrics="openmetrics" in content_type)
        exposition.add(*self._activity())
        # OpenMetrics has an end.
        content, end, _ = encode(self._registry).partition(b"# EOF\n")
        return b"".join((content, exposition.content(), end)), content_type


class _ServiceCollector(Collector):
    def __init__(self, states: States, deliveries: Counts, security: Security) -> None:
        self._states = states
        self._security = security
        self._deliveries = deliveries

    def describe(self) -> Iterable[Metric]:
        # No names are needed before the first scrape.
        return ()

    def collect(self) -> Iterable[Metric]:
        info = InfoMetricFamily("prinz_enricher", "The service that runs")
        info.add_metric([], {"version": __version__})
        yield info
        states = self._states()
        for name, (what, value_of) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"prinz_enricher_catalog_{name}", what, labels=["registry"])
            for registry, state in states.items():
                if (value := value_of(state)) is not None:
                    gauge.add_metric([registry], float(value))
            yield gauge
        name, what = "prinz_enricher_catalog_refreshes", "Refreshes of the catalog"
        refreshes = CounterMetricFamily(name, what, labels=["registry"])
        for registry, state in states.items():
            refreshes.add_metric([registry], state.refreshes)
        yield refreshes
        name, what = "prinz_enricher_webhook_deliveries", "Deliveries of webhooks by their outcome"
        deliveries = CounterMetricFamily(name, what, labels=["outcome"])
        for outcome, count in self._deliveries().items():
            deliveries.add_metric([outcome], count)
        yield deliveries
        for metric, samples in self._security().items():
            kind, label, what = SECURITY[metric]
            family = kind(f"prinz_enricher_{metric}", what, labels=[label])
            for labelled, sample in samples.items():
                family.add_metric([labelled], sample)
            yield family
