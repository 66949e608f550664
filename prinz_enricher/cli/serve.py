"""`prinz-enricher serve`: run the service until a signal ends it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import click
import structlog

from prinz_enricher.application import START_ERRORS, Application
from prinz_enricher.cli import process_setup
from prinz_enricher.config import ConfigError, Settings
from prinz_enricher.telemetry import configure_logging

_SWITCH_SECONDS = 0.0002
"""How long a thread may keep others waiting, one that reads the registry or answers the calls of a batch; Python's own
5 ms are longer than a call takes, and one call waits for its turn several times."""

_FEW_FILES = 4096

log = structlog.stdlib.get_logger(__name__)

_PORT = click.IntRange(0, 65535)


@click.command()
@click.option(
    "--registry", metavar="URL", help="MLflow server (http://mlflow:5000) or local store (sqlite:///mlflow.db)."
)
@click.option("--host", help="Address to listen on; 0.0.0.0 for all.  [default: 127.0.0.1]")
@click.option("--port", type=_PORT, help="Port to listen on; 0 picks a free one.  [default: 50051]")
@click.option("--api-port", type=_PORT, help="Port of the HTTP API; 0 picks a free one.  [default: none]")
@click.option(
    "--flight-port", type=_PORT, help="Port of Arrow Flight, which may be --port; 0 picks one.  [default: none]"
)
@click.option("--insecure", is_flag=True, default=None, help="Allow addresses other than loopback without TLS.")
@click.option("--tls-certificate", metavar="FILE", help="PEM file of the servers' certificate chain.")
@click.option("--tls-key", metavar="FILE", help="PEM file of its key.")
@click.option("--tls-client-ca", metavar="FILE", help="PEM file of the authorities of client certificates (mTLS).")
@click.option(
    "--http-port", type=_PORT, help="Port for metrics, probes and webhooks; 0 picks a free one.  [default: none]"
)
@click.option(
    "--front",
    type=click.Choice(["auto", "rust", "grpcio"]),
    help="Implementation of gRPC; see the docs.  [default: auto]",
)
@click.option(
    "--preload",
    multiple=True,
    metavar="NAME",
    help="Load this model at the start, and keep it; * stands for any text. Repeatable.  [default: what was in use]",
)
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="TOML file with settings.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Lowest level logged.  [default: info]",
)
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]), help="Format of logs.  [default: auto]")
def serve(config: Path | None, **given: Any) -> None:
    """Serve the models of an MLflow registry over gRPC.

    Settings come from a TOML file (--config), then from environment variables (PRINZ_<SECTION>__<KEY>, such as
    PRINZ_REGISTRY__URL), then from these flags. SIGTERM and Ctrl-C drain: calls in flight are answered first. SIGHUP
    reads the TOML file again, and takes over what can change while the service runs.
    """
    # First of all: by default SIGHUP ends a process.
    signals, ended = process_setup.catch_signals(signal.SIGHUP)
    try:
        settings = load_settings(config, given)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    configure_logging(settings.logging.level, settings.logging.format)
    _run(settings, signals, ended, None if config is None else partial(load_settings, config, given))


def load_settings(config: Path | None, given: Mapping[str, Any]) -> Settings:
    """Return settings with a registry by file, environment and the flags of `serve`; raises ConfigError."""
    tls = {key: value for key in ("certificate", "key", "client_ca") if (value := given[f"tls_{key}"]) is not None}
    server = {key: given[key] for key in ("host", "port", "front", "insecure")}
    flags = {
        "registry": {"url": given["registry"]},
        "server": server | ({"tls": tls} if tls else {}),
        "api": {"port": given["api_port"]},
        "flight": {"port": given["flight_port"]},
        "http": {"port": given["http_port"]},
        "scoring": {"preload": given["preload"] or None},
        "logging": {"level": given["log_level"], "format": given["log_format"]},
    }
    settings = Settings.load(
        {section: {k: v for k, v in keys.items() if v is not None} for section, keys in flags.items()}, config
    )
    if not settings.all_registries:
        raise ConfigError("no registry is configured; use --registry URL, [registry] url, or PRINZ_REGISTRY__URL")
    return settings


def _run(
    settings: Settings, signals: SimpleQueue[int], ended: threading.Event, load: Callable[[], Settings] | None
) -> None:
    """Run the service until `ended`; `load` reads the settings again, where they are in a file."""
    files = process_setup.raise_file_limit()
    if files < _FEW_FILES:
        log.warning("few files may be open, and each connection is one (ulimit -n)", files=files)
    process_setup.use_libc_allocator()
    process_setup.use_batch_scheduling()
    process_setup.disable_ptrace()
    try:
        application = Application(settings)
        application.start(ended)
    except START_ERRORS as error:
        if ended.is_set():
            return
        raise click.ClickException(str(error)) from None
    process_setup.trim_memory()
    sys.setswitchinterval(_SWITCH_SECONDS)
    process_setup.notify_systemd("READY=1")
    while process_setup.wait_for_signal(signals) == signal.SIGHUP:
        if load is None:
            log.warning("SIGHUP changes nothing: there is no settings file (--config)")
            continue
        process_setup.notify_systemd(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        application.reload(load)
        process_setup.notify_systemd("READY=1")
    process_setup.notify_systemd("STOPPING=1")
    application.stop()
