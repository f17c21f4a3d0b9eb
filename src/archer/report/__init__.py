"""From facts to a research note: as a tree of values, as Markdown, as one HTML page, and in the terminal.

    from archer.report import build, write
    markdown_path, page_path = write(build(facts), folder)

`facts` says what a note is made of, `note` builds it, `summary` does the same for a campaign of many cycles,
`terminal` shows the final table. Everything is loaded on first use. docs/design/report.md gives the reasons.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archer.report.facts import Facts, gather
    from archer.report.note import build
    from archer.report.summary import summarise
    from archer.report.terminal import final_table
    from archer.report.tree import Note
    from archer.report.writing import write

__all__ = ["Facts", "Note", "build", "final_table", "gather", "summarise", "write"]

_MODULES = {
    "Facts": "facts",
    "gather": "facts",
    "Note": "tree",
    "build": "note",
    "summarise": "summary",
    "final_table": "terminal",
    "write": "writing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(
            f"module 'archer.report' has no attribute '{name}'; it has: {', '.join(__all__)}"
        )
    return getattr(import_module(f"archer.report.{_MODULES[name]}"), name)
