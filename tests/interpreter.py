"""Triton's interpreter, for the tests that run kernels without a GPU."""

from __future__ import annotations

from typing import Any


def make_the_interpreter_count() -> None:
    """Triton 3.6 makes loop bounds of arrays with one element, which numpy 2.4 refuses: take the element."""
    import triton.runtime.interpreter as interpreter

    original = interpreter._patch_lang_tensor

    def patched(tensor: Any, *given: Any) -> None:
        original(tensor, *given)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = patched
