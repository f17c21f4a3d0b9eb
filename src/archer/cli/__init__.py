"""The command `archer`: one file per command, each with a function `command` whose docstring is its help.

A command's module is light at the top (no torch, pandas, scipy, sqlalchemy: they are imported inside
the function), so that `archer --help` answers in well under half a second. Help pages are plain text: a
paragraph that must keep its lines (two examples, say) starts with a line that holds only \\b.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import Typer

COMMANDS = {
    "run": "archer.cli.run",
    "discover": "archer.cli.discover",
    "try": "archer.cli.try_",
    "bench": "archer.cli.bench",
    "new": "archer.cli.new",
    "verify": "archer.cli.verify",
    "table": "archer.cli.table",
    "report": "archer.cli.report",
    "compare": "archer.cli.compare",
    "calibration": "archer.cli.calibration",
    "history": "archer.cli.history",
    "rules": "archer.cli.rules",
    "compose": "archer.cli.compose",
    "export": "archer.cli.export",
    "mcp": "archer.cli.mcp",
    "papers": "archer.cli.papers",
    "mad": "archer.cli.mad",
    "doctor": "archer.cli.doctor",
}
"""Command: the module that holds its function `command`. In the order of the help page."""

EPILOGUE = (
    "Exit status: 0 finished, 1 an unexpected failure (with its traceback) or a check that did not pass, "
    "2 wrong input (one message, nothing written), 3 no proposal passed verification, 4 no run finished, "
    "5 the budget is used up and 130 interrupted (the same command continues)."
)


def main() -> None:
    """Run the command line and leave with its exit status (see EPILOGUE)."""
    try:
        build()(prog_name="archer")
    except KeyboardInterrupt:  # while the command was still being loaded; during one, ArcherGroup answers
        sys.exit(130)


def build() -> Typer:
    """Assemble the Typer application from COMMANDS."""
    import typer

    from archer.cli.group import ArcherCommand, ArcherGroup, options

    app = typer.Typer(
        cls=ArcherGroup,
        help="An autonomous laboratory for linear attention.",
        epilog=EPILOGUE,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # a plain help page takes half the time; results are what Rich is for
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    for name, module in COMMANDS.items():
        app.command(name, cls=ArcherCommand)(import_module(module).command)
    return app
