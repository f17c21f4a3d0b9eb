"""Triton's interpreter, for the tests that run kernels without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def make_the_interpreter_count() -> None:
    """Triton 3.6 makes loop bounds of arrays with one element, which numpy 2.4 refuses: take the element."""
    import triton.runtime.interpreter as interpreter

    original = interpreter._patch_lang_tensor

    def patched(tensor: Any, *given: Any) -> None:
        original(tensor, *given)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = patched


def answer_of(module: str, *arguments: str) -> Any:
    """What a test module says when it is run as a program in Triton's interpreter: its last line, JSON."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
