"""How client commands reach a service, which may be one of their own, and wait until its model is loaded."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click
import grpc
from rich.console import Console
from rich.progress import Progress, TextColumn

from prinz_enricher.client import Client, ModelReference, ServiceError, Tls
from prinz_enricher.client.connection import examine, open_channel
from prinz_enricher.client.service_error import GRPC_MESSAGE
from prinz_enricher.errors import InvalidInput

if TYPE_CHECKING:
    from prinz_enricher.application import Application

FIRST_TRY: Final = 2.0
"""Seconds after which a call that waits for its model gets to know what is being done."""
_CONNECT_SECONDS: Final = 5.0
"""Within which a running service accepts a connection; gRPC itself would try for as long as a call may take."""
_GRACE: Final = 10.0
"""Seconds after MODEL_LOADING in which an answer may be late on a busy machine."""
_RETRIES: Final = 3
"""Retries of a call that finds no service. Those of gRPC would let the deadline pass before MODEL_LOADING is heard."""
_IS_IT_RUNNING: Final = "  Is the service running at {}? --address names another one."

_F = TypeVar("_F", bound=Callable[..., Any])
_R = TypeVar("_R")


def _check_reference(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        ModelReference.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    return value


model_argument = click.argument("model", callback=_check_reference, metavar="NAME[@alias|/version]")

wait_option = click.option(
    "--wait",
    default=1200.0,
    type=click.FloatRange(0),
    help="Seconds to wait while the model is being downloaded, gets its environment, and is loaded.",
)


_FOR_CALLERS: Final = tuple(
    f"PRINZ_{name}" for name in ("SERVER__", "HTTP__", "AUTH__", "ACCESS", "QUOTA__", "AUDIT__")
)
"""The settings of a service that are about its callers, as environment variables."""

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

_SECURITY: Final = (
    click.option(
        "--tls",
        is_flag=True,
        envvar="PRINZ_TLS",
        show_envvar=True,
        help="Use TLS; implied by --ca, --certificate and --server-name.",
    ),
    click.option(
        "--ca",
        type=_FILE,
        envvar="PRINZ_CA",
        show_envvar=True,
        help="CA certificates (PEM) to verify the server with.  [default: those that come with gRPC]",
    ),
    click.option(
        "--certificate",
        type=_FILE,
        envvar="PRINZ_CERTIFICATE",
        show_envvar=True,
        help="Client certificate (PEM), where the server requires one; needs --key.",
    ),
    click.option(
        "--key", type=_FILE, envvar="PRINZ_KEY", show_envvar=True, help="Private key (PEM) of the client certificate."
    ),
    click.option(
        "--server-name",
        default="",
        show_default=False,
        metavar="NAME",
        envvar="PRINZ_SERVER_NAME",
        show_envvar=True,
        help="Name in the server's certificate.  [default: as in --address]",
    ),
    click.option(
        "--token-file",
        "token",
        type=_FILE,
        envvar="PRINZ_TOKEN_FILE",
        show_envvar=True,
        help="File with the bearer token of each call; it is read again when it changes.",
    ),
    click.option("--insecure", is_flag=True, help="Allow the token to be sent to another machine without TLS."),
)


def security_options(function: _F) -> _F:
    """Add the options of TLS and of the token; the command gets `tls`, None for plaintext, `token` and `insecure`."""

    @functools.wraps(function)
    def command(
        *, tls: bool, ca: Path | None, certificate: Path | None, key: Path | None, server_name: str, **rest: Any
    ) -> Any:
        if (certificate is None) != (key is None):
            raise click.UsageError("--certificate and --key go together: name both files, or neither")
        wanted = tls or ca or certificate or server_name
        return function(tls=Tls(ca, certificate, key, server_name) if wanted else None, **rest)

    for option in reversed(_SECURITY):
        command = option(command)
    return cast("_F", command)


def connection_options(function: _F) -> _F:
    """Add the options that say where the service is, and those of `security_options`."""
    function = security_options(function)
    function = click.option("--timeout", default=60.0, help="Seconds for a call to a loaded model.")(function)
    function = click.option("--registry", metavar="URL", help="Start a service for this registry instead.")(function)
    return click.option(
        "--address", default="localhost:50051", envvar="PRINZ_ADDRESS", show_envvar=True, help="Address of the service."
    )(function)


@contextlib.contextmanager
def connect(
    address: str,
    registry: str | None,
    timeout: float,
    tls: Tls | None = None,
    token: Path | None = None,
    *,
    insecure: bool = False,
) -> Iterator[Client]:
    """Yield a client without retries; the service's errors end the command with one sentence for each fault."""
    try:
        with contextlib.ExitStack() as stack:
            if registry is not None:
                from prinz_enricher.telemetry import configure_logging

                configure_logging("warning", "auto")
                # No model is loaded that another service over the same registry has in use.
                service = own_service(
                    registry, _own_variables(), server={"port": 0, "grace_period": 1.0}, scoring={"preload": []}
                )
                application, port = stack.enter_context(service)
                if not application.ready.wait(timeout=30.0):
                    raise click.ClickException(f"the registry at {registry} did not answer within 30 s")
                address, tls, token = f"127.0.0.1:{port}", None, None
            client = stack.enter_context(_open(address, timeout, tls, token, insecure=insecure))
            _check_connection(address, tls)
            yield client
    except ServiceError as error:
        found = examine(error, address, tls)
        raise click.ClickException("\n".join([str(found), *hints(found, address)])) from None
    except InvalidInput as error:
        raise invalid_input(error) from None


