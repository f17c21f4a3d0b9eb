"""`archer new`: a commented rule file to start from, which passes verification as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archer.cli.console import print_note, results
from archer.errors import UserError, unknown

TEMPLATE = '''"""{title}: say in one line what is different.

    S = γ S + k_writeᵀ e,  γ in (0, 1), one per head

Source: who had the idea; an arXiv number, or your own name
"""

# Everything that this file does not say, its parent says: change one slot, and you know what did it.
from archer.rules import Parameter  # also: Feature (from the token), Carried (more state), wy (the algebra)

parent = "{parent}"

# A learned number per head, with its first value; within=(0, 1) keeps it there, (0, torch.inf) positive.
gamma = Parameter({gamma}, within=(0, 1))


# The chunk loop, for C tokens of one head. Shapes end in [C, D]; the axes in front are added from outside.
#
#     weights = similarity(scores, causal)      [C, C]; scores = q kᵀ, causal is True where column <= row
#     e       = correct(e)                      [C, Dv]; e = u - w S, what the state does not yet explain
#     o       = read(o) + weights e             [C, Dv]; o = q_read S
#     S       = retain(S) + write(G)            [Dk, Dv]; G = k_writeᵀ e
#
# A slot is a function with the slot's name. It gets what it asks for by the names of its arguments: q, k, v,
# beta, position, causal, scores, u, w, q_read, k_write, S, o, e, weights, G, and what this file declares.
#
# The laws (archer verify checks them): no token sees a later one; nothing depends on the rest of the batch,
# on chance or on earlier calls; the cost grows linearly with the length; gradients stay finite.
def retain(S, gamma):
    return gamma * S


# Next:  archer verify {name}.py      seconds: is it lawful, is it new, where can it differ at all?
#        archer try {name}.py         minutes: a verdict against {parent} and gated_delta_net, with intervals
'''

FIRST_GAMMA = 0.9
LONGEST_NAME = 60


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The rule's name; the file is NAME.py.")],
    parent: Annotated[
        str, typer.Option("--parent", metavar="RULE", help="The rule to start from.")
    ] = "delta_net",
    folder: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to write into.")] = Path(),
) -> None:
    """Write a commented rule file to start from.

    It passes verification as it is.

    \b
    Example:
      archer new my_rule --parent gated_delta_net
      archer try my_rule.py
    """
    path = write_new(name, parent, folder)
    results().print(str(path))
    print_note(f"edit it, then: archer verify {path} and archer try {path}")


def write_new(name: str, parent: str, folder: Path) -> Path:
    """The template as NAME.py. Raises UserError for a bad name, an unknown parent, or a file that is
    there."""
    from archer.rules.registry import rule_names

    if not name.isidentifier() or not name.isascii() or len(name) > LONGEST_NAME:
        raise UserError(
            f"name '{name}': expected letters, digits and _, at most {LONGEST_NAME}, no digit first"
        )
    if name in rule_names():
        raise UserError(f"name '{name}': there is a built-in rule of this name; choose another")
    if parent not in rule_names():
        raise unknown("rule", parent, rule_names())
    if not folder.is_dir():
        raise UserError(f"--to: there is no folder {folder}; make it first")
    path = folder / f"{name}.py"
    title = name.replace("_", " ").capitalize()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=name, title=title, parent=parent, gamma=FIRST_GAMMA))
    except FileExistsError as error:
        raise UserError(f"{path} is there already; choose another name, or move it away") from error
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    return path
