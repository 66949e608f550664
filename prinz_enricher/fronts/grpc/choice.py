"""The choice of a front: the native one is quicker and needs less memory, the grpcio one runs on every platform."""

from __future__ import annotations

import importlib.util
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import structlog

from prinz_enricher.fronts.grpc.admission import UNLIMITED
from prinz_enricher.fronts.grpc.grpcio_front import GrpcioFront
from prinz_enricher.provision.memory import default_budget
from prinz_enricher.service.calls import Front, FrontError

log = structlog.stdlib.get_logger(__name__)

OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
"""Where Linux says whether it grants memory that is not there yet, proc_sys_vm(5)."""

Kind = Literal["auto", "native", "grpcio"]


def open_front(
    kind: Kind,
    host: str,
    port: int,
    *,
    max_message_bytes: int,
    max_calls: int,
    max_inflight_bytes: int | None,
) -> Front:
    """Return a front, which does not listen yet.

    Args:
        kind: `auto` chooses the native one where its package is installed and the system is fit for it.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        max_message_bytes: Bytes of a request or an answer.
        max_calls: Unary calls in flight.
        max_inflight_bytes: Bytes of their requests; a quarter of the memory by default.

    Raises:
        FrontError: The native front is required and not installed.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    installed = importlib.util.find_spec("pygrpc_native") is not None
    if kind == "native" and not installed:
        raise FrontError("the native front needs the package pygrpc-native, which is not installed")
    against = "by the settings" if kind == "grpcio" else "" if kind == "native" else _why_not_native(installed)
    if against:
        log.info("front chosen", front="grpcio", why=against)
        make: Callable[..., Front] = GrpcioFront
    else:
        from prinz_enricher.fronts.grpc.native_front import NativeFront

        make = NativeFront
        log.info("front chosen", front="native", why="by the settings" if kind == "native" else "it is installed")
    return make(
        address,
        max_message_bytes=max_message_bytes,
        max_calls=max_calls,
        max_inflight_bytes=max_inflight_bytes or default_budget(0.25) or UNLIMITED,
    )


def _why_not_native(installed: bool) -> str:
    """Return why `auto` does not choose the native front; empty where it does."""
    if not installed:
        return "pygrpc-native is not installed"
    # It allocates a message as soon as its length is announced, up to 4 GiB, and ends the process where it can't.
    if OVERCOMMIT.exists() and OVERCOMMIT.read_text(encoding="ascii").strip() == "2":
        return "this system grants no memory in advance (vm.overcommit_memory is 2)"
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return "the process's address space is limited (ulimit -v)"
    return ""
