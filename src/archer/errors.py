"""What went wrong in a way that the user can put right. A leaf: it imports nothing of ours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A problem that the user can fix: the command line prints its message alone and exits with status 2.

    The message says what arrived, what was expected, what to do, and where (file, row, column).
    """


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """An error for `name`, which is no `kind`: gives the nearest match, where there is one, and the choices.

    >>> str(unknown("rule", "delta_nett", ["delta_net", "softmax"]))
    "unknown rule 'delta_nett': did you mean 'delta_net'? Choices: delta_net, softmax"
    """
    known = sorted(str(choice) for choice in choices)
    lowered = {choice.lower(): choice for choice in known}
    near = get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    hint = f": did you mean '{lowered[near[0]]}'?" if near else "."
    listed = f"Choices: {', '.join(known)}" if known else f"There is no {kind} to choose from"
    return UserError(f"unknown {kind} '{name}'{hint} {listed}")


def exit_plainly(main: Callable[[], None]) -> None:
    """Runs a program beside the command line (`benchmarks/`) as that would be run: a UserError is its message
    on standard error and status 2."""
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error
