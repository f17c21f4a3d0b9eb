"""What a candidate must pass before it costs anything, and the walls that contain generated code.

`verify_rule` checks the text of a rule file, `verify_mixer` any sequence mixer; `verify_contained` does
either in a process behind walls. `start` runs any command behind the same walls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archer.verify.contain import Contained, Ending, Limits, Wall, start, walls
    from archer.verify.contained import verify_contained, verify_mixer_contained
    from archer.verify.language import Refused, check_language, load_source
    from archer.verify.reach import reach
    from archer.verify.result import CheckResult, Verification
    from archer.verify.verification import verify_mixer, verify_rule

__all__ = [
    "CheckResult", "Contained", "Ending", "Limits", "Refused", "Verification", "Wall", "check_language",
    "load_source", "reach", "start", "verify_contained", "verify_mixer", "verify_mixer_contained",
    "verify_rule",
    "walls",
]  # fmt: skip

_HOMES = {
    "contain": ("Contained", "Ending", "Limits", "Wall", "start", "walls"),
    "contained": ("verify_contained", "verify_mixer_contained"),
    "language": ("Refused", "check_language", "load_source"),
    "reach": ("reach",),
    "result": ("CheckResult", "Verification"),
    "verification": ("verify_mixer", "verify_rule"),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"archer.verify.{module}"), name)
    raise AttributeError(f"module 'archer.verify' has no attribute {name!r}")
