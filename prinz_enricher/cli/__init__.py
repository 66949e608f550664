"""The command line `prinz-enricher`."""

from prinz_enricher.cli.commands import main

__all__ = ["main"]
