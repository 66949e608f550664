"""The gRPC fronts: the Rust one is quick and bounded, the native one quick, the grpcio one runs on every platform."""

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
    """Return the front of the settings; `auto` is the first that is installed and fit for what is asked.

    It does not listen yet, counts its calls in the series, and traces them where it gets what does. Raises FrontError
    where a front is required and not installed.
    """
    kind: str = settings.front
    why = "by the settings"
    if kind == "auto":
        kind, why = _choose(settings)
    elif kind != "grpcio" and not _is_installed(package := _PACKAGES[kind]):
        raise FrontError(f"the {kind} front needs the package {package.replace('_', '-')}, which is not installed")
    make: Callable[[str, FrontLimits, FrontSecurity, Series | None, Tracing | None], Front] = GrpcioFront
    if kind == "rust":
        from prinz_enricher.fronts.grpc.rust_front import RustFront

        make = RustFront
    elif kind == "native":
        from prinz_enricher.fronts.grpc.native_front import NativeFront

        make = NativeFront
    log.info("front chosen", front=kind, why=why)
    address = address_text(settings.host, settings.port)
    return make(address, limits_of(settings), security or FrontSecurity(), series, tracing)


_PACKAGES = {"rust": "prinz_enricher_front", "native": "pygrpc_native"}


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _choose(settings: ServerSettings) -> tuple[str, str]:
    """Return the front that `auto` is, and why."""
    if _is_installed(_PACKAGES["rust"]):
        return "rust", "it is installed"
    against = _why_not_native(settings, _is_installed(_PACKAGES["native"]))
    return ("grpcio", against) if against else ("native", "it is installed")


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
