"""Python text that is executed as Python executes a module that it imports."""

from __future__ import annotations

import linecache
import sys
from types import ModuleType
from typing import Any


def executed(source: str, name: str, filename: str) -> dict[str, Any]:
    """The names that a text defines. It runs.

    The module stands among those that are loaded, under its name: torch.compile looks up a function's globals
    there, and dataclasses their annotations. Its lines are found by file name, for tracebacks and `inspect`.
    Raises what the text raises, SyntaxError included; then nothing of it stays loaded.
    """
    code = compile(source, filename, "exec")
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = ModuleType(name)
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module.__dict__
