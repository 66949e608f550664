"""The command `prinz-enricher` and its subcommands, each of which is imported only when it is run."""

from __future__ import annotations

import importlib
import io
import os
import sys

import click

from prinz_enricher import __version__
from prinz_enricher.cli.process_setup import block_imports

COMMANDS = {
    "serve": ("serve", "Serve the models of an MLflow registry over gRPC."),
    "check": ("check", "Check whether a service could serve here, and score each model once."),
    "demo": ("demo", "Train sample models, serve them, and show how to call them."),
    "models": ("describe", "List the models of a service."),
    "signature": ("describe", "Show the inputs, outputs and parameters of a model."),
    "score": ("score", "Score the rows of a file."),
    "nussknacker-config": ("nussknacker_config", "Print the configuration of Nussknacker's own OpenAPI enricher."),
    "token": ("token", "Make a token for a caller."),
    "loadtest": ("loadtest", "Measure the throughput and latency of a server."),
}
"""The module and the summary of each subcommand."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"prinz_enricher.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


@click.group(cls=_LazyGroup, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="prinz-enricher")
def group() -> None:
    """Discover, describe and score the models of an MLflow registry over gRPC."""


def main() -> None:
    """Run the command line; an error ends it with one sentence and exit code 1."""
    is_service = sys.argv[1:2] == ["serve"]
    block_imports("pandas", *(("rich", "pygments") if is_service else ()))
    if not is_service:
        # What a person is to know of a connection is in the error of the call.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        # The exit code of a command that ends by itself, which has none else.
        sys.exit(group.main(standalone_mode=False))
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        # It may hold names of a registry.
        text = (c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in shown.getvalue())
        click.echo("".join(text), err=True, nl=False)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
