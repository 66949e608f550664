"""`prinz-enricher check`: whether a service with some settings could serve here, and its models be scored."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from prinz_enricher.application import START_ERRORS
from prinz_enricher.checks.deployment_checks import deployment_checks
from prinz_enricher.checks.findings import Finding, run_checks
from prinz_enricher.checks.model_checks import ModelChecks
from prinz_enricher.cli.serve import load_settings, serve
from prinz_enricher.cli.service_connection import printable
from prinz_enricher.config import ConfigError
from prinz_enricher.service.registries import Registries
from prinz_enricher.telemetry import configure_logging


@click.command()
@click.option(
    "--models", multiple=True, metavar="PATTERN", help="Check these models alone; * stands for any text. Repeatable."
)
@click.option("--no-score", is_flag=True, help="Load and score no model.")
@click.option("--timeout", default=600.0, type=click.FloatRange(1), help="Seconds for all checks.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(
    config: Path | None, models: tuple[str, ...], no_score: bool, timeout: float, as_json: bool, **given: Any
) -> None:
    """Check whether a service with these settings could serve here, and score each model once.

    Settings are those of `serve`. One line each: ok, warn or FAIL, what, where, and what was seen or is to be done. The
    exit code is 1 if anything fails. Nothing is changed, but models and environments that are scored stay in the cache.
    """
    findings = []
    for finding in _check(config, given, models or ("*",), time.monotonic() + timeout, score=not no_score):
        findings.append(finding)
        if not as_json:
            line = f"{finding.level:<4}  {finding.what:<11}  {finding.where}: {finding.message}"
            click.echo(printable(line))
    failed = any(finding.level == "FAIL" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [finding._asdict() for finding in findings]}))
    click.get_current_context().exit(int(failed))


# The flags of settings.
check.params = [*serve.params, *check.params]


def _check(
    config: Path | None, given: dict[str, Any], models: tuple[str, ...], deadline: float, *, score: bool
) -> Iterator[Finding]:
    where = "defaults, environment, flags" if config is None else str(config)
    with ExitStack() as closing:
        try:
            settings = load_settings(config, given)
            configure_logging("error", settings.logging.format)
            # What a service stores between its runs is neither read nor written.
            registries = Registries(
                {name: one.model_copy(update={"snapshot_folder": ""}) for name, one in settings.all_registries.items()}
            )
            registries.open()
            closing.callback(registries.close)
            model_checks = ModelChecks(settings, registries, deadline)
            closing.callback(model_checks.close)
        except (ConfigError, *START_ERRORS) as error:
            yield Finding("FAIL", "settings", where, str(error))
            return
        yield Finding("ok", "settings", where, "are valid")
        yield from run_checks([*deployment_checks(settings, registries.catalog.members)], deadline)
        # Not while one of them may still answer.
        if registries.catalog.ready.is_set():
            yield from model_checks.run(models, score=score)
