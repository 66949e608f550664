"""What secures the grpcio front: tokens before a body is received, certificates of each connection, health by rules."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from prinz_enricher.fronts.grpc.authentication import Callers, Verdict, authorization_of, certificate_of
from prinz_enricher.fronts.grpc.counted_handlers import counted
from prinz_enricher.security.access import AccessRules
from prinz_enricher.security.principal import Principal
from prinz_enricher.telemetry.series import MethodSeries

if TYPE_CHECKING:
    from prinz_enricher.security.certificates import CertificateFiles, Certificates

CALLER: ContextVar[Principal] = ContextVar("caller")
"""Who makes the call of a task, where its token has named the caller."""

_HEALTH = "/grpc.health.v1.Health/"
_MODEL = "model/"
"""What the names of services begin with whose health is that of a model."""


class TokenCheck(grpc.aio.ServerInterceptor):
    """Refuses calls with a bad token before their bodies are received, and those without one where they need it.

    Anybody may ask for health, see `ModelHealth`. A call waits for its own token to be verified, and no other does.
    """

    def __init__(
        self, callers: Callers, refuse: Callable[..., Awaitable[bytes]], methods: Mapping[str, MethodSeries]
    ) -> None:
        self._callers = callers
        self._refuse = refuse
        self._methods = methods

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Return the method's handler, or one that refuses the call; None where there is no such method."""
        handler = await continuation(details)
        method: str = details.method
        if handler is None or method.startswith(_HEALTH):
            return handler
        authorization = authorization_of(details.invocation_metadata)
        if self._callers.needs_certificate(authorization):
            return handler
        verdict = self._callers.known(authorization)
        if verdict is None:
            verdict = await asyncio.wrap_future(self._callers.verify(authorization))
        if isinstance(verdict, Principal):
            CALLER.set(verdict)
            return handler

        async def refuse(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            await self._refuse(context, method.rpartition("/")[2], verdict)

        # One of a stream is called without waiting for a message.
        return grpc.stream_stream_rpc_method_handler(counted(self._methods[method], refuse))


class ModelHealth(HealthServicer):  # type: ignore[misc]  # it has no types
    """Health, in which a model does not exist for who may not list it; the others are for all, with a token or not."""

    def __init__(self, callers: Callers | None, rules: AccessRules) -> None:
        super().__init__()
        self._callers = callers
        self._rules = rules
        self._changed = asyncio.Event()

    def change(self, rules: AccessRules) -> None:
        """Go on with other rules; in the loop's thread."""
        self._rules = rules
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Return the health of a service."""
        return await super().Check(await self._seen(request, context), context)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - likewise
        """Send the health of a service, and what it changes to, also where the caller may see another one by then."""
        while True:
            changed = asyncio.ensure_future(self._changed.wait())
            watch = asyncio.ensure_future(super().Watch(await self._seen(request, context), context))
            try:
                await asyncio.wait((changed, watch), return_when=asyncio.FIRST_COMPLETED)
                if watch.done():
                    # It ends with an error alone.
                    await watch
            finally:
                changed.cancel()
                watch.cancel()

    async def _seen(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckRequest:
        """Return what is asked for, or a service that there never is."""
        if not (self._rules.restricted and request.service.startswith(_MODEL)):
            return request
        caller: Verdict | None = None
        if self._callers is not None:
            authorization = authorization_of(context.invocation_metadata())
            caller = self._callers.known(authorization, certificate_of(context.auth_context()))
            if caller is None:
                caller = await asyncio.wrap_future(self._callers.verify(authorization))
        principal = caller if isinstance(caller, Principal) else None
        if self._rules.may(principal, "list", request.service.removeprefix(_MODEL)):
            return request
        return health_pb2.HealthCheckRequest(service=_MODEL)


def server_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """Return credentials whose connections get the certificates of the files as they are then."""
    served = files.current

    def exchange() -> Any:
        # For each new connection, by a thread of gRPC, which goes on with the former ones where this raises.
        nonlocal served
        current = files.current
        if current is served:
            return None
        served = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(served), exchange, require_client_authentication=served.client_ca is not None
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificates.key, certificates.chain)], root_certificates=certificates.client_ca
    )
