"""Soaks services for some minutes, and prints what came of it: `python -m tests.soak --minutes 30`."""

from __future__ import annotations

import sys

import click

from prinz_enricher.telemetry.logs import configure_logging
from tests.soak.campaign import soak
from tests.soak.service import DEFAULT_FRONTS, FRONTS


@click.command(help=__doc__)
@click.option("--minutes", default=30.0, show_default=True, help="How long callers call.")
@click.option(
    "--front",
    type=click.Choice(FRONTS),
    multiple=True,
    default=DEFAULT_FRONTS,
    help="By default all that are installed, at once.",
)
@click.option("--seed", default=0, show_default=True, help="Another one calls and disturbs in another order.")
def main(minutes: float, front: tuple[str, ...], seed: int) -> None:
    """Soak, and end with 1 where a service did not hold."""
    configure_logging("warning", "console")
    sys.exit(0 if soak(minutes, front, seed) else 1)


if __name__ == "__main__":
    main()