def _open(address: str, timeout: float, tls: Tls | None, token: Path | None, *, insecure: bool) -> Client:
    try:
        return Client(address, timeout=timeout, retry=False, tls=tls, token=token, allow_insecure_token=insecure)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def invalid_input(error: InvalidInput) -> click.ClickException:
    """Return the error of a command whose rows do not fit, with a line for each fault."""
    faults = [f"  {fault.field}: {fault.description}" for fault in error.violations]
    return click.ClickException("\n".join([error.message, *faults]))


def _check_connection(address: str, tls: Tls | None) -> None:
    """End the command where nobody accepts a connection. A refused one is left to the first call, which explains it."""
    answered = threading.Event()

    def on_change(state: grpc.ChannelConnectivity) -> None:
        if state in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE):
            answered.set()

    with open_channel(grpc, address, tls) as channel:
        channel.subscribe(on_change, try_to_connect=True)
        if not answered.wait(_CONNECT_SECONDS):
            why = f"{address} accepted no connection within {_CONNECT_SECONDS:g} s."
            raise click.ClickException(f"{why}\n{_IS_IT_RUNNING.format(address)}")


def _own_variables() -> dict[str, str]:
    """Return the environment without what is about other callers than this command."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(_FOR_CALLERS)}


@contextlib.contextmanager
def own_service(
    url: str, variables: Mapping[str, str] = os.environ, **sections: Mapping[str, object]
) -> Iterator[tuple[Application, int]]:
    """Run a service of a registry, with these sections of settings, for the time of a command; yields its port, too."""
    from prinz_enricher.application import START_ERRORS, Application
    from prinz_enricher.config import ConfigError, Settings

    try:
        application = Application(Settings.load({"registry": {"url": url}, **sections}, environment=variables))
        port = application.start()
    except (ConfigError, *START_ERRORS) as error:
        raise click.ClickException(str(error)) from None
    try:
        yield application, port
    finally:
        application.stop()


def hints(error: ServiceError, address: str) -> list[str]:
    """Return lines for a person about an error of a call: what can be done, and each of its faults."""
    lines = []
    if error.reason == "MODEL_LOAD_FAILED":
        hint = "  Name another version (NAME/version, NAME@alias), or fix the cause and call again after a while. "
        lines.append(hint + "`prinz-enricher models` shows the state of each version.")
    elif error.reason in ("MODEL_NOT_FOUND", "ALIAS_NOT_FOUND"):
        lines.append("  Write NAME, NAME/version or NAME@alias; for a NAME that holds an @: a@b, a@b/3, a@b@alias.")
    elif error.reason in ("TOKEN_MISSING", "TOKEN_INVALID"):
        lines.append("  --token-file, or PRINZ_TOKEN_FILE, names the file with the token.")
    elif error.reason == "QUOTA_EXCEEDED" and error.retry_after is not None:
        lines.append(f"  A call may succeed in {error.retry_after:g} s.")
    elif not error.reason and error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        lines.append("  --timeout gives a call more time.")
    elif GRPC_MESSAGE in error.metadata:
        lines.append(f"  gRPC: {error.metadata[GRPC_MESSAGE]}")
    elif not error.reason and error.code is not grpc.StatusCode.UNAUTHENTICATED:
        lines.append(_IS_IT_RUNNING.format(address))
    lines += [f"  {fault.field}: {fault.description}" for fault in error.violations]
    if "omitted" in error.metadata:
        lines.append(f"  … and {error.metadata['omitted']} more")
    return lines


def printable(text: str) -> str:
    """Return text of a registry without what would control the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_line(console: Console, line: str) -> None:
    """Print a line as it is, without what would control the terminal."""
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def waiting_display(console: Console) -> Iterator[Callable[[str], None]]:
    """Yield what shows a step: on a terminal in one line, with the seconds of the wait, else in a line for each."""
    if not console.is_interactive:
        yield lambda line: print_line(console, line)
        return
    column = TextColumn("{task.description} ({task.elapsed:.0f} s)", markup=False)
    progress = Progress(column, console=console, transient=True)

    def show(line: str) -> None:
        if not progress.tasks:
            progress.add_task(line)
            # Not before there is something to wait for.
            progress.start()
        progress.update(progress.tasks[0].id, description=line)

    try:
        yield show
    finally:
        progress.stop()


