"""The command `prinz-enricher` and its subcommands, each imported only when it is run."""

from __future__ import annotations

import importlib
import sys

import click

from prinz_enricher import __version__
from prinz_enricher.cli.purity import keep_out

COMMANDS = {
    "serve": "Serve the models of an MLflow registry over gRPC.",
    "demo": "Train sample models, serve them, and say how to call them.",
    "models": "List the models that a service serves.",
    "signature": "Show what a model takes and gives.",
    "score": "Score the rows of a file.",
    "loadtest": "Measure what a server carries.",
}


class LazyGroup(click.Group):
    """A group that imports a subcommand only to run it: `serve` shall not wait for what `score` needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a subcommand."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"prinz_enricher.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="prinz-enricher")
def group() -> None:
    """Discover, describe and score the models of an MLflow registry over gRPC."""


def main() -> None:
    """Run the command line; a fault ends it with one sentence and exit code 1."""
    keep_out("pandas", *(("rich", "pygments") if sys.argv[1:2] == ["serve"] else ()))
    try:
        group.main(standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
