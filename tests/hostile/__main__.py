"""All attacks at full size, on one front: `python -m tests.hostile --front grpcio [NAME …]`."""

from __future__ import annotations

import click

from tests.hostile.attacks import ATTACKS
from tests.hostile.campaign import HEADER, line, measure


@click.command()
@click.option("--front", type=click.Choice(["grpcio", "rust", "bare"]), multiple=True, default=["grpcio"])
@click.option("--seconds", default=8.0, help="How long an attack goes on.")
@click.option("--scale", default=1.0, help="The part of an attack's full size.")
@click.argument("names", nargs=-1, type=click.Choice(list(ATTACKS)))
def main(front: tuple[str, ...], seconds: float, scale: float, names: tuple[str, ...]) -> None:
    """Attack a service, and print what well-behaved callers see."""
    for kind in front:
        click.echo(f"\n{kind}\n\n{HEADER}")
        for name in names or ATTACKS:
            outcome = measure(kind, name, seconds=seconds, scale=scale)
            click.echo(line(name, outcome))
            for error in sorted(set(outcome.during.errors))[:3]:
                click.echo(f"  {error[:150]}")


if __name__ == "__main__":
    main()
