"""What every command shares: the options before the command, and how a command may end."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from archer import __version__
from archer.cli.console import print_error, print_note
from archer.errors import UserError

WRONG_INPUT = 2
INTERRUPTED = 130

UsageError: Any = typer.BadParameter.__mro__[1]
"""Typer's own from 0.26 on, click's before; it exports neither."""


class ArcherGroup(TyperGroup):
    """Runs a command; what the user can fix becomes one message and status 2, Ctrl-C one line and status 130.

    Anything else is our own mistake: it passes through, with its traceback and status 1.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that `ctx` holds."""
        try:
            return super().invoke(ctx)
        except UsageError as error:  # unknown commands and options, values of the wrong kind
            where = error.ctx.command_path if error.ctx else "archer"
            print_error(f"{error.format_message()} (see `{where} --help`)")
            raise typer.Exit(WRONG_INPUT) from error
        except ValueError as error:
            if not is_for_the_user(error):
                raise
            print_error(str(error))
            raise typer.Exit(WRONG_INPUT) from error
        except KeyboardInterrupt as interrupt:
            print_note("interrupted; the same command continues")
            raise typer.Exit(INTERRUPTED) from interrupt


class ArcherCommand(TyperCommand):
    """Its help page calls an argument by what it takes, as an option: FILE.py, not {FILE.py} or a type."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The line after "Usage:", in pieces; only what may be left out stands in brackets."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, and then the options."""
        arguments, options = [], []
        for parameter in self.get_params(ctx):
            name, help_text = parameter.get_help_record(ctx) or ("", "")
            if parameter.param_type_name == "argument":
                arguments.append((parameter.metavar or parameter.name, help_text))
            elif name:
                options.append((name, help_text))
        for title, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def is_for_the_user(error: ValueError) -> bool:
    """Whether the user can fix it: a UserError, or a kind of ValueError that a room of ours defines."""
    return isinstance(error, UserError) or type(error).__module__.partition(".")[0] == "archer"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"archer {__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options before the command."""
