"""How the client commands reach a service: a running one by its address, or one of their own for a registry."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import click
import grpc

from prinz_enricher.client import Client, ServiceError
from prinz_enricher.errors import InvalidInput

_REACH_SECONDS: Final = 5.0
"""Within which a service that runs takes a connection; gRPC itself would try for as long as a call may take."""

_IS_IT_RUNNING: Final = "  Is the service running at {}? --address names another one."

_F = TypeVar("_F", bound=Callable[..., Any])


def connection_options(function: _F) -> _F:
    """Add the options that say where the service is."""
    for option in (
        click.option(
            "--timeout",
            default=60.0,
            show_default=True,
            help="Seconds for a call to a loaded model.",
        ),
        click.option("--registry", metavar="URL", help="Start a service of its own for this registry instead."),
        click.option(
            "--address",
            default="localhost:50051",
            show_default=True,
            envvar="PRINZ_ADDRESS",
            show_envvar=True,
            help="Where the service listens.",
        ),
    ):
        function = option(function)
    return function


@contextlib.contextmanager
def connect(address: str, registry: str | None, timeout: float) -> Iterator[Client]:
    """Yield a client without retries; what the service says of a fault ends the command with one sentence for each."""
    try:
        with contextlib.ExitStack() as stack:
            if registry is not None:
                address = stack.enter_context(own_service(registry))
            _reach(address)
            yield stack.enter_context(Client(address, timeout=timeout, retry=False))
    except ServiceError as error:
        raise click.ClickException(_explain(error, address)) from None
    except InvalidInput as error:
        faults = [f"  {fault.field}: {fault.description}" for fault in error.violations]
        raise click.ClickException("\n".join([error.message, *faults])) from None


def _reach(address: str) -> None:
    """End the command where nobody takes a connection. One that is refused is left to the first call to tell."""
    told = threading.Event()

    def hear(state: grpc.ChannelConnectivity) -> None:
        if state in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE):
            told.set()

    with grpc.insecure_channel(address) as channel:
        channel.subscribe(hear, try_to_connect=True)
        if not told.wait(_REACH_SECONDS):
            why = f"{address} took no connection within {_REACH_SECONDS:g} s."
            raise click.ClickException(f"{why}\n{_IS_IT_RUNNING.format(address)}")


@contextlib.contextmanager
def own_service(registry: str) -> Iterator[str]:
    """Run a service for the time of a command; yields its address."""
    from prinz_enricher.application import Application
    from prinz_enricher.config import Settings
    from prinz_enricher.registry import PrivateServerError
    from prinz_enricher.service.calls import FrontError
    from prinz_enricher.telemetry import configure_logging

    configure_logging("warning", "auto")
    # What another service over that registry has in use is nothing to it.
    settings = Settings.load(
        {"registry": {"url": registry}, "server": {"port": 0, "grace_period": 1.0}, "scoring": {"preload": []}}
    )
    application = Application(settings)
    try:
        port = application.start()
    except (FrontError, PrivateServerError) as error:
        raise click.ClickException(str(error)) from None
    try:
        if not application.ready.wait(timeout=30.0):
            raise click.ClickException(f"the registry at {registry} did not answer within 30 s")
        yield f"127.0.0.1:{port}"
    finally:
        application.stop()


def _explain(error: ServiceError, address: str) -> str:
    lines = [str(error)]
    if error.reason == "MODEL_LOAD_FAILED":
        lines.append(
            "  Name another version (NAME/version, NAME@alias), or mend what is told and call again after a while. "
            "`prinz-enricher models` shows the state of each version."
        )
    elif not error.reason and error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        lines.append("  --timeout gives a call more time.")
    elif not error.reason:
        lines.append(_IS_IT_RUNNING.format(address))
    if error.reason in ("MODEL_NOT_FOUND", "ALIAS_NOT_FOUND"):
        lines.append("  Write NAME, NAME/version or NAME@alias; for a NAME that holds an @: a@b, a@b/3, a@b@alias.")
    lines += [f"  {fault.field}: {fault.description}" for fault in error.violations]
    if "omitted" in error.metadata:
        lines.append(f"  … and {error.metadata['omitted']} more")
    return "\n".join(lines)
