"""Logs and metrics."""

from prinz_enricher.telemetry.logs import configure_logging as configure_logging