def call_when_loaded(
    call: Callable[[float | None], _R], seconds: float, show: Callable[[str], Any], timeout: float | None = None
) -> _R:
    """Make a call, and repeat it for as long as the model is being loaded, at most `seconds` in all; `show` says why.

    `call` makes it within so many seconds; None means all that a call may take. `timeout` is that of the first one,
    short for one that waits if its model is not loaded. Raises ServiceError if the call failed otherwise, and
    ClickException if the model was not loaded in time.
    """
    end = time.monotonic() + seconds
    shown, lost, loading_at, late = "", 0, -math.inf, grpc.StatusCode.DEADLINE_EXCEEDED
    while True:
        try:
            return call(timeout)
        except ServiceError as error:
            if error.reason == "MODEL_LOADING":
                timeout, loading_at = FIRST_TRY, time.monotonic()
                known = error.metadata
                step = known.get("step") or known.get("why") or "waiting until it is loaded"
                line = printable(f"{known['model']}/{known['version']}: {step}")
                pause = min(error.retry_after or 1.0, 1.0)
                if time.monotonic() + pause > end:
                    raise click.ClickException(f"{line}. It was not loaded in time; --wait gives it more") from None
                if line != shown:
                    show(line)
                shown = line
                time.sleep(pause)
            elif error.reason == "QUOTA_EXCEEDED" and time.monotonic() + (error.retry_after or 1.0) < end:
                show(f"{error.message} (in {error.retry_after or 1.0:g} s)")
                time.sleep(error.retry_after or 1.0)
            elif error.code is late and (timeout or time.monotonic() < loading_at + _GRACE):
                # A model that is loaded and slow has all the time of a call.
                timeout = None
            elif error.code is grpc.StatusCode.UNAVAILABLE and lost < _RETRIES:
                lost += 1
                time.sleep(0.1 * lost)
            else:
                raise
