"""Compiled regions: the parts of a model, each compiled once per shape of one member, for fleets of any size,
and kept on disk between processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from archer.model.backbone import Region

RECOMPILATIONS = 1000
"""How many shapes and rules one process may compile for; PyTorch gives up on a function after 8."""


def compiler() -> Region:
    """Wraps a model's parts so that each is compiled, once per shape (and, for the mixer, per rule)."""
    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    torch._dynamo.config.accumulated_recompile_limit = RECOMPILATIONS
    _keep_custom_gradients()
    return lambda function, name: _compiled(function)


def _keep_custom_gradients() -> None:
    """Lets the cache on disk hold functions with a gradient of their own, as the mixer's are: without, the
    mixer is traced, partitioned and looked up anew by every process. No option of older versions of PyTorch.
    """
    from torch._functorch import config

    if hasattr(config, "autograd_cache_allow_custom_autograd_functions"):
        config.autograd_cache_allow_custom_autograd_functions = True


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(function, dynamic=False)

    def call(*given: Any) -> Any:
        _leave_open_how_many_members(given)
        return compiled(*given)

    return call


def _leave_open_how_many_members(given: Any) -> None:
    """Marks the first axis of all tensors as one that may change: a fleet that shrinks, and one of another
    size, need no compilation of their own. Where a function fixes the number all the same, it is compiled
    anew for another one.
    """
    if isinstance(given, torch.Tensor):
        torch._dynamo.maybe_mark_dynamic(given, 0)
    elif isinstance(given, tuple | dict):
        for one in given.values() if isinstance(given, dict) else given:
            _leave_open_how_many_members(one)
