"""Logs and metrics."""

from prinz_enricher.telemetry.logs import configure_logging

__all__ = ["configure_logging"]
