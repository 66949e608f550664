"""The gRPC fronts: the native one is quicker and needs less memory, the grpcio one runs on every platform."""

from __future__ import annotations

import importlib.util
import resource
from collections.abc import Callable
from pathlib import Path

import structlog

from prinz_enricher.config import ServerSettings, is_loopback
from prinz_enricher.fronts.grpc.admission import FrontLimits, limits_of
from prinz_enricher.fronts.grpc.authentication import Callers, FrontSecurity
from prinz_enricher.fronts.grpc.counted_handlers import SERVICE
from prinz_enricher.fronts.grpc.grpcio_front import GrpcioFront
from prinz_enricher.fronts.listener import address_text
from prinz_enricher.service.calls import Front, FrontError
from prinz_enricher.telemetry.series import Series
from prinz_enricher.telemetry.tracing import Tracing

__all__ = ["SERVICE", "Callers", "FrontLimits", "FrontSecurity", "GrpcioFront", "open_front"]

OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
"""Where Linux says whether it grants memory that is not there yet, proc_sys_vm(5)."""

log = structlog.stdlib.get_logger(__name__)


def open_front(
    settings: ServerSettings,
    security: FrontSecurity | None = None,
    series: Series | None = None,
    tracing: Tracing | None = None,
) -> Front:
    """Return the front of the settings; `auto` is the native one where it is installed and fit for what is asked.

    It does not listen yet, counts its calls in the series, and traces them where it gets what does. Raises FrontError
    where the native front is required and not installed.
    """
    kind, host = settings.front, settings.host
    installed = importlib.util.find_spec("pygrpc_native") is not None
    if kind == "native" and not installed:
        raise FrontError("the native front needs the package pygrpc-native, which is not installed")
    against = (
        "by the settings" if kind == "grpcio" else "" if kind == "native" else _why_not_native(settings, installed)
    )
    if against:
        log.info("front chosen", front="grpcio", why=against)
        make: Callable[[str, FrontLimits, FrontSecurity, Series | None, Tracing | None], Front] = GrpcioFront
    else:
        from prinz_enricher.fronts.grpc.native_front import NativeFront

        make = NativeFront
        log.info("front chosen", front="native", why="by the settings" if kind == "native" else "it is installed")
    return make(address_text(host, settings.port), limits_of(settings), security or FrontSecurity(), series, tracing)


def _why_not_native(settings: ServerSettings, installed: bool) -> str:
    """Return why `auto` does not choose the native front; empty where it does."""
    if not installed:
        return "pygrpc-native is not installed"
    if settings.tls.enabled:
        return "the native front has no TLS"
    if not is_loopback(settings.host):
        # It decompresses without a limit: a few small messages end the process.
        return "the native front is not safe from hostile callers, and others can reach this address"
    # It allocates a message as soon as its length is announced, up to 4 GiB, and ends the process where it can't.
    if OVERCOMMIT.exists() and OVERCOMMIT.read_text(encoding="ascii").strip() == "2":
        return "this system grants no memory in advance (vm.overcommit_memory is 2)"
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return "the process's address space is limited (ulimit -v)"
    return ""
