"""Where all of Archer's Triton kernels are started, and compiled before they are needed.

Triton compiles a kernel when it is first started, one at a time: for a shape that is new to a machine that is
six to fourteen kernels, 4 to 7 s of one core. Two thirds of it are spent outside of Python, so that several
threads do it several times as fast, while the process goes on with what needs no kernel yet.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

MOST_THREADS = 6
"""What is done in Python is done by one of them at a time: more would only wait."""


class _Background:
    """What is compiled in the background, by kernel, and every call that was asked for. only: nothing is
    started at present. fill: what a kernel is called with may be written over."""

    only, fill = False, False
    under_way: ClassVar[dict[int, list[Future[Any]]]] = {}
    asked: ClassVar[set[Any]] = set()


def launch(kernel: Any, grid: tuple[int, ...], *given: Any, **constants: Any) -> None:
    """Starts a Triton kernel over a grid of programs; within `compiled_only`, has it compiled instead."""
    if _Background.only:
        if _Background.fill:
            _fill(given)
        _compile(kernel, given, constants)
        return
    for compiling in _Background.under_way.pop(id(kernel), ()):
        compiling.exception()  # waits; what failed will fail below, where somebody knows what to do
    kernel[grid](*given, **constants)


@contextmanager
def compiled_only(fill: bool = False) -> Iterator[None]:
    """Within, kernels are not started but compiled in the background, for just these kinds and sizes.

    What they would write keeps whatever is in its memory, which nobody may read: a rule that makes an index
    of it would ask a card for what is not there, and no process survives that. fill: all that a kernel is
    called with is filled with small numbers; for copies that are thrown away.
    """
    before = _Background.only, _Background.fill
    _Background.only, _Background.fill = True, fill
    try:
        yield
    finally:
        _Background.only, _Background.fill = before


def _fill(given: tuple[Any, ...]) -> None:
    for x in given:
        if isinstance(x, Tensor) and x.is_floating_point():
            generator = torch.Generator(x.device).manual_seed(0)
            x.data.normal_(0, 0.1, generator=generator)  # by way of `data`, for autograd keeps some of them


def _compile(kernel: Any, given: tuple[Any, ...], constants: dict[str, Any]) -> None:
    device = next(x.device for x in given if isinstance(x, Tensor))
    kinds = [x.dtype if isinstance(x, Tensor) else x for x in given]  # by Triton: any tensor, well aligned
    call = (id(kernel), device, *kinds, *sorted(constants.items()))
    if call in _Background.asked:
        return
    _Background.asked.add(call)

    def work() -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread
        kernel.warmup(*kinds, grid=(1,), **constants)

    _Background.under_way.setdefault(id(kernel), []).append(_threads().submit(work))


@cache
def _threads() -> ThreadPoolExecutor:
    sysconfig.get_config_vars()  # Triton asks for them, and threads may not be the first to do so
    return ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), thread_name_prefix="archer-compile")
