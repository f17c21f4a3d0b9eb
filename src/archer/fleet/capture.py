"""A training step as one CUDA graph: a small fleet's step is hundreds of short kernels, and starting them one
by one from Python takes longer than running them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from archer.fleet.data import Split
    from archer.fleet.fleet import Fleet

Step = Callable[[Tensor, Tensor], Tensor]
Look = Callable[[Tensor], tuple[Tensor, ...]]
WARM_UP = 3


def captured_step(fleet: Fleet) -> Step:
    """The fleet's `train_step(order, rates) -> losses`, recorded once and replayed.

    Recording runs the step a few times (compilation, workspaces) and puts the state back. The graph belongs
    to these very tensors: a fleet that changes its members needs a new one. What a step returns is written
    over by the next.
    """
    before = fleet.weights.snapshot()
    order, rates = _no_order(fleet), torch.zeros_like(fleet.rates)
    replay = _recorded(lambda: fleet.train_step(order, rates), fleet)
    fleet.weights.restore(before)

    def step(new_order: Tensor, new_rates: Tensor) -> Tensor:
        order.copy_(new_order)
        rates.copy_(new_rates)
        return replay()

    return step


def captured_look(fleet: Fleet, split: Split) -> Look:
    """The fleet's `look(split, order)`, recorded once and replayed; what it returns are copies."""
    order = _no_order(fleet)
    replay = _recorded(lambda: fleet.look(split, order), fleet)

    def look(new_order: Tensor) -> tuple[Tensor, ...]:
        order.copy_(new_order)
        return tuple(x.detach().clone() for x in replay())

    return look


def _no_order(fleet: Fleet) -> Tensor:
    size = fleet.members[0].run.recipe.batch_size
    return torch.zeros(fleet.rows, size, dtype=torch.long, device=fleet.device)


def _recorded(work: Callable[[], Any], fleet: Fleet) -> Callable[[], Any]:
    """Runs some work a few times, records it as a CUDA graph, and gives what replays it.

    A fleet's recordings take turns in one pool of memory, which is as large as the largest: whoever replays
    one has to be done with what it made before the next is replayed.
    """
    stream = _beside(fleet.device)
    stream.wait_stream(torch.cuda.current_stream(fleet.device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream(fleet.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=fleet.pool):
        made = work()

    def replay() -> Any:
        graph.replay()
        return made

    return replay


@cache
def _beside(device: torch.device) -> torch.cuda.Stream:
    """One stream for what comes before all recordings: cuBLAS keeps 32 MiB for each that it has seen."""
    return torch.cuda.Stream(device)
