"""The gRPC fronts: the Rust one is quicker, the grpcio one runs wherever grpcio does."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import structlog

from prinz_enricher.config import FlightSettings, ServerSettings
from prinz_enricher.fronts.grpc.admission import FrontLimits, limits_of
from prinz_enricher.fronts.grpc.authentication import Callers, FrontSecurity
from prinz_enricher.fronts.grpc.counted_handlers import SERVICE
from prinz_enricher.fronts.grpc.grpcio_front import GrpcioFront
from prinz_enricher.fronts.listener import address_text
from prinz_enricher.service.calls import Front, FrontError
from prinz_enricher.telemetry.series import Series
from prinz_enricher.telemetry.tracing import Tracing

__all__ = ["PACKAGE", "SERVICE", "Callers", "FrontLimits", "FrontSecurity", "GrpcioFront", "open_front"]

PACKAGE = "prinz_enricher_front"
"""What `make front` builds."""

_NAME = PACKAGE.replace("_", "-")

log = structlog.stdlib.get_logger(__name__)


def open_front(
    settings: ServerSettings,
    security: FrontSecurity | None = None,
    series: Series | None = None,
    tracing: Tracing | None = None,
    flight: FlightSettings = FlightSettings(),  # noqa: B008
) -> Front:
    """Return the front of the settings; `auto` is rust where it is installed, else grpcio.

    It does not listen yet, counts its calls in the series, and traces them where it gets what does. Raises FrontError
    where a front is required and not installed.
    """
    kind: str = settings.front
    why = "by the settings"
    installed = importlib.util.find_spec(PACKAGE) is not None
    if kind == "auto":
        kind, why = ("rust", "it is installed") if installed else ("grpcio", f"{_NAME} is not installed")
    elif kind == "rust" and not installed:
        raise FrontError(f"the rust front needs the package {_NAME}, which is not installed")
    make: Callable[..., Front] = GrpcioFront
    if kind == "rust":
        from prinz_enricher.fronts.grpc.rust_front import RustFront

        make = RustFront
    log.info("front chosen", front=kind, why=why)
    address = address_text(settings.host, settings.port)
    flight_address = None if flight.port is None else address_text(settings.host, flight.port)
    return make(address, limits_of(settings), security or FrontSecurity(), series, tracing, flight=flight_address)
