"""Compiled regions: the parts of a model, each compiled once per shape and kept on disk between processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from archer.fleet.run import Run
from archer.model.backbone import Region

_compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}


def compiler_for(run: Run) -> Region:
    """Wraps a model's parts so that each is compiled: the token mixer once per subject, the rest once for all."""

    def region(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        key = (name, run.group) if name == "mixer" else (name,)
        if key not in _compiled:
            _compiled[key] = torch.compile(function, dynamic=None)
        return _compiled[key]

    return region
